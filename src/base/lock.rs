//! A lock beside the words that it guards, and the proof that the caller holds it.

use super::sync::{Mutex, MutexGuard, hold};

/// A lock without a value of its own. The words that it guards lie beside it. Their owner writes them only
/// with a [`Held`] at hand. Any thread may read them at any time.
#[derive(Debug, Default)]
pub(crate) struct Lock(Mutex<()>);

/// Proof that the caller holds the lock of a deployment's counters.
pub(crate) struct Held<'a>(#[allow(dead_code, reason = "held, not read")] MutexGuard<'a, ()>);

impl Lock {
    /// Takes the lock.
    #[inline]
    pub(crate) fn hold(&self) -> Held<'_> {
        Held(hold(&self.0))
    }
}
