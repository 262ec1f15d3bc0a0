//! The wait of a thread for a lease, and the class `_Waiter`, which the loops of `turnout.waiting` poll.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::task::{Wake, Waker};
use std::thread;
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyRecursionError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::args::length;
use super::attached::Attached;
use super::errors::undisturbed;
use super::handle::PyRouter;
use super::lease::PyLease;
use super::{interrupt, modules};
use crate::base::time::{Nanos, SECOND, seconds};
use crate::facts::Request;
use crate::lease::Lease;
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

/// How often a main thread that waits lets the handlers of signals run.
const SIGNALS_EVERY: Duration = Duration::from_millis(20);

/// The longest sleep of a waiter. The look after it makes up for a ring that was lost.
const LONGEST_SLEEP: Nanos = 5 * SECOND;

/// A thread sleeps here until it is rung for. No Python code is called to wake it.
#[derive(Debug, Default)]
struct Bed {
    has_rung: Mutex<bool>,
    rung: Condvar,
}

impl Bed {
    /// Sleeps until it is rung for, but at most for this long. Returns whether it was rung for.
    fn sleep(&self, at_most: Duration) -> bool {
        let has_rung = self.has_rung.lock().unwrap_or_else(PoisonError::into_inner);
        let sleep = self.rung.wait_timeout_while(has_rung, at_most, |has_rung| !*has_rung);
        std::mem::take(&mut *sleep.unwrap_or_else(PoisonError::into_inner).0)
    }
}

impl Wake for Bed {
    fn wake(self: Arc<Self>) {
        *self.has_rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.rung.notify_one();
    }
}

/// Waits in this thread. The thread sleeps in Rust, without the GIL. Then no frame of Python lies above the
/// core, so the end of the interpreter unwinds none.
pub(crate) fn wait(
    py: Python<'_>,
    router: &PyRouter,
    model_name: &str,
    request: Request,
    patience: Patience,
) -> PyResult<Lease<Attached>> {
    let every = if is_main_thread(py)? { SIGNALS_EVERY } else { Duration::MAX };
    let bed = Arc::<Bed>::default();
    let waiter = router.router.wait(model_name, request, patience, Waker::from(Arc::clone(&bed)))?;
    loop {
        let mut left = match interrupt::after(router.router.poll(&waiter))? {
            Progress::Served(lease) => return Ok(lease),
            Progress::Waits(at_most) => Duration::from_nanos(at_most.map_or(LONGEST_SLEEP, |at_most| at_most.min(LONGEST_SLEEP))),
        };
        while !left.is_zero() {
            let slice = left.min(every);
            left = if py.detach(|| bed.sleep(slice)) { Duration::ZERO } else { left.saturating_sub(slice) };
            py.check_signals()?;
        }
    }
}

/// Python runs the handlers of signals in one thread only.
fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    modules::MAIN_THREAD.call1(py, ())?.getattr("ident")?.eq(modules::GET_IDENT.call1(py, ())?)
}

/// Calls the callback that a loop gave, once for each poll. The core shares this, and the garbage collector
/// does not see the core. So the callback lies here, where the waiter can visit it.
#[derive(Debug, Default)]
struct Bell {
    callback: Mutex<Option<Py<PyAny>>>,
    has_rung: AtomicBool,
}

impl Bell {
    /// Sets the callback. Returns the old one, to be dropped when no lock is held.
    fn set(&self, callback: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
        let old = std::mem::replace(&mut *self.callback.lock().unwrap_or_else(PoisonError::into_inner), callback);
        // This comes after the callback is set: a ring that is still under way was for the old one.
        self.has_rung.store(false, Ordering::Release);
        old
    }

    /// Calls the callback.
    fn ring(&self, py: Python<'_>) -> PyResult<()> {
        let callback = self.callback.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|it| it.clone_ref(py));
        callback.map_or(Ok(()), |callback| callback.call0(py).map(drop))
    }

    /// Rings from a new thread, which has a stack of its own and in which no signal's handler runs.
    fn ring_elsewhere(self: Arc<Self>) {
        // If no thread can be started, the waiter's next look makes up for the ring.
        let _ = thread::Builder::new().spawn(move || {
            undisturbed(|py| {
                if let Err(error) = self.ring(py) {
                    error.write_unraisable(py, None);
                }
            });
        });
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        if self.has_rung.swap(true, Ordering::AcqRel) {
            return;
        }
        undisturbed(|py| {
            let Err(error) = self.ring(py) else { return };
            // The callback was interrupted at an unknown place, or there is no room on the stack for it.
            Arc::clone(&self).ring_elsewhere();
            if let Err(error) = interrupt::keep(py, error)
                && !error.is_instance_of::<PyRecursionError>(py)
            {
                error.write_unraisable(py, None);
            }
        });
    }
}

/// One task that wants a lease.
#[pyclass(name = "_Waiter", module = "turnout._core", frozen)]
pub(crate) struct PyWaiter {
    router: Py<PyRouter>,
    model_name: Arc<str>,
    request: Request,
    patience: Patience,
    /// Its place in line. Most tasks need none.
    place: OnceLock<InLine>,
}

/// The place in line of a task.
struct InLine {
    bell: Arc<Bell>,
    /// None once it was cancelled.
    waiter: Mutex<Option<Arc<Waiter<Attached>>>>,
}

impl InLine {
    /// Gives up the place.
    fn leave(&self) {
        let waiter = self.waiter.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(waiter);
        drop(self.bell.set(None));
    }
}

impl PyWaiter {
    /// Returns the coroutine that waits for a lease.
    pub(crate) fn wait_async<'py>(
        router: &Bound<'py, PyRouter>,
        model_name: &str,
        request: Request,
        patience: Patience,
    ) -> PyResult<Bound<'py, PyAny>> {
        let model_name = router.get().router.resolve(model_name)?;
        let waiter = Self { router: router.clone().unbind(), model_name, request, patience, place: OnceLock::new() };
        modules::WAIT_ASYNC.call1(router.py(), (waiter,))
    }

    fn place(&self) -> &InLine {
        self.place.get_or_init(|| {
            let (bell, router) = (Arc::<Bell>::default(), &self.router.get().router);
            let waker = Waker::from(Arc::clone(&bell));
            let waiter = router.wait_for(Arc::clone(&self.model_name), self.request.clone(), self.patience, waker);
            InLine { bell, waiter: Mutex::new(Some(Arc::new(waiter))) }
        })
    }
}

#[pymethods]
impl PyWaiter {
    /// Return a lease if there is one without a wait. Nobody who waits is overtaken.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyLease>>> {
        let router = &self.router.get().router;
        let Ok(lease) = router.acquire_at(&self.model_name, &self.request, self.patience.priority) else {
            // The wait that follows finds out why.
            return Ok(None);
        };
        let lease = Bound::new(py, PyLease::new(py, lease))?;
        interrupt::done(()).inspect_err(|_| lease.get().give_back())?;
        Ok(Some(lease))
    }

    /// Return the lease, or the seconds after which to look again unless ``wake`` is called before.
    #[pyo3(signature = (wake, /))]
    fn poll<'py>(&self, py: Python<'py>, wake: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let place = self.place();
        drop(place.bell.set(Some(wake)));
        let waiter = place.waiter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let progress = waiter.map_or(Ok(Progress::Waits(None)), |waiter| self.router.get().router.poll(&waiter));
        match interrupt::after(progress)? {
            Progress::Served(lease) => PyLease::new(py, lease).into_bound_py_any(py),
            Progress::Waits(at_most) => seconds(at_most.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)).into_bound_py_any(py),
        }
    }

    /// Give up the place, and the lease if there is one that was not returned.
    fn cancel(&self) {
        self.place.get().into_iter().for_each(InLine::leave);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.router)?;
        let Some(place) = self.place.get() else { return Ok(()) };
        let Ok(callback) = place.bell.callback.try_lock() else { return Ok(()) };
        callback.as_ref().map_or(Ok(()), |callback| visit.call(callback))
    }

    fn __clear__(&self) {
        self.cancel();
    }
}
