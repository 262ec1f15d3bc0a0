//! The effects of a fork. A child has a copy of all memory, but only one thread: the one that forked.
//! Requests in flight, requests that wait and threads that tell events belong to the parent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, Weak};

/// The number of forks on the way to this process, as far as [`after_fork`] was told of them.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Objects that must be put in order in a child at once. All others compare [`forks`] when they are next
/// used.
static TO_TELL: Mutex<Vec<Weak<dyn Forks>>> = Mutex::new(Vec::new());

/// Has something to put in order in a forked child.
pub(crate) trait Forks: Send + Sync {
    /// Puts it in order. No other thread runs.
    fn after_fork(&self);
}

/// Returns the number of forks on the way to this process.
#[inline]
pub(crate) fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Registers an object that is told of forks for as long as it lives.
pub(crate) fn tell(of_forks: Weak<dyn Forks>) {
    let mut to_tell = TO_TELL.lock().unwrap_or_else(PoisonError::into_inner);
    to_tell.retain(|other| other.strong_count() > 0);
    to_tell.push(of_forks);
}

/// Tells all routers that they run in a new process. Nothing is in flight there, no deployment on probation
/// is being tried, and no request waits. Call it in a forked child, before its first other thread.
pub fn after_fork() {
    note_fork();
    // A copy: an object may be dropped while they are told, and no lock may be held then.
    let to_tell: Vec<_> = TO_TELL.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
    for other in to_tell {
        other.after_fork();
    }
}

/// Notes a fork, and tells no router.
pub(crate) fn note_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, RwLock};

    use super::*;

    /// A test that notes a fork holds it alone. Tests that must not hear of a fork share it.
    pub(crate) static FORKING: RwLock<()> = RwLock::new(());

    #[test]
    fn who_lives_is_told() {
        struct Told(AtomicU64);
        impl Forks for Told {
            fn after_fork(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let _forking = FORKING.write().unwrap_or_else(PoisonError::into_inner);
        let (one, other) = (Arc::new(Told(AtomicU64::new(0))), Arc::new(Told(AtomicU64::new(0))));
        for told in [&one, &other] {
            let told: Weak<Told> = Arc::downgrade(told);
            tell(told);
        }
        drop(other);
        after_fork();
        assert_eq!(one.0.load(Ordering::Relaxed), 1);
    }
}
