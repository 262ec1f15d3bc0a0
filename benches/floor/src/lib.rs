//! What Python takes for a native call that does nothing: the floor under every figure of
//! `benches/compare.py`.
//!
//! The class is made as turnout's own are: frozen, arguments taken as any object and checked, results that it
//! holds already. So a figure less this floor is what turnout does, and not what Python and `PyO3` take to
//! get there and back.

#![forbid(unsafe_code)]

/// The module that Python imports.
#[pyo3::pymodule]
mod turnout_floor {
    use pyo3::prelude::*;
    use pyo3::types::PyString;

    /// Does nothing, by a call or as a context manager.
    #[pyclass(module = "turnout_floor", frozen)]
    struct Floor {
        held: Py<PyString>,
    }

    #[pymethods]
    impl Floor {
        #[new]
        fn new(py: Python<'_>) -> Self {
            Self { held: PyString::new(py, "held").unbind() }
        }

        /// Take a str, read its text and return a str that is at hand: what the least `select` would have to
        /// do.
        #[pyo3(signature = (text, /))]
        fn call(&self, text: &Bound<'_, PyAny>) -> PyResult<Py<PyString>> {
            text.cast::<PyString>()?.to_str()?;
            Ok(self.held.clone_ref(text.py()))
        }

        fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
            slf
        }

        #[pyo3(signature = (exc_type, exc, traceback, /))]
        #[allow(clippy::unused_self)] // Python calls it with one
        fn __exit__(&self, exc_type: &Bound<'_, PyAny>, exc: &Bound<'_, PyAny>, traceback: &Bound<'_, PyAny>) -> bool {
            let _ = (exc_type, exc, traceback);
            false
        }
    }
}
