//! A bell that the end of a lease rings, to wake the requests that wait for its place. They stand on a floor
//! far above, which a lease must not import.

use std::sync::{Arc, OnceLock, Weak};

use super::labels::Labels;
use super::sync::atomic::{AtomicUsize, Ordering};

/// Wakes requests that wait for capacity. The caller holds no lock of a group, of counters or of a clock.
pub(crate) trait Wakes: Send + Sync {
    /// Wakes requests for a model name. `freed` are the id and the labels of the deployment that may have
    /// capacity; None if that may be any of the group. `quotas` are the serial numbers of its quotas that let
    /// requests through. Requests that one of these has stopped are woken too.
    fn wake(&self, model_name: &str, freed: Option<(&Arc<str>, Labels<'_>)>, quotas: &[u64]);

    /// Wakes requests for every model name: deployments or options have changed.
    fn wake_all(&self);
}

/// The bell at the door of the waiting room.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    /// The number of requests that wait, for any model name. It changes under the lock of the waiting room.
    waiting: AtomicUsize,
    /// The waiting room, which knows these requests.
    room: OnceLock<Weak<dyn Wakes>>,
}

impl Doorbell {
    /// Lets the bell ring in a waiting room.
    pub(crate) fn connect(&self, room: Weak<dyn Wakes>) {
        // A router has one waiting room, which is connected when the router is made.
        let _ = self.room.set(room);
    }

    /// Returns whether a request waits, for any model name.
    #[inline]
    pub(crate) fn is_waited_at(&self) -> bool {
        // Relaxed: the lock of the group's index orders it where it matters (see `wait`).
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// Counts one more request that waits.
    pub(crate) fn enter(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one request less that waits.
    pub(crate) fn leave(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Forgets all requests that wait.
    pub(crate) fn clear(&self) {
        self.waiting.store(0, Ordering::Relaxed);
    }

    /// Rings: passes the waiting room to `call`. The caller holds no lock.
    #[cold]
    pub(crate) fn ring(&self, call: impl FnOnce(&dyn Wakes)) {
        if let Some(room) = self.room.get().and_then(Weak::upgrade) {
            call(&*room);
        }
    }
}
