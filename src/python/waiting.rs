//! The class `_Waiter`, which the loops of `turnout.waiting` poll.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use pyo3::IntoPyObjectExt;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::args::length;
use super::attached::Attached;
use super::errors::undisturbed;
use super::handle::PyRouter;
use super::lease::PyLease;
use super::modules::Member;
use crate::base::time::{Nanos, seconds};
use crate::facts::Request;
use crate::wait::{Patience, Progress, Waiter};

/// The most seconds to wait.
pub(crate) struct Timeout(pub(crate) Option<Nanos>);

impl Timeout {
    /// Does not wait.
    pub(crate) const NONE: Self = Self(Some(0));
    /// Waits for as long as it takes.
    pub(crate) const UNBOUNDED: Self = Self(None);
}

impl<'a, 'py> FromPyObject<'a, 'py> for Timeout {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if value.is_none() { Ok(Self::UNBOUNDED) } else { length("timeout", &value).map(|timeout| Self(Some(timeout))) }
    }
}

/// Calls what Python gave, once for each poll. Shared with the core, which the garbage collector does not
/// see; so it holds what the waiter owns.
#[derive(Debug, Default)]
struct Bell {
    callback: Mutex<Option<Py<PyAny>>>,
    has_rung: AtomicBool,
}

impl Bell {
    /// What it called so far is handed back, to be dropped under no lock.
    fn set(&self, callback: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
        let old = std::mem::replace(&mut *self.callback.lock().unwrap_or_else(PoisonError::into_inner), callback);
        // After the callback: one that is still rung for belongs to the past.
        self.has_rung.store(false, Ordering::Release);
        old
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        if self.has_rung.swap(true, Ordering::AcqRel) {
            return;
        }
        undisturbed(|py| {
            let callback = self.callback.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|it| it.clone_ref(py));
            if let Some(callback) = callback
                && let Err(error) = callback.call0(py)
            {
                error.write_unraisable(py, Some(callback.bind(py)));
            }
        });
    }
}

/// One who waits for a lease.
#[pyclass(name = "_Waiter", module = "turnout._core", frozen)]
pub(crate) struct PyWaiter {
    router: Py<PyRouter>,
    bell: Arc<Bell>,
    /// Gone once it was cancelled.
    waiter: Mutex<Option<Arc<Waiter<Attached>>>>,
}

impl PyWaiter {
    pub(crate) fn new(router: &Bound<'_, PyRouter>, model_name: &str, request: Request, patience: Patience) -> PyResult<Self> {
        let bell = Arc::<Bell>::default();
        let waiter = router.get().router.wait(model_name, request, patience, Waker::from(Arc::clone(&bell)))?;
        Ok(Self { router: router.clone().unbind(), bell, waiter: Mutex::new(Some(Arc::new(waiter))) })
    }

    /// What `turnout.waiting` makes of it.
    pub(crate) fn hand_to<'py>(self, py: Python<'py>, function: &Member) -> PyResult<Bound<'py, PyAny>> {
        function.get(py)?.call1((self,))
    }
}

#[pymethods]
impl PyWaiter {
    /// Return the lease, or the seconds after which to look again unless ``wake`` is called before.
    #[pyo3(signature = (wake, /))]
    fn poll<'py>(&self, py: Python<'py>, wake: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        drop(self.bell.set(Some(wake)));
        let waiter = self.waiter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let progress = waiter.map_or(Ok(Progress::Waits(None)), |waiter| self.router.get().router.poll(&waiter))?;
        match progress {
            Progress::Served(lease) => PyLease::new(py, lease).into_bound_py_any(py),
            Progress::Waits(at_most) => at_most.map_or(f64::INFINITY, seconds).into_bound_py_any(py),
        }
    }

    /// Give up the place, and the lease if there is one that was not returned.
    fn cancel(&self) {
        let waiter = self.waiter.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(waiter);
        drop(self.bell.set(None));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.router)?;
        let Ok(callback) = self.bell.callback.try_lock() else { return Ok(()) };
        callback.as_ref().map_or(Ok(()), |callback| visit.call(callback))
    }

    fn __clear__(&self) {
        self.cancel();
    }
}
