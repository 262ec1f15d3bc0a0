//! The door between the core and Python, which the end of the interpreter closes.
//!
//! `CPython` before 3.14 ends a daemon thread that asks for the GIL while the interpreter ends: it unwinds
//! the thread's stack. The unwinding must not meet a frame of Rust, or the process aborts. A thread without
//! Python code above the core is safe: `PyO3` lets it sleep for good instead. So a thread goes through this
//! door before the core runs Python code. An exit hook closes the door, and waits for the threads that are
//! inside.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// How often a thread that wants to close the door counts who is inside, and how many times at most: a
/// second.
const EACH: Duration = Duration::from_millis(1);
const LOOKS: u32 = 1_000;

/// How many times threads are inside. One thread may be inside several times.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
static IS_CLOSED: AtomicBool = AtomicBool::new(false);
/// The thread that ends the interpreter. It goes on running Python.
static ENDING: OnceLock<ThreadId> = OnceLock::new();

thread_local! {
    /// How many times this thread is inside.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// A thread is inside for as long as this lives.
pub(crate) struct Inside(());

/// Lets this thread run Python code from the core. None once the interpreter ends, unless the thread is
/// inside already.
pub(crate) fn enter() -> Option<Inside> {
    let depth = DEPTH.with(|depth| depth.replace(depth.get() + 1));
    // Sequentially consistent, as is the closing: either this thread sees the closed door, or the thread that
    // closes it sees this one.
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let inside = Inside(());
    let is_barred = depth == 0 && IS_CLOSED.load(Ordering::SeqCst) && ENDING.get() != Some(&thread::current().id());
    (!is_barred).then_some(inside)
}

/// Runs something that may run Python code.
///
/// # Errors
/// A `RuntimeError` if the interpreter ends. It is a class of C: no Python code runs for it.
pub(crate) fn inside<R>(run: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    let _inside = enter().ok_or_else(|| PyRuntimeError::new_err("the interpreter is ending"))?;
    run()
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Lets only this thread in from now on, and waits for the others that are inside, but no longer than a
/// second.
pub(crate) fn close(py: Python<'_>) {
    let mine = DEPTH.with(Cell::get);
    ENDING.get_or_init(|| thread::current().id());
    IS_CLOSED.store(true, Ordering::SeqCst);
    py.detach(|| {
        for _ in 0..LOOKS {
            if INSIDE.load(Ordering::SeqCst) <= mine {
                break;
            }
            thread::sleep(EACH);
        }
    });
}

/// Forgets the threads of the parent, in a forked child.
pub(crate) fn after_fork() {
    INSIDE.store(DEPTH.with(Cell::get), Ordering::SeqCst);
}
