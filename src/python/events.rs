//! Callbacks of Python for the core's events.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use super::errors::undisturbed;
use super::{interrupt, records};
use crate::base::events::{Event, Subscription};
use crate::group::Attachment;
use crate::router::Router;

/// A callable of the application.
#[derive(Debug)]
struct Callback(Py<PyAny>);

impl Callback {
    /// Calls it. An exception that it raises is reported as unraisable: the call that caused the event has no
    /// part in it.
    fn call(&self, event: &Event) {
        undisturbed(|py| {
            let called = records::event(py, event).and_then(|event| self.0.call1(py, (event,)));
            if let Err(error) = called.map(drop).or_else(|error| interrupt::keep(py, error)) {
                error.write_unraisable(py, Some(self.0.bind(py)));
            }
        });
    }
}

/// The subscriptions of a router. They end with the router. The core keeps the callbacks too; they are kept
/// here for the garbage collector to see.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(Mutex<Vec<Arc<Kept>>>);

#[derive(Debug)]
struct Kept {
    subscription: Subscription,
    callback: Arc<Callback>,
}

impl Subscriptions {
    /// Lets a callable be told of events. Returns the function that ends that.
    pub(crate) fn subscribe<'py>(
        self: &Arc<Self>,
        router: &Router<impl Attachment>,
        callback: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyCFunction>> {
        let callable = Arc::new(Callback(callback.clone().unbind()));
        let called = Arc::clone(&callable);
        let subscription = router.subscribe(move |event| called.call(event));
        let kept = Arc::new(Kept { subscription, callback: callable });
        // Neither keeps the other alive, so that the garbage collector need not look into the function.
        let (subscriptions, weak) = (Arc::downgrade(self), Arc::downgrade(&kept));
        self.lock().push(kept);
        PyCFunction::new_closure(callback.py(), Some(c"unsubscribe"), None, move |_, _| {
            if let (Some(subscriptions), Some(kept)) = (subscriptions.upgrade(), weak.upgrade()) {
                kept.subscription.end();
                subscriptions.lock().retain(|other| !Arc::ptr_eq(other, &kept));
            }
        })
    }

    /// Ends all subscriptions.
    pub(crate) fn end(&self) {
        let all = std::mem::take(&mut *self.lock());
        for kept in &all {
            kept.subscription.end();
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(all) = self.0.try_lock() else { return Ok(()) };
        all.iter().try_for_each(|kept| visit.call(&kept.callback.0))
    }

    /// Locks the list. While the lock is held, nothing may be dropped that runs code when it is dropped.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Kept>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        self.end();
    }
}
