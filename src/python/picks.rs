//! The methods of `Router` that take a request: one list of keywords for all of them.
//!
//! A new keyword is a row of [`with_keywords`] and a parameter of `args::request`. The methods take it, their
//! signatures show it, and the tests hold the stub to them.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::args::{Tokens, request, text, whole};
use super::handle::PyRouter;
use super::lease::PyLease;
use super::waiting::{self, PyWaiter, Timeout};
use super::{interrupt, pause, records};
use crate::base::error::Error;
use crate::base::time::seconds;
use crate::facts::Request;
use crate::wait::Patience;

/// The most picks in one call of `select_many`: a bound on the memory that a wrong number can ask for.
const MOST_PICKS: usize = 10_000_000;

/// Hands the keywords of a request to a macro, behind the tokens in braces. Each keyword comes with its type
/// and with the default that Python shows. A keyword that is left out is None.
macro_rules! with_keywords {
    ($make:ident $with:tt) => {
        $make! { $with
            tokens: Option<Tokens> = "0",
            input_tokens: Option<&Bound<'py, PyAny>> = "None",
            output_tokens: Option<&Bound<'py, PyAny>> = "None",
            tags: Option<&Bound<'py, PyAny>> = "None",
            tags_match: Option<&Bound<'py, PyAny>> = "'all'",
            exclude: Option<&Bound<'py, PyAny>> = "None",
            only: Option<&Bound<'py, PyAny>> = "None",
            dialect: Option<&Bound<'py, PyAny>> = "None",
        }
    };
}

/// Makes a method from one head, the keywords of a request, and further keywords if there are any.
macro_rules! pick_method {
    ({
        $doc:literal
        fn $name:ident($slf:ident, $($positional:ident),+; $request:ident $(, $more:ident: $More:ty = $default:expr, $shown:literal)*)
            -> $Return:ty $body:block
    } $($keyword:ident: $Type:ty = $text:literal,)*) => {
        #[pymethods]
        impl PyRouter {
            // The first lines of a native docstring are the signature that Python shows.
            #[doc = concat!(
                stringify!($name), "($self, ", $(stringify!($positional), ", ",)+ "/, *",
                $(", ", stringify!($keyword), "=", $text,)* $(", ", stringify!($more), "=", $shown,)* ")\n--\n\n", $doc
            )]
            #[pyo3(
                signature = ($($positional,)+ /, *, $($keyword = None,)* $($more = $default,)*),
                text_signature = None
            )]
            #[allow(clippy::too_many_arguments)] // Python's keywords
            fn $name<'py>(
                $slf: &Bound<'py, Self>,
                $($positional: &Bound<'py, PyAny>,)+
                $($keyword: $Type,)*
                $($more: $More,)*
            ) -> PyResult<$Return> {
                let $request = request($($keyword),*)?;
                $body
            }
        }
    };
}

with_keywords!(pick_method {
    "Pick a deployment and reserve nothing. The only side effects are the round-robin turn and the random draw."
    fn select(slf, model_name; request) -> Py<PyString> {
        let picked = slf.get().router.select(text("model_name", model_name)?, &request, |id| id.clone_ref(slf.py()));
        if picked.is_err() {
            slf.get().start_carrier(slf.py())?;
        }
        Ok(picked?)
    }
});

with_keywords!(pick_method {
    "Pick ``n`` times in one call, as ``n`` calls of :meth:`select` would: an id may come more than once."
    fn select_many(slf, model_name, n; request) -> Bound<'py, PyList> {
        let n = whole("n", 0, MOST_PICKS, n)?;
        let (py, router, model_name) = (slf.py(), &slf.get().router, text("model_name", model_name)?);
        let picks = (0..n).map(|nth| {
            pause::after(py, nth)?;
            Ok(router.select(model_name, &request, |id| id.clone_ref(py))?)
        });
        PyList::new(py, picks.collect::<PyResult<Vec<_>>>()?)
    }
});

with_keywords!(pick_method {
    "Pick a deployment and reserve, in one step or not at all: one in flight, one request and ``tokens`` tokens this minute."
    fn acquire(
        slf, model_name; request, timeout: Timeout = Timeout::NONE, "0.0", priority: Option<&Bound<'py, PyAny>> = None, "0"
    ) -> Bound<'py, PyAny> {
        let priority = match priority {
            Some(priority) => self::priority(priority)?,
            None => 0,
        };
        let model_name = text("model_name", model_name)?;
        match slf.get().router.acquire_at(model_name, &request, priority) {
            Ok(lease) => {
                slf.get().carry(slf.py())?;
                let lease = Bound::new(slf.py(), PyLease::new(slf.py(), lease))?;
                PyLease::hand_out(lease).map(Bound::into_any)
            }
            Err(error) => wait_after(error, slf, model_name, request, Patience { timeout: timeout.0, priority }),
        }
    }
});

with_keywords!(pick_method {
    "Like :meth:`acquire`, but wait for capacity without holding up the event loop."
    fn acquire_async(
        slf, model_name; request, timeout: Timeout = Timeout::UNBOUNDED, "None", priority: Option<&Bound<'py, PyAny>> = None, "0"
    ) -> Bound<'py, PyAny> {
        let patience = Patience { timeout: timeout.0, priority: priority.map_or(Ok(0), self::priority)? };
        PyWaiter::wait_async(slf, text("model_name", model_name)?, request, patience)
    }
});

with_keywords!(pick_method {
    "Say what :meth:`select` or :meth:`acquire` would do now, and why. It has no side effect."
    fn explain(slf, model_name; request) -> Bound<'py, PyAny> {
        let (py, model_name) = (slf.py(), text("model_name", model_name)?);
        records::explanation(py, slf.get().work(py, Some(model_name), |router| router.explain(model_name, &request))?)
    }
});

/// Waits, if the caller wants to wait and waiting may help.
#[cold]
fn wait_after<'py>(
    error: Error,
    router: &Bound<'py, PyRouter>,
    model_name: &str,
    request: Request,
    patience: Patience,
) -> PyResult<Bound<'py, PyAny>> {
    let asks_store = matches!(&error, Error::NoAvailableDeployment(refused) if refused.is_asked_for);
    let known_after = match &error {
        Error::NoAvailableDeployment(refused) => refused.retry_after.unwrap_or(0.0),
        _ => 0.0,
    };
    let wants_to_wait = patience.timeout != Some(0);
    let patience = if asks_store { ask_store(router, patience, known_after)? } else { patience };
    match error {
        Error::NoAvailableDeployment(refused) if patience.timeout != Some(0) && refused.reasons.may_change() => {
            let lease = waiting::wait(router.py(), router.get(), model_name, request, patience, wants_to_wait)?;
            Bound::new(router.py(), PyLease::new(router.py(), lease)).map(Bound::into_any)
        }
        error => interrupt::after(Err(error)),
    }
}

/// Lets a shared store be asked. Returns for how long to wait: at least for its answer, unless that is known
/// to help only after so many seconds.
fn ask_store(router: &Bound<'_, PyRouter>, patience: Patience, known_after: f64) -> PyResult<Patience> {
    let router = (router.py(), router.get());
    router.1.start_carrier(router.0)?;
    let answer = router.1.router.patience();
    let shortest = if router.1.carrier.is_some() && known_after <= seconds(answer) { answer } else { 0 };
    Ok(Patience { timeout: patience.timeout.map(|timeout| timeout.max(shortest)), ..patience })
}

fn priority(value: &Bound<'_, PyAny>) -> PyResult<i32> {
    whole("priority", i32::MIN, i32::MAX, value)
}
