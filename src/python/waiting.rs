//! The wait of a thread for a lease, and the class `_Waiter`, which the loops of `turnout.waiting` poll.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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
use crate::base::error::Error;
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
/// core, so the end of the interpreter unwinds none. If the request does not want to wait, and only waits for
/// the answer of a store, it is refused like one that does not wait.
pub(crate) fn wait(
    py: Python<'_>,
    router: &PyRouter,
    model_name: &str,
    request: Request,
    patience: Patience,
    wants_to_wait: bool,
) -> PyResult<Lease<Attached>> {
    let every = if is_main_thread(py)? { SIGNALS_EVERY } else { Duration::MAX };
    let bed = Arc::<Bed>::default();
    let waiter = router.router.wait(model_name, request, patience, Waker::from(Arc::clone(&bed)))?;
    loop {
        let progress = router.router.poll(&waiter).map_err(|error| match error {
            Error::WaitTimeout(refused) if !wants_to_wait => Error::NoAvailableDeployment(refused),
            error => error,
        });
        let mut left = match interrupt::after(progress)? {
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

/// One task that waits for a lease.
#[pyclass(name = "_Waiter", module = "turnout._core", frozen)]
pub(crate) struct PyWaiter {
    router: Py<PyRouter>,
    stage: Mutex<Stage>,
}

/// A place in line, or one to be, and the bell that rings there.
type Waits = (Arc<Waiter<Attached>>, Arc<Bell>);

/// How far a task has come.
enum Stage {
    /// It has no place in line, and may need none.
    Asks { model_name: Arc<str>, request: Request, patience: Patience },
    /// It waits, or begins to.
    Waits(Waits),
    /// It has its lease, or was cancelled.
    IsOver,
}

impl PyWaiter {
    /// Returns the coroutine that waits for a lease.
    pub(crate) fn wait_async<'py>(
        router: &Bound<'py, PyRouter>,
        model_name: &str,
        request: Request,
        patience: Patience,
    ) -> PyResult<Bound<'py, PyAny>> {
        let model_name = router.get().router.resolve_alias(model_name)?;
        let stage = Mutex::new(Stage::Asks { model_name, request, patience });
        modules::WAIT_ASYNC.call1(router.py(), (Self { router: router.clone().unbind(), stage },))
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the waiter and its bell. Makes them first, if they are not made yet. None if it is over.
    fn waits(&self) -> Result<Option<Waits>, Error> {
        let mut stage = self.stage();
        if let Stage::Asks { .. } = *stage
            && let Stage::Asks { model_name, request, patience } = std::mem::replace(&mut *stage, Stage::IsOver)
        {
            let bell = Arc::<Bell>::default();
            let waiter = self.router.get().router.wait(&model_name, request, patience, Waker::from(Arc::clone(&bell)))?;
            *stage = Stage::Waits((Arc::new(waiter), bell));
        }
        Ok(match &*stage {
            Stage::Waits(waits) => Some(waits.clone()),
            _ => None,
        })
    }
}

#[pymethods]
impl PyWaiter {
    /// Return a lease if nobody waits and there is room. Otherwise the task has to wait: poll.
    fn acquire_at_once<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyLease>>> {
        // Nothing is held meanwhile: callbacks may run here.
        let asks = std::mem::replace(&mut *self.stage(), Stage::IsOver);
        if let Stage::Asks { model_name, request, .. } = &asks
            && let Some(lease) = self.router.get().router.acquire_at_once(model_name, request)
        {
            self.router.get().carry(py)?;
            return PyLease::hand_out(Bound::new(py, PyLease::new(py, lease))?).map(Some);
        }
        *self.stage() = asks;
        self.router.get().start_carrier(py)?;
        interrupt::done(None)
    }

    /// Return the lease, or the seconds after which to look again unless ``wake`` is called before.
    #[pyo3(signature = (wake, /))]
    fn poll<'py>(&self, py: Python<'py>, wake: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let progress = match self.waits()? {
            Some((waiter, bell)) => {
                drop(bell.set(Some(wake)));
                self.router.get().router.poll(&waiter)
            }
            None => Ok(Progress::Waits(None)),
        };
        match interrupt::after(progress)? {
            Progress::Served(lease) => PyLease::new(py, lease).into_bound_py_any(py),
            Progress::Waits(at_most) => seconds(at_most.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)).into_bound_py_any(py),
        }
    }

    /// Give up the place, and the lease if there is one that was not returned.
    fn cancel(&self) {
        let stage = std::mem::replace(&mut *self.stage(), Stage::IsOver);
        if let Stage::Waits((waiter, bell)) = stage {
            drop(waiter);
            drop(bell.set(None));
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.router)?;
        let Ok(stage) = self.stage.try_lock() else { return Ok(()) };
        let Stage::Waits((_, bell)) = &*stage else { return Ok(()) };
        let Ok(callback) = bell.callback.try_lock() else { return Ok(()) };
        callback.as_ref().map_or(Ok(()), |callback| visit.call(callback))
    }

    fn __clear__(&self) {
        self.cancel();
    }
}
