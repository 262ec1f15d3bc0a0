//! Exceptions of signals' handlers that come up while the core calls Python on somebody else's behalf: while
//! it rings for a waiter, tells an event or reads an exception.
//!
//! Nothing there may be left half done. So the exception is kept, and the method of the package that was
//! interrupted raises it in the end.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;

use super::modules;

thread_local! {
    static KEPT: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// How many threads keep one. A method that was not interrupted reads this and nothing more.
static KEEPING: AtomicUsize = AtomicUsize::new(0);

/// Keeps an exception if a signal's handler has raised it. Returns it otherwise, or
/// if one is kept already.
pub(crate) fn keep(py: Python<'_>, error: PyErr) -> Result<(), PyErr> {
    let facts = (error.value(py), error.traceback(py));
    let interrupts = modules::IS_INTERRUPTION.call1(py, facts).and_then(|answer| answer.is_truthy());
    if !interrupts.unwrap_or(false) {
        return Err(error);
    }
    KEPT.with_borrow_mut(|kept| {
        if kept.is_some() {
            return Err(error);
        }
        *kept = Some(error);
        KEEPING.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })
}

/// Returns the result of a method, or raises the exception that was kept meanwhile.
#[inline]
pub(crate) fn after<T>(result: Result<T, impl Into<PyErr>>) -> PyResult<T> {
    if KEEPING.load(Ordering::Relaxed) == 0 { result.map_err(Into::into) } else { raise_or(result) }
}

/// Returns the value of a method, or raises the exception that was kept meanwhile.
#[inline]
pub(crate) fn done<T>(value: T) -> PyResult<T> {
    after(Ok::<_, PyErr>(value))
}

#[cold]
fn raise_or<T>(result: Result<T, impl Into<PyErr>>) -> PyResult<T> {
    match KEPT.take() {
        Some(kept) => {
            KEEPING.fetch_sub(1, Ordering::Relaxed);
            Err(kept)
        }
        None => result.map_err(Into::into),
    }
}
