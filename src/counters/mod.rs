//! The counters of deployments: one [`State`] each, a block of atomics, addressed by its [`Slot`] in a table.
//!
//! A block holds nothing but counters. A block outlives its deployment for as long as a lease on it lives. It
//! is then used again. Limits beside those of the minute, and quotas, are counted by meters of their own: see
//! `limits`.
//!
//! Any thread may read a block at any time. Writers hold the block's lock for a few nanoseconds and do
//! nothing else meanwhile. A reservation takes a place, a request and its tokens. Others that hold the lock
//! see all three or none. A rollback between separate atomics would show them counts that no request has
//! made.
//!
//! For most deployments a pick reads only the first cache line of a block. Counters that few deployments need
//! lie apart, in the [annex](block::Annex). The *marks* of the block ([`mark`]) say which of these are in
//! use.

mod block;
mod table;

pub(crate) use block::{State, mark};
pub(crate) use table::{Slot, StateTable};
