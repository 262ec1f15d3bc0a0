//! The native class `Router` as other files know it. Its methods for Python stand in `router`, above them.
//! Methods that are written in Python live in `turnout/router.py`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;

use super::attached::Attached;
use super::attempts::Attempts;
use super::events::Subscriptions;
use super::{door, section};
use crate::base::fork::forks;
use crate::router::Router;

/// Picks one deployment of a model for every request.
///
/// It may be subclassed. ``__new__`` takes the arguments. So a subclass with arguments of its own defines
/// ``__new__``.
#[pyclass(name = "Router", weakref, module = "turnout", subclass, frozen)]
pub(crate) struct PyRouter {
    pub(crate) router: Router<Attached>,
    pub(super) subscriptions: Arc<Subscriptions>,
    /// What all calls of `turnout.execution` share: the part of the core.
    pub(super) attempts: Attempts,
    /// The part of Python: a `turnout.execution.state.Execution`.
    pub(super) execution: Py<PyAny>,
    /// Carries the talk with a shared store: a `turnout.shared._carrier.Carrier`. None if there is none, or
    /// if the store is in memory.
    pub(super) carrier: Option<Py<PyAny>>,
    /// The number of forks, plus one, when the carrier was last started; 0 for never.
    pub(super) carried_in: AtomicU64,
}

impl PyRouter {
    /// Lets a thread carry the talk with a shared store, if there is one and none does yet in this process.
    #[cold]
    pub(super) fn start_carrier(&self, py: Python<'_>) -> PyResult<()> {
        self.carried_in.store(forks() + 1, Ordering::Relaxed);
        self.carrier.as_ref().map_or(Ok(()), |carrier| door::inside(|| carrier.call_method0(py, "start").map(drop)))
    }

    /// Does so at the first request of a process: others may have told of cooldowns.
    #[inline]
    pub(super) fn carry(&self, py: Python<'_>) -> PyResult<()> {
        if self.carrier.is_some() && self.carried_in.load(Ordering::Relaxed) != forks() + 1 {
            return self.start_carrier(py);
        }
        Ok(())
    }

    /// Does work that takes long if there are many deployments; with a name, if it leads to many. Then it
    /// gives up the GIL.
    pub(super) fn work<R: Send>(&self, py: Python<'_>, name: Option<&str>, work: impl FnOnce(&Router<Attached>) -> R + Send) -> R {
        section::work(py, self.router.has(section::MANY, name), || work(&self.router))
    }

    /// Returns the router for a short call that takes the lock of changes. If a section runs, this first
    /// waits for that lock without the GIL.
    pub(super) fn in_turn(&self, py: Python<'_>) -> &Router<Attached> {
        if section::runs() {
            section::work(py, false, || self.router.wait_for_change());
        }
        &self.router
    }
}
