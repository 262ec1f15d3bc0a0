//! From the core's errors to the exceptions of `turnout.exceptions`.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::base::error::{Error, Unavailable};

macro_rules! exceptions {
    ($($class:ident,)+) => {
        $(pyo3::import_exception!(turnout.exceptions, $class);)+

        /// Finds the classes while they can be imported: see `modules`.
        pub(crate) fn find(py: Python<'_>) {
            $(py.get_type::<$class>();)+
        }
    };
}

exceptions! {
    AliasCycle,
    AllDeploymentsInCooldown,
    ConfigurationError,
    DeploymentNotFound,
    ModelNotFound,
    NoAvailableDeployment,
    RateLimitExceeded,
    RequestTooLarge,
    TooManyWaiters,
    WaitTimeout,
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Configuration(_) => ConfigurationError::new_err(message),
            Error::AliasCycle(_) => AliasCycle::new_err(message),
            Error::ModelNotFound(unknown) => {
                Python::attach(|py| ModelNotFound::new_err((message, unknown.name, names(py, unknown.near))))
            }
            Error::AliasNotFound(alias) => ModelNotFound::new_err((message, alias)),
            Error::DeploymentNotFound(unknown) => {
                Python::attach(|py| DeploymentNotFound::new_err((message, unknown.id, names(py, unknown.near))))
            }
            Error::NoAvailableDeployment(unavailable) => {
                let reasons = &unavailable.reasons;
                let raise = if reasons.all_cooling_down() {
                    AllDeploymentsInCooldown::new_err::<Args>
                } else if reasons.all_rate_limited() {
                    RateLimitExceeded::new_err
                } else {
                    NoAvailableDeployment::new_err
                };
                not_available(raise, message, &unavailable)
            }
            Error::WaitTimeout(unavailable) => not_available(WaitTimeout::new_err, message, &unavailable),
            Error::TooManyWaiters(unavailable, _) => not_available(TooManyWaiters::new_err, message, &unavailable),
            Error::RequestTooLarge(too_large) => {
                RequestTooLarge::new_err((message, too_large.model_name.to_string(), too_large.tokens, too_large.largest_limit))
            }
        }
    }
}

fn names(py: Python<'_>, names: Vec<String>) -> Py<PyAny> {
    match pyo3::types::PyTuple::new(py, names) {
        Ok(names) => names.into_any().unbind(),
        Err(_) => py.None(),
    }
}

/// The arguments of `NoAvailableDeployment` and its subclasses.
type Args = (String, String, Option<f64>, Py<PyDict>);

fn not_available(raise: fn(Args) -> PyErr, message: String, unavailable: &Unavailable) -> PyErr {
    Python::attach(|py| {
        let reasons = PyDict::new(py);
        for (gate, count) in unavailable.reasons.iter() {
            if let Err(error) = reasons.set_item(gate.name(), count) {
                return error;
            }
        }
        raise((message, unavailable.model_name.to_string(), unavailable.retry_after, reasons.unbind()))
    })
}

/// Runs Python code that has nothing to do with an exception that may be under way, such as a callback in a
/// destructor: that exception is still under way afterwards. Does nothing while the interpreter shuts down.
pub(crate) fn undisturbed(run: impl FnOnce(Python<'_>)) {
    Python::try_attach(|py| {
        let pending = PyErr::take(py);
        run(py);
        if let Some(pending) = pending {
            pending.restore(py);
        }
    });
}

/// A value of the wrong type: names it and what is allowed.
pub(crate) fn wrong_type(name: &str, allowed: &str, value: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("{name} must be {allowed}, not {}", shown(value)))
}

/// A value out of range: names it and what is allowed.
pub(crate) fn out_of_range(name: &str, allowed: &str, value: &Bound<'_, PyAny>) -> PyErr {
    ConfigurationError::new_err(format!("{name} must be {allowed}, not {}", shown(value)))
}

/// A value as an error message shows it: short, even if its `repr` is long or fails.
fn shown(value: &Bound<'_, PyAny>) -> String {
    const MOST: usize = 60;
    let kind = value.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string());
    match value.repr().map(|repr| repr.to_string_lossy().into_owned()) {
        Ok(repr) if repr.chars().count() <= MOST => format!("{repr} ({kind})"),
        Ok(repr) => format!("{}… ({kind})", repr.chars().take(MOST).collect::<String>()),
        Err(_) => format!("an object of type {kind}"),
    }
}
