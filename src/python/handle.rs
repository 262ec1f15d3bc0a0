//! The native class `Router` as other files know it. Its methods stand in `router`, above them. Methods that
//! are written in Python live in `turnout/router.py`.

use std::sync::Arc;

use pyo3::prelude::*;

use super::attached::Attached;
use super::events::Subscriptions;
use crate::router::Router;

/// Picks one deployment of a model for every request.
///
/// It may be subclassed. ``__new__`` takes the arguments, so that a subclass with other arguments defines
/// ``__new__``.
#[pyclass(name = "Router", module = "turnout", subclass, frozen)]
pub(crate) struct PyRouter {
    pub(crate) router: Router<Attached>,
    pub(super) subscriptions: Arc<Subscriptions>,
}
