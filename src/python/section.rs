//! Sections: work of the core that runs without the GIL, and may hold the core's locks meanwhile.
//!
//! A section never asks for the GIL: a thread that holds the GIL may be waiting for one of its locks. So it
//! runs no Python code. It may let go of a Python object, for which `PyO3` waits until some thread has the
//! GIL.
//!
//! All other work of the core runs with the GIL, and keeps it for as long as it holds a lock. Two things rest
//! on that, and here they are held for sections too:
//!
//! - A fork copies no lock that is held. A section begins with the GIL, and not while a thread is about to
//!   fork. That thread waits until no section runs. Then it forks, with the GIL.
//! - The garbage collector looks at a router twice, and must see the same objects. While a section runs, it
//!   sees none: see [`runs`].
//!
//! A build without the GIL stops all threads for a fork and for the collector, at places where they hold no
//! lock. Only sections are not stopped. So there the same holds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;

/// Work on fewer deployments than this takes less time than it may take to get the GIL back.
pub(super) const MANY: u32 = 1_000;

/// How long a thread that is about to fork sleeps between two looks.
const EACH: Duration = Duration::from_millis(1);

/// How many sections run. It grows only with the GIL.
static RUNNING: AtomicUsize = AtomicUsize::new(0);
/// How many threads are about to fork. Until they have, no section begins.
static FORKING: AtomicUsize = AtomicUsize::new(0);

/// A section runs for as long as this lives.
struct Running(());

impl Running {
    /// Begins a section. None if a thread is about to fork.
    fn begin() -> Option<Self> {
        // Sequentially consistent, as is the other side: either this thread sees that one, or is seen by it.
        RUNNING.fetch_add(1, Ordering::SeqCst);
        let running = Self(());
        (FORKING.load(Ordering::SeqCst) == 0).then_some(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Works, and gives up the GIL if the work is long. It also gives it up while a section runs, since the work
/// may have to wait for a lock of that section.
pub(super) fn work<R: Send>(py: Python<'_>, is_long: bool, work: impl FnOnce() -> R + Send) -> R {
    if !is_long && !runs() {
        return work();
    }
    let Some(running) = Running::begin() else { return work() };
    py.detach(|| {
        // It ends with the work, before this thread waits for the GIL.
        let _running = running;
        work()
    })
}

/// Returns whether a section runs. If so, an object that is traversed for the garbage collector shows none of
/// the references that a section may hide or move. What the collector finds at the first of its looks and
/// misses at the second is garbage to it, and it runs the finalizer. What it misses at both lives on.
pub(super) fn runs() -> bool {
    RUNNING.load(Ordering::SeqCst) > 0
}

/// Waits until no section runs, and lets none begin.
pub(super) fn before_fork(py: Python<'_>) {
    FORKING.fetch_add(1, Ordering::SeqCst);
    if runs() {
        py.detach(|| {
            while runs() {
                thread::sleep(EACH);
            }
        });
    }
}

/// Lets sections begin again, in the process that has forked.
pub(super) fn after_fork_in_parent() {
    FORKING.fetch_sub(1, Ordering::SeqCst);
}

/// Lets sections begin, in a forked child. Other threads that were about to fork are the parent's.
pub(super) fn after_fork_in_child() {
    FORKING.store(0, Ordering::SeqCst);
}
