//! The class `Lease`.

use pyo3::exceptions::{PyGeneratorExit, PyResourceWarning, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::args::{Kind, Tokens, flag, latency_us, length, optional};
use super::deployment::PyDeployment;
use crate::health::FailureKind;
use crate::lease::Lease;

/// One acquired place on a deployment: a request in flight, counted in its minute's window together with its estimated tokens.
#[pyclass(name = "Lease", module = "turnout", frozen)]
pub(crate) struct PyLease(pub(crate) Lease<Py<PyDeployment>>);

#[pymethods]
impl PyLease {
    /// The chosen deployment, the very object that was given to the router.
    #[getter]
    fn deployment<'py>(&self, py: Python<'py>) -> &Bound<'py, PyDeployment> {
        self.0.attachment().bind(py)
    }

    /// The id of the chosen deployment.
    #[getter]
    fn deployment_id<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        self.0.attachment().get().id.bind(py)
    }

    /// The model name whose group was asked (an alias is resolved).
    #[getter]
    fn model_name(&self) -> &str {
        self.0.deployment().model_name()
    }

    /// The tokens reserved at acquire.
    #[getter]
    fn tokens(&self) -> u64 {
        self.0.tokens()
    }

    /// Whether the lease has ended.
    #[getter]
    fn released(&self) -> bool {
        self.0.has_ended()
    }

    /// End the lease with a success.
    #[pyo3(signature = (tokens=None, latency=None))]
    fn success(&self, tokens: Option<Tokens>, latency: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let latency_us = optional(latency, latency_us)?;
        Ok(self.0.success(tokens.map(|tokens| tokens.0), latency_us))
    }

    /// End the lease with a failure. What it reserved stays in the window, since the provider may have counted it.
    #[pyo3(signature = (kind=Kind(FailureKind::Error), retry_after=None), text_signature = "($self, kind='error', retry_after=None)")]
    fn failure(&self, kind: Kind, retry_after: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let retry_after = optional(retry_after, |seconds| length("retry_after", seconds))?;
        Ok(self.0.failure(kind.0, retry_after))
    }

    /// End the lease without an outcome: the deployment's health does not change.
    #[pyo3(signature = (unused=None), text_signature = "($self, unused=False)")]
    fn release(&self, unused: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        Ok(self.0.release(unused.map_or(Ok(false), |unused| flag("unused", unused))?))
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (exc_type, exc, traceback, /))]
    fn __exit__(&self, exc_type: &Bound<'_, PyAny>, exc: &Bound<'_, PyAny>, traceback: &Bound<'_, PyAny>) -> bool {
        let _ = traceback;
        if exc_type.is_none() {
            self.0.success(None, None);
        } else if exc.is_instance_of::<PyGeneratorExit>() {
            // Not left to Python: a generator may be closed by an interpreter that shuts down and runs no more of it.
            self.0.release(false);
        } else if !self.0.has_ended() {
            match classify(exc) {
                Ok(Some((kind, retry_after))) => self.0.failure(kind, retry_after),
                Ok(None) => self.0.release(false),
                Err(error) => {
                    // The caller's exception must get through, whatever is wrong with it.
                    error.write_unraisable(exc.py(), Some(exc));
                    self.0.failure(FailureKind::Error, None)
                }
            };
        }
        false
    }

    fn __aenter__(slf: Bound<'_, Self>) -> Ready {
        Ready(slf.into_any().unbind())
    }

    #[pyo3(signature = (exc_type, exc, traceback, /))]
    fn __aexit__(
        &self,
        py: Python<'_>,
        exc_type: &Bound<'_, PyAny>,
        exc: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Ready> {
        let result = self.__exit__(exc_type, exc, traceback);
        Ok(Ready(result.into_pyobject(py)?.to_owned().into_any().unbind()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // While the router has the deployment too, the reference to it is the router's.
        self.0.own_attachment().map_or(Ok(()), |deployment| visit.call(deployment))
    }

    fn __repr__(&self) -> String {
        let deployment = self.0.deployment();
        let state = if self.0.has_ended() { "ended" } else { "in flight" };
        format!("<Lease on {:?} of {:?}, {} tokens, {state}>", deployment.id(), deployment.model_name(), self.0.tokens())
    }
}

impl Drop for PyLease {
    fn drop(&mut self) {
        if self.0.release(false) {
            // None while the interpreter shuts down: there is nobody left to warn.
            Python::try_attach(|py| {
                // Whoever drops the lease may be on the way out with an exception of their own.
                let pending = PyErr::take(py);
                let message = format!("{:?} was lost without release: use it as a context manager", self.0.deployment().id());
                let warned = std::ffi::CString::new(format!("a lease on {message}"))
                    .map_err(PyErr::from)
                    .and_then(|message| PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &message, 1));
                if let Err(error) = warned {
                    error.write_unraisable(py, None);
                }
                if let Some(pending) = pending {
                    pending.restore(py);
                }
            });
        }
    }
}

/// What an exception says: a failure with its kind and the provider's wait, or None for no outcome.
fn classify(exc: &Bound<'_, PyAny>) -> PyResult<Option<(FailureKind, Option<u64>)>> {
    let outcome = exc.py().import("turnout.outcomes")?.getattr("classify_exception")?.call1((exc,))?;
    let Some((kind, retry_after)) = outcome.extract::<Option<(Kind, Option<Bound<'_, PyAny>>)>>()? else { return Ok(None) };
    Ok(Some((kind.0, optional(retry_after.as_ref(), |seconds| length("retry_after", seconds))?)))
}

/// An awaitable that has its result already: nothing in a lease ever waits.
#[pyclass(module = "turnout._core", frozen)]
struct Ready(Py<PyAny>);

#[pymethods]
impl Ready {
    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<()> {
        Err(PyStopIteration::new_err(self.0.clone_ref(py)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}
