//! The gates as a pick meets them: what stops a deployment, in which words, and what is left behind them.
//!
//! Which gates there are, and in which order, says one table: `base::gate`. [`check`](self::check()) runs
//! them, in a walk and under the lock of a reservation. [`leaf`] runs them for the index.

mod check;
mod leaf;
mod live;
mod refusal;
mod room;

pub(crate) use check::{Waived, check, is_wished};
pub(crate) use live::{Live, routing_context};
pub use refusal::Refusal;
pub(crate) use room::{available_at, exceeded};
