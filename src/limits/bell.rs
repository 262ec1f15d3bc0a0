//! A bell that wakes the carrier of a talk with a store.

use std::sync::{Arc, Condvar, PoisonError};
use std::time::Duration;

use crate::base::sync::{Mutex, hold};

/// Wakes the carrier. It is no part of a schedule: it only makes the carrier look earlier.
///
/// The bell lies behind a lock, so that a forked child gets another: a thread of the parent may have held
/// this one's.
#[derive(Debug, Default)]
pub(super) struct Bell(Mutex<Arc<Rung>>);

#[derive(Debug, Default)]
struct Rung {
    has_rung: std::sync::Mutex<bool>,
    rung: Condvar,
}

impl Bell {
    /// Wakes the carrier.
    pub(super) fn ring(&self) {
        let bell = self.get();
        let mut has_rung = bell.has_rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !*has_rung {
            *has_rung = true;
            bell.rung.notify_all();
        }
    }

    /// Returns whether somebody has rung since the last look.
    pub(super) fn take_ring(&self) -> bool {
        std::mem::take(&mut *self.get().has_rung.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sleeps until somebody rings, at most for this long. Returns whether somebody rang.
    #[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python has carriers that sleep"))]
    pub(super) fn sleep(&self, at_most: Duration) -> bool {
        let bell = self.get();
        let has_rung = bell.has_rung.lock().unwrap_or_else(PoisonError::into_inner);
        let sleep = bell.rung.wait_timeout_while(has_rung, at_most, |has_rung| !*has_rung);
        std::mem::take(&mut *sleep.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Takes another bell, in a forked child.
    pub(super) fn renew(&self) {
        *hold(&self.0) = Arc::default();
    }

    fn get(&self) -> Arc<Rung> {
        Arc::clone(&hold(&self.0))
    }
}
