//! Exceptions of signals' handlers that come up while the core calls Python for another purpose: while it
//! rings for a waiter, tells an event or reads an exception.
//!
//! None of this may be left half done. So the exception is kept, and the interrupted method of the package
//! raises it at its end.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;

use super::modules;

thread_local! {
    static KEPT: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// How many threads keep an exception. A method that was not interrupted reads this and nothing more.
static KEEPING: AtomicUsize = AtomicUsize::new(0);

/// How often it is asked what an exception is, where handlers raise meanwhile.
const TRIES: u8 = 3;

/// Keeps an exception if a signal's handler has raised it. Otherwise returns it. Also returns it if another
/// exception is kept already.
pub(crate) fn keep(py: Python<'_>, error: PyErr) -> Result<(), PyErr> {
    if interrupts(py, &error, TRIES) { store(error) } else { Err(error) }
}

/// Asks whether a signal's handler has raised an exception. Python runs for that, so that a handler may raise
/// another one. That one is kept as well.
fn interrupts(py: Python<'_>, error: &PyErr, tries: u8) -> bool {
    let facts = (error.value(py), error.traceback(py));
    match modules::IS_INTERRUPTION.call1(py, facts).and_then(|answer| answer.is_truthy()) {
        Ok(answer) => answer,
        Err(_) if tries == 0 => false,
        Err(meanwhile) => {
            if interrupts(py, &meanwhile, tries - 1)
                && let Err(meanwhile) = store(meanwhile)
            {
                meanwhile.write_unraisable(py, None);
            }
            interrupts(py, error, tries - 1)
        }
    }
}

fn store(error: PyErr) -> Result<(), PyErr> {
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
