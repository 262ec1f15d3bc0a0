//! What a fork changes. A child has a copy of everything, but only the thread that forked: the requests in
//! flight, those that wait and those that tell events are its parent's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, Weak};

/// How many times this process, or one that it descends from, was forked, as far as [`after_fork`] was told.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// What is to be put in order in a child at once. The rest compares [`forks`] when it is next used.
static TO_TELL: Mutex<Vec<Weak<dyn Forks>>> = Mutex::new(Vec::new());

/// Has something to put in order in a forked child.
pub(crate) trait Forks: Send + Sync {
    /// Puts it in order. No other thread runs.
    fn after_fork(&self);
}

/// Returns how many times this process, or one that it descends from, was forked.
#[inline]
pub(crate) fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Lets somebody be told of forks for as long as it lives.
pub(crate) fn tell(of_forks: Weak<dyn Forks>) {
    let mut to_tell = TO_TELL.lock().unwrap_or_else(PoisonError::into_inner);
    to_tell.retain(|other| other.strong_count() > 0);
    to_tell.push(of_forks);
}

/// Tells all routers that they run in a new process: nothing is in flight there, no deployment on probation
/// is being tried, and nobody waits. Call it in a forked child, before its first other thread.
pub fn after_fork() {
    note_fork();
    // A copy: what is told may end somebody.
    let to_tell: Vec<_> = TO_TELL.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
    for other in to_tell {
        other.after_fork();
    }
}

/// Notes a fork, and tells nobody.
pub(crate) fn note_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, RwLock};

    use super::*;

    /// Held by tests that say there was a fork, and shared by those that must not hear of one.
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
