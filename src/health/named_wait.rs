//! A cooldown whose length the provider named.

use crate::base::lock::Held;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::time::Nanos;

/// The last wait that the provider named and that became a deployment's cooldown. It is written under the
/// lock of the deployment's state.
#[derive(Debug, Default)]
pub(crate) struct NamedWait {
    /// When it ends; 0 if there is none.
    until: AtomicU64,
    /// When the provider named it.
    named_at: AtomicU64,
    /// The latest end of a cooldown that began for another reason.
    other_until: AtomicU64,
}

impl NamedWait {
    /// Notes a wait that was named at `now`, unless an earlier one ends as late.
    pub(crate) fn note(&self, _: &Held<'_>, now: Nanos, wait: Nanos) {
        let until = now.saturating_add(wait);
        if until > self.until.load(Ordering::Relaxed) {
            self.until.store(until, Ordering::Relaxed);
            self.named_at.store(now, Ordering::Relaxed);
        }
    }

    /// Returns whether it is the cooldown that ends at `cooldown_until`, and a request that was sent at
    /// `sent_at` was sent after the provider named it. An answer to such a request is newer.
    pub(crate) fn is_older(&self, cooldown_until: Nanos, sent_at: Nanos) -> bool {
        self.is(cooldown_until) && self.named_at.load(Ordering::Relaxed) < sent_at
    }

    /// Returns whether it is the cooldown that ends or ended at `cooldown_until`.
    pub(crate) fn is(&self, cooldown_until: Nanos) -> bool {
        cooldown_until != 0 && self.until.load(Ordering::Relaxed) == cooldown_until
    }

    /// Notes a cooldown until `until` that began for another reason.
    pub(crate) fn note_other(&self, _: &Held<'_>, until: Nanos) {
        self.other_until.store(self.other_until().max(until), Ordering::Relaxed);
    }

    /// Returns the latest end of a cooldown that began for another reason.
    pub(crate) fn other_until(&self) -> Nanos {
        self.other_until.load(Ordering::Relaxed)
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        for word in [&self.until, &self.named_at, &self.other_until] {
            word.store(0, Ordering::Relaxed);
        }
    }
}
