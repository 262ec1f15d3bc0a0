//! The class `Lease`.

use pyo3::exceptions::{PyGeneratorExit, PyResourceWarning, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::args::{Kind, Split, Tokens, flag, latency_us, length, optional, scope, split};
use super::attached::Attached;
use super::deployment::PyDeployment;
use super::errors::undisturbed;
use super::said::{read_headers, said_from};
use super::{door, interrupt, modules, section};
use crate::base::error::Error;
use crate::base::time::{Nanos, seconds};
use crate::health::{FailureKind, Scope};
use crate::lease::Lease;
use crate::limits::Observed;

/// One acquired place on a deployment: a request in flight, counted in its minute's window together with its
/// estimated tokens.
#[pyclass(name = "Lease", module = "turnout", frozen)]
pub(crate) struct PyLease {
    lease: Lease<Attached>,
    /// A reference of its own, so that the garbage collector sees which object holds which. The reference in
    /// the attachment is the router's. A deployment that leads to no other object is in no cycle and needs
    /// none.
    own: Option<Py<PyDeployment>>,
}

impl PyLease {
    pub(crate) fn new(py: Python<'_>, lease: Lease<Attached>) -> Self {
        let attached = lease.attachment();
        Self { own: attached.leads_on.then(|| attached.deployment.clone_ref(py)), lease }
    }

    /// Hands a lease out. If the call was interrupted, raises that instead and gives the lease back: no code
    /// would see it.
    #[inline]
    pub(crate) fn hand_out(lease: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        interrupt::done(()).inspect_err(|_| lease.get().give_back())?;
        Ok(lease)
    }

    #[cold]
    fn give_back(&self) {
        self.lease.release(true);
    }

    /// Releases it after it was used in part.
    #[cold]
    fn release_used(&self, unused: bool, (tokens, split): Split) -> PyResult<bool> {
        let ended = match tokens {
            Some(tokens) if unused => {
                let message = format!("unused must not be True together with tokens ({tokens}): what was used is not unused");
                return Err(Error::Configuration(message).into());
            }
            Some(tokens) => self.lease.release_used(tokens, split),
            None => self.lease.release(unused),
        };
        interrupt::done(ended)
    }
}

impl PyLease {
    /// Ends the lease by an exception that leaves its block. Returns the kind of the failure and the wait
    /// that the provider named.
    #[cold]
    #[inline(never)]
    fn fail(&self, exc: &Bound<'_, PyAny>) -> (Option<FailureKind>, Option<Nanos>) {
        if exc.is_instance_of::<PyGeneratorExit>() {
            // This is not left to Python: an interpreter that shuts down may close a generator and runs no
            // more of its code.
            self.lease.release(false);
            return (None, None);
        }
        let learns = self.lease.learns_from_headers();
        // If the reading is interrupted, the exception is read once more: its lease must still learn of it.
        let reading = read(exc, learns).or_else(|error| interrupt::keep(exc.py(), error).and_then(|()| read(exc, learns)));
        match reading {
            Ok((Some(kind), said, retry_after, scope)) => {
                self.lease.failure(kind, retry_after, &said, scope);
                (Some(kind), retry_after)
            }
            Ok((None, said, ..)) => {
                if !said.is_empty() {
                    self.lease.observe(&said, None);
                }
                self.lease.release(false);
                (None, None)
            }
            Err(error) => {
                // The caller's exception must get through, even if something is wrong with it.
                let _ = door::inside(|| {
                    error.write_unraisable(exc.py(), Some(exc));
                    Ok(())
                });
                self.lease.failure(FailureKind::Error, None, &[], None);
                (Some(FailureKind::Error), None)
            }
        }
    }
}

#[pymethods]
impl PyLease {
    /// The chosen deployment, the very object that was given to the router.
    #[getter]
    fn deployment<'py>(&self, py: Python<'py>) -> &Bound<'py, PyDeployment> {
        self.lease.attachment().deployment.bind(py)
    }

    /// The id of the chosen deployment.
    #[getter]
    fn deployment_id<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        self.lease.attachment().deployment.get().id.bind(py)
    }

    /// The model name whose group was asked (an alias is resolved).
    #[getter]
    fn model_name(&self) -> &str {
        self.lease.deployment().model_name()
    }

    /// The provider's own identifier of the model to ask for.
    #[getter]
    fn model(&self) -> &str {
        self.lease.model()
    }

    /// The tokens reserved at acquire.
    #[getter]
    fn tokens(&self) -> u64 {
        self.lease.tokens()
    }

    /// Whether the lease has ended.
    #[getter]
    fn released(&self) -> bool {
        self.lease.has_ended()
    }

    /// End the lease with a success.
    #[pyo3(signature = (tokens=None, latency=None, *, input_tokens=None, output_tokens=None))]
    fn success(
        &self,
        tokens: Option<Tokens>,
        latency: Option<&Bound<'_, PyAny>>,
        input_tokens: Option<&Bound<'_, PyAny>>,
        output_tokens: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let latency_us = optional(latency, latency_us)?;
        let (tokens, split) = split(tokens.map(|tokens| tokens.0), input_tokens, output_tokens)?;
        interrupt::done(self.lease.success(tokens, split, latency_us))
    }

    /// End the lease with a failure. What it reserved stays in the window, since the provider may have
    /// counted it.
    #[pyo3(
        signature = (kind=Kind(FailureKind::Error), retry_after=None, *, scope=None),
        text_signature = "($self, kind='error', retry_after=None, *, scope=None)"
    )]
    fn failure(&self, kind: Kind, retry_after: Option<&Bound<'_, PyAny>>, scope: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let retry_after = optional(retry_after, |seconds| length("retry_after", seconds))?;
        let scope = optional(scope, self::scope)?;
        interrupt::done(self.lease.failure(kind.0, retry_after, &[], scope))
    }

    /// End the lease without an outcome: the deployment's health does not change.
    #[pyo3(
        signature = (unused=None, *, tokens=None, input_tokens=None, output_tokens=None),
        text_signature = "($self, unused=False, *, tokens=None, input_tokens=None, output_tokens=None)"
    )]
    fn release(
        &self,
        unused: Option<&Bound<'_, PyAny>>,
        tokens: Option<Tokens>,
        input_tokens: Option<&Bound<'_, PyAny>>,
        output_tokens: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let unused = unused.map_or(Ok(false), |unused| flag("unused", unused))?;
        if tokens.is_none() && input_tokens.is_none() && output_tokens.is_none() {
            return interrupt::done(self.lease.release(unused));
        }
        self.release_used(unused, split(tokens.map(|tokens| tokens.0), input_tokens, output_tokens)?)
    }

    /// Record that the first token of the answer has come. A call after the first, or after the end of the
    /// lease, does nothing.
    fn first_token(&self) -> PyResult<bool> {
        interrupt::done(self.lease.first_token())
    }

    /// Record what the answer's headers say about the provider's limits.
    #[pyo3(signature = (headers, /))]
    fn observe(&self, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        let (said, retry_after) = read_headers(headers)?;
        self.lease.observe(&said, retry_after);
        interrupt::done(())
    }

    /// Seconds from the acquire to the first token; None if that was not recorded.
    #[getter]
    #[allow(clippy::cast_precision_loss)] // seconds are a float
    fn first_token_after(&self) -> Option<f64> {
        self.lease.first_token_us().map(|us| us as f64 / 1e6)
    }

    /// When it was acquired, by the clock of `Router._now`.
    #[getter]
    fn _acquired_at(&self) -> f64 {
        seconds(self.lease.acquired_at())
    }

    /// End the lease by an exception. Return the kind of the failure and the wait that the provider named.
    #[pyo3(signature = (error, /))]
    fn _fail(&self, error: &Bound<'_, PyAny>) -> PyResult<(Option<&'static str>, Option<f64>)> {
        let (kind, retry_after) = self.fail(error);
        interrupt::done((kind.map(FailureKind::name), retry_after.map(seconds)))
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (exc_type, exc, traceback, /))]
    fn __exit__(&self, exc_type: &Bound<'_, PyAny>, exc: &Bound<'_, PyAny>, traceback: &Bound<'_, PyAny>) -> PyResult<bool> {
        let _ = traceback;
        if exc_type.is_none() {
            self.lease.success(None, None, None);
        } else if !self.lease.has_ended() {
            self.fail(exc);
        }
        interrupt::done(false)
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
        let result = self.__exit__(exc_type, exc, traceback)?;
        Ok(Ready(result.into_pyobject(py)?.to_owned().into_any().unbind()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.own)?;
        // Also visits the router's reference, if the router has dropped it.
        if section::runs() {
            return Ok(());
        }
        self.lease.own_attachment().map_or(Ok(()), |attached| visit.call(&attached.deployment))
    }

    fn __repr__(&self) -> String {
        let deployment = self.lease.deployment();
        let state = if self.lease.has_ended() { "ended" } else { "in flight" };
        format!("<Lease on {:?} of {:?}, {} tokens, {state}>", deployment.id(), deployment.model_name(), self.lease.tokens())
    }
}

impl Drop for PyLease {
    fn drop(&mut self) {
        if self.lease.release(false) {
            undisturbed(|py| {
                let message = format!("{:?} was lost without release: use it as a context manager", self.lease.deployment().id());
                let warned = std::ffi::CString::new(format!("a lease on {message}"))
                    .map_err(PyErr::from)
                    .and_then(|message| PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &message, 1));
                if let Err(error) = warned {
                    error.write_unraisable(py, None);
                }
            });
        }
    }
}

/// The kind of a failure, the limits that the headers tell, the provider's wait, and the scope of the
/// refusal.
type Reading = (Option<FailureKind>, Vec<Observed>, Option<Nanos>, Option<Scope>);

/// Reads all that an exception says, in one call. `limits` tells whether the limits are wanted. Without a
/// kind there is no outcome.
fn read(exc: &Bound<'_, PyAny>, limits: bool) -> PyResult<Reading> {
    let reading = modules::READ_EXCEPTION.call1(exc.py(), (exc,))?;
    if reading.is_none() {
        return Ok((None, Vec::new(), None, None));
    }
    let (kind, retry_after, observed, about) =
        reading.extract::<(Option<Kind>, Option<Bound<'_, PyAny>>, Vec<Bound<'_, PyAny>>, Option<Bound<'_, PyAny>>)>()?;
    let observed = if limits { observed } else { Vec::new() };
    let (said, retry_after) = said_from(retry_after.as_ref(), observed)?;
    Ok((kind.map(|kind| kind.0), said, retry_after, optional(about.as_ref(), scope)?))
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
