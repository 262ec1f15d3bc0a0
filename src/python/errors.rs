//! Conversions from the core's errors to the exceptions of `turnout.exceptions`.

use pyo3::PyTypeInfo;
use pyo3::call::PyCallArgs;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::door;
use crate::base::error::{Error, Unavailable};
#[cfg(unix)]
use crate::stores::Lost;

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
    StoreLost,
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
                raised::<ModelNotFound, _>(|py| Ok((message, unknown.name, PyTuple::new(py, unknown.near)?.unbind())))
            }
            Error::AliasNotFound(alias) => raised::<ModelNotFound, _>(|_| Ok((message, alias))),
            Error::DeploymentNotFound(unknown) => {
                raised::<DeploymentNotFound, _>(|py| Ok((message, unknown.id, PyTuple::new(py, unknown.near)?.unbind())))
            }
            Error::NoAvailableDeployment(unavailable) => {
                let reasons = &unavailable.reasons;
                if reasons.all_cooling_down() {
                    not_available::<AllDeploymentsInCooldown>(message, &unavailable)
                } else if reasons.all_rate_limited() {
                    not_available::<RateLimitExceeded>(message, &unavailable)
                } else {
                    not_available::<NoAvailableDeployment>(message, &unavailable)
                }
            }
            Error::WaitTimeout(unavailable) => not_available::<WaitTimeout>(message, &unavailable),
            Error::TooManyWaiters(unavailable, _) => not_available::<TooManyWaiters>(message, &unavailable),
            Error::RequestTooLarge(too_large) => raised::<RequestTooLarge, _>(|_| {
                Ok((message, too_large.model_name.to_string(), too_large.tokens, too_large.largest_limit))
            }),
        }
    }
}

#[cfg(unix)]
impl From<Lost> for PyErr {
    fn from(lost: Lost) -> Self {
        StoreLost::new_err(lost.to_string())
    }
}

/// Makes an exception whose constructor is Python code. It is made at once, and so behind the door.
fn raised<C: PyTypeInfo, A: for<'py> PyCallArgs<'py>>(args: impl FnOnce(Python<'_>) -> PyResult<A>) -> PyErr {
    Python::attach(|py| door::inside(|| py.get_type::<C>().call1(args(py)?)).map_or_else(|error| error, PyErr::from_value))
}

fn not_available<C: PyTypeInfo>(message: String, unavailable: &Unavailable) -> PyErr {
    raised::<C, _>(|py| {
        let reasons = PyDict::new(py);
        for (gate, count) in unavailable.reasons.iter() {
            reasons.set_item(gate.name(), count)?;
        }
        Ok((message, unavailable.model_name.to_string(), unavailable.retry_after, reasons.unbind()))
    })
}

/// Runs Python code, such as a callback in a destructor, while another exception may be under way. The other
/// exception is still under way afterwards. Does nothing once the interpreter ends.
pub(crate) fn undisturbed(run: impl FnOnce(Python<'_>)) {
    Python::try_attach(|py| {
        let Some(_inside) = door::enter() else { return };
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
