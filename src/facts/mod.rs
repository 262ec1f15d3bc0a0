//! Facts that applications give: deployments, requests and options.

mod deployment;
mod options;
mod price;
mod request;

pub use deployment::Deployment;
pub use options::{Learning, Waiting};
pub use price::{Price, Size};
pub use request::{Request, Wishes};
