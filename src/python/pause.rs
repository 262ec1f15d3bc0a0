//! Pauses in long loops that make or drop Python objects. In a pause the interpreter does what it does
//! between two steps of Python code: it lets another thread run whose turn has come, and runs the handlers of
//! signals.

use pyo3::prelude::*;

use super::modules;

/// How many objects are made or dropped between two pauses: some tenths of a millisecond.
const EVERY: usize = 1_000;

/// Makes a pause, if one is due after this many objects. No lock may be held.
///
/// # Errors
/// If the handler of a signal raises.
#[inline]
pub(super) fn after(py: Python<'_>, objects: usize) -> PyResult<()> {
    // Giving up the GIL would not do: this thread would often have it back before another is awake.
    if objects == 0 || !objects.is_multiple_of(EVERY) { Ok(()) } else { modules::PAUSE.call1(py, ()).map(drop) }
}

/// Drops objects.
///
/// # Errors
/// If the handler of a signal raises. The rest is dropped then.
pub(super) fn drop_all<T>(py: Python<'_>, objects: Vec<T>) -> PyResult<()> {
    objects.into_iter().enumerate().try_for_each(|(dropped, object)| {
        drop(object);
        after(py, dropped)
    })
}
