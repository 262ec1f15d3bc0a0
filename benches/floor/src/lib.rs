//! The time that Python takes for a native call that does nothing: the floor under every figure of
//! `benches/compare.py`.
//!
//! The class is made as turnout's own classes are: it is frozen, takes arguments as any object and checks
//! them, and returns results that it holds already. So a figure less this floor is the work of turnout,
//! without the way from Python through `PyO3` and back.

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

        /// Takes a str, reads its text and returns a str that is at hand: the least that `select` would have
        /// to do.
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
