//! The class `Router` as other files know it. Its methods stand in `router`, above them.

use std::sync::Arc;

use pyo3::prelude::*;

use super::attached::Attached;
use super::events::Subscriptions;
use crate::router::Router;

/// Picks one deployment of a model for every request.
#[pyclass(name = "Router", module = "turnout", frozen)]
pub(crate) struct PyRouter {
    pub(crate) router: Router<Attached>,
    pub(super) subscriptions: Arc<Subscriptions>,
}
