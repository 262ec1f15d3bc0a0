//! The objects of the Python half and of the standard library that the native half uses.
//!
//! They are found when the package is imported, or when the first router is made: options and records are
//! dataclasses, which take longer to load than all else. Later it may be too late to import. Native code
//! imports by the `__import__` of the frame that called it. A frame of a sandbox has none, and neither has an
//! interpreter that ends.

use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyMapping};

use super::door;

/// A class or a function of Python.
pub(crate) struct Imported {
    module: &'static str,
    name: &'static str,
    object: PyOnceLock<Py<PyAny>>,
}

/// Imports by the builtins of the standard library, not by those of the calling frame.
static IMPORT_MODULE: Imported = Imported::new("importlib", "import_module");

macro_rules! imported {
    ($(#[$doc:meta])* $table:ident: $($constant:ident = $module:literal $name:literal,)+) => {
        $(pub(crate) static $constant: Imported = Imported::new($module, $name);)+

        $(#[$doc])*
        static $table: &[&Imported] = &[$(&$constant),+];
    };
}

imported! {
    /// The objects that are found when the package is imported.
    FIRST:
    EVENT_KIND = "turnout.enums" "EventKind",
    STATUS = "turnout.enums" "Status",
    STRATEGY = "turnout.enums" "Strategy",
    IS_INTERRUPTION = "turnout._signals" "is_interruption",
    PAUSE = "turnout._signals" "pause",
    READ_EXCEPTION = "turnout.providers.exceptions" "read_exception",
    READ_RATE_LIMITS = "turnout.providers.headers" "read_rate_limits",
}

imported! {
    /// The objects that are found when the first router is made.
    WITH_ROUTER:
    ENDPOINT = "turnout.endpoints" "Endpoint",
    LIMIT = "turnout.limits" "Limit",
    QUOTA = "turnout.limits" "Quota",
    HEALTH = "turnout.options" "Health",
    RETRY = "turnout.execution.options" "Retry",
    LEARNING = "turnout.options" "Learning",
    MINUTE_RULES = "turnout.options" "MinuteRules",
    WAITING = "turnout.options" "Waiting",
    EXECUTION = "turnout.execution.state" "Execution",
    DEPLOYMENT_STATS = "turnout.records" "DeploymentStats",
    EVENT = "turnout.records" "Event",
    EXPLANATION = "turnout.records" "Explanation",
    LIMIT_STATS = "turnout.records" "LimitStats",
    OBSERVED_STATS = "turnout.records" "ObservedStats",
    ROUTER_METRICS = "turnout.records" "RouterMetrics",
    VERDICT = "turnout.records" "Verdict",
    GET_IDENT = "threading" "get_ident",
    MAIN_THREAD = "threading" "main_thread",
    WAIT_ASYNC = "turnout.waiting" "wait_async",
}

imported! {
    /// The object that is found when the first router is made that shares limits.
    WITH_STORE:
    CARRIER = "turnout._carrier" "Carrier",
}

impl Imported {
    const fn new(module: &'static str, name: &'static str) -> Self {
        Self { module, name, object: PyOnceLock::new() }
    }

    /// Returns its name, without the module.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the object. Finds it first, if it was not found yet.
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        let found = self.object.get_or_try_init(py, || {
            let module = IMPORT_MODULE.object.get(py).map_or_else(
                || py.import(self.module).map(Bound::into_any),
                |import_module| import_module.bind(py).call1((self.module,)),
            )?;
            module.getattr(self.name).map(Bound::unbind)
        });
        found.map(|object| object.bind(py))
    }
}

impl Imported {
    /// Calls the object. See `door`.
    pub(crate) fn call1<'py>(&self, py: Python<'py>, args: impl PyCallArgs<'py>) -> PyResult<Bound<'py, PyAny>> {
        door::inside(|| self.get(py)?.call1(args))
    }

    /// Calls the object with keywords.
    pub(crate) fn call_with<'py>(&self, py: Python<'py>, keywords: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
        door::inside(|| self.get(py)?.call((), Some(keywords)))
    }
}

/// Finds what every import of the package needs.
pub(crate) fn find_first(py: Python<'_>) -> PyResult<()> {
    IMPORT_MODULE.get(py)?;
    // The first cast imports the class that it asks for.
    let _ = py.None().bind(py).cast::<PyMapping>();
    find(py, FIRST)
}

/// Finds the rest, for the first router.
pub(crate) fn find_with_router(py: Python<'_>) -> PyResult<()> {
    find(py, WITH_ROUTER)
}

/// Finds what a router needs that shares limits.
pub(crate) fn find_with_store(py: Python<'_>) -> PyResult<()> {
    find(py, WITH_STORE)
}

fn find(py: Python<'_>, imported: &[&'static Imported]) -> PyResult<()> {
    imported.iter().try_for_each(|one| one.get(py).map(drop))
}
