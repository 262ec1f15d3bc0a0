//! What the Python half of the package defines.

use pyo3::prelude::*;
use pyo3::types::PyString;

/// Returns a class or a function of a module of the Python half.
///
/// Its names are interned. The interpreter keeps the names that it looked up in a cache of 4,096 places, by
/// their address: new strings would fill it one by one.
pub(crate) fn member<'py>(py: Python<'py>, module: &str, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import(PyString::intern(py, module))?.getattr(PyString::intern(py, name))
}
