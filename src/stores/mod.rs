//! What keeps the books for many processes.
//!
//! A *store* handles a batch of messages and answers each. The ledger of this folder is a file, for the
//! processes of one host. Nothing but the books decides what a message comes to.

#[cfg(unix)]
mod cells;
#[cfg(unix)]
mod fault;
#[cfg(unix)]
mod half;
#[cfg(unix)]
mod ledger;
#[cfg(unix)]
mod lives;
#[cfg(unix)]
mod place;
#[cfg_attr(not(unix), allow(dead_code, reason = "only the file asks who lives"))]
mod process;

#[cfg(unix)]
pub(crate) use fault::Lost;
#[cfg(unix)]
pub(crate) use ledger::FileLedger;
#[cfg(unix)]
pub(crate) use place::Place;
pub(crate) use process::Identity;
