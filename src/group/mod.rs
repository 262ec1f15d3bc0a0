//! The deployments of one model name, each with all that belongs to it.

mod entry;
mod members;
mod services;
mod stats;
mod tags;

pub use entry::{Attachment, Entry};
pub(crate) use entry::{Heir, Home};
pub use members::Removed;
pub(crate) use members::{Group, Places, too_many};
pub(crate) use services::Services;
pub use stats::{Metrics, Stats};
