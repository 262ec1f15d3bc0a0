//! The counters of deployments: one [`State`] each, a block of atomics, addressed by its [`Slot`] in a table.
//!
//! Nothing else holds counters, and a block holds nothing but counters: that is what lets them move into
//! memory shared by processes. A block outlives its deployment for as long as a lease on it lives, and is
//! then used again.
//!
//! Anyone may read a block at any time. Writers take the block's lock, for a few nanoseconds in which nothing
//! else runs. So others see a reservation in three dimensions whole or not at all. A rollback between
//! separate atomics would show them counts that nobody has.
//!
//! A pick reads the first cache line of a block alone. What few deployments need lies apart: their counters
//! in the [annex](block::Annex), and which of them are in use in the *marks* of the block ([`mark`]).

mod block;
mod table;

pub(crate) use block::{State, mark};
pub(crate) use table::{Slot, StateTable};
