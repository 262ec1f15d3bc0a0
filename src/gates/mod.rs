//! The gates as a pick meets them: the checks, the refusals with their words, and the room that limits leave.
//!
//! One table lists the gates in their order: `base::gate`. [`check`](self::check()) runs them, in a walk and
//! under the lock of a reservation. [`leaf`] runs them for the index.

mod check;
mod leaf;
mod live;
mod refusal;
mod room;

pub(crate) use check::{Waived, check, is_wished};
pub(crate) use live::{Live, routing_context};
pub(crate) use refusal::Lacks;
pub use refusal::Refusal;
pub(crate) use room::{available_at, exceeded};
