//! How the end of a lease finds the requests that wait for its place, from a floor far below them.

use std::sync::{OnceLock, Weak};

use super::sync::atomic::{AtomicUsize, Ordering};

/// Wakes requests that wait for capacity. No lock of a group, of counters or of a clock may be held.
pub(crate) trait Wakes: Send + Sync {
    /// Wakes for a model name: some capacity of its group may be free.
    fn wake(&self, model_name: &str);

    /// Wakes for a model name, and for all requests that a quota has stopped.
    fn wake_with_quotas(&self, model_name: &str);

    /// Wakes for every model name: deployments or options have changed.
    fn wake_all(&self);
}

/// The bell at the door of the waiting room.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    /// How many requests wait, for any model name. Changed under the lock of the waiting room.
    waiting: AtomicUsize,
    /// The waiting room, which knows who they are.
    room: OnceLock<Weak<dyn Wakes>>,
}

impl Doorbell {
    /// Lets the bell ring in a waiting room.
    pub(crate) fn connect(&self, room: Weak<dyn Wakes>) {
        // There is one waiting room a router, connected when the router is made.
        let _ = self.room.set(room);
    }

    /// Returns whether anybody waits, for any model name.
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

    /// Forgets all that wait.
    pub(crate) fn clear(&self) {
        self.waiting.store(0, Ordering::Relaxed);
    }

    /// Calls those who wait. No lock may be held.
    #[cold]
    pub(crate) fn ring(&self, call: impl FnOnce(&dyn Wakes)) {
        if let Some(room) = self.room.get().and_then(Weak::upgrade) {
            call(&*room);
        }
    }
}
