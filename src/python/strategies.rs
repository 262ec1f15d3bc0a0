//! The strategies as functions over snapshots.

use std::hash::{DefaultHasher, Hash, Hasher};

use pyo3::CastIntoError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::args::{Tokens, items, optional, price, price_in_units, split, text, texts, whole};
use super::errors::wrong_type;
use super::handle::PyRouter;
use crate::base::rng::Rng;
use crate::facts::{Price, Request, Size};
use crate::strategy::{self, RoundRobinCounters, RoutingContext};

/// An immutable snapshot of one candidate: all that a strategy sees.
#[pyclass(name = "RoutingContext", module = "turnout.strategies", frozen)]
pub(crate) struct PyRoutingContext(RoutingContext);

#[pymethods]
impl PyRoutingContext {
    #[new]
    #[pyo3(
        signature = (*, deployment_id, weight=None, priority=None, active_requests=None, tpm_current=None, tpm_limit=None,
                     rpm_current=None, rpm_limit=None, avg_latency_us=None, input_price=None, output_price=None),
        text_signature = "(*, deployment_id, weight=1, priority=0, active_requests=0, tpm_current=0, tpm_limit=None, rpm_current=0, \
                          rpm_limit=None, avg_latency_us=0, input_price=None, output_price=None)"
    )]
    #[allow(clippy::too_many_arguments)] // Python's keywords
    fn new(
        deployment_id: &Bound<'_, PyAny>,
        weight: Option<&Bound<'_, PyAny>>,
        priority: Option<&Bound<'_, PyAny>>,
        active_requests: Option<&Bound<'_, PyAny>>,
        tpm_current: Option<&Bound<'_, PyAny>>,
        tpm_limit: Option<&Bound<'_, PyAny>>,
        rpm_current: Option<&Bound<'_, PyAny>>,
        rpm_limit: Option<&Bound<'_, PyAny>>,
        avg_latency_us: Option<&Bound<'_, PyAny>>,
        input_price: Option<&Bound<'_, PyAny>>,
        output_price: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let small = |name: &str, value: Option<&Bound<'_, PyAny>>, usual: u32| {
            value.map_or(Ok(usual), |value| whole(name, 0, u32::MAX, value))
        };
        let large = |name: &str, value: Option<&Bound<'_, PyAny>>| value.map_or(Ok(0), |value| whole(name, 0, u64::MAX, value));
        let limit = |name: &str, value: Option<&Bound<'_, PyAny>>| optional(value, |value| whole(name, 0, u64::MAX, value));
        let price = |name: &str, value: Option<&Bound<'_, PyAny>>| optional(value, |value| price(name, value));
        Ok(Self(RoutingContext {
            deployment_id: text("deployment_id", deployment_id)?.into(),
            weight: small("weight", weight, 1)?,
            priority: small("priority", priority, 0)?,
            active_requests: small("active_requests", active_requests, 0)?,
            tpm_current: large("tpm_current", tpm_current)?,
            tpm_limit: limit("tpm_limit", tpm_limit)?,
            rpm_current: large("rpm_current", rpm_current)?,
            rpm_limit: limit("rpm_limit", rpm_limit)?,
            avg_latency_us: large("avg_latency_us", avg_latency_us)?,
            price: Price::of(price("input_price", input_price)?, price("output_price", output_price)?),
        }))
    }

    /// The candidate's id.
    #[getter]
    fn deployment_id(&self) -> &str {
        &self.0.deployment_id
    }

    /// Relative share.
    #[getter]
    fn weight(&self) -> u32 {
        self.0.weight
    }

    /// Rank, lower first.
    #[getter]
    fn priority(&self) -> u32 {
        self.0.priority
    }

    /// Requests in flight.
    #[getter]
    fn active_requests(&self) -> u32 {
        self.0.active_requests
    }

    /// Tokens this minute.
    #[getter]
    fn tpm_current(&self) -> u64 {
        self.0.tpm_current
    }

    /// Most tokens in a minute.
    #[getter]
    fn tpm_limit(&self) -> Option<u64> {
        self.0.tpm_limit
    }

    /// Requests this minute.
    #[getter]
    fn rpm_current(&self) -> u64 {
        self.0.rpm_current
    }

    /// Most requests in a minute.
    #[getter]
    fn rpm_limit(&self) -> Option<u64> {
        self.0.rpm_limit
    }

    /// Smoothed latency in microseconds; 0 for unknown.
    #[getter]
    fn avg_latency_us(&self) -> u64 {
        self.0.avg_latency_us
    }

    /// The price of a million tokens of prompts; None for unknown.
    #[getter]
    fn input_price(&self) -> Option<f64> {
        self.0.price.map(|price| price_in_units(price.input))
    }

    /// The price of a million tokens of answers; None for unknown.
    #[getter]
    fn output_price(&self) -> Option<f64> {
        self.0.price.map(|price| price_in_units(price.output))
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let Ok(other) = other.cast::<Self>() else { return Ok(py.NotImplemented()) };
        Ok((self.0 == other.get().0).into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let limit = |limit: Option<u64>| limit.map_or_else(|| "None".to_owned(), |limit| limit.to_string());
        let price = |price: Option<f64>| price.map_or_else(|| "None".to_owned(), |price| format!("{price:?}"));
        let context = &self.0;
        Ok(format!(
            "RoutingContext(deployment_id={}, weight={}, priority={}, active_requests={}, tpm_current={}, tpm_limit={}, \
             rpm_current={}, rpm_limit={}, avg_latency_us={}, input_price={}, output_price={})",
            PyString::new(py, &context.deployment_id).repr()?,
            context.weight,
            context.priority,
            context.active_requests,
            context.tpm_current,
            limit(context.tpm_limit),
            context.rpm_current,
            limit(context.rpm_limit),
            context.avg_latency_us,
            price(self.input_price()),
            price(self.output_price()),
        ))
    }
}

/// The counters of :func:`turnout.strategies.round_robin`, one for each model name. Threads may share them.
#[pyclass(name = "RoundRobinCounters", module = "turnout.strategies", frozen)]
pub(crate) struct PyRoundRobinCounters(RoundRobinCounters);

#[pymethods]
impl PyRoundRobinCounters {
    #[new]
    fn new() -> Self {
        Self(RoundRobinCounters::new())
    }
}

/// Snapshots as Python handed them over.
struct Contexts<'py>(Vec<Bound<'py, PyRoutingContext>>);

impl<'py> Contexts<'py> {
    fn new(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let contexts = items("contexts", "an iterable of RoutingContext", value)?.map(|item| {
            let not_a_context =
                |error: CastIntoError<'py>| wrong_type("an item of contexts", "a RoutingContext", &error.into_inner());
            item?.cast_into::<PyRoutingContext>().map_err(not_a_context)
        });
        Ok(Self(contexts.collect::<PyResult<_>>()?))
    }

    /// Returns the id of the snapshot that a strategy picks.
    fn pick(&self, strategy: impl FnOnce(&[&RoutingContext]) -> Option<usize>) -> Option<String> {
        let contexts: Vec<_> = self.0.iter().map(|context| &context.get().0).collect();
        strategy(&contexts).and_then(|picked| contexts.get(picked)).map(|context| context.deployment_id.to_string())
    }
}

/// Pick at random, each candidate with the probability weight / total weight; uniformly if every weight is 0.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn weighted_random(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    Ok(Contexts::new(contexts)?.pick(|contexts| strategy::weighted_random(contexts, &Rng::default())))
}

/// Pick the candidate with the fewest active requests, ties uniformly at random.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn least_busy(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    Ok(Contexts::new(contexts)?.pick(|contexts| strategy::least_busy(contexts, &Rng::default())))
}

/// Pick the candidate with the lowest ``tpm_current * 100 / tpm_limit`` in whole percent, ties to the first.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn lowest_usage(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    Ok(Contexts::new(contexts)?.pick(|contexts| strategy::lowest_usage(contexts)))
}

/// Pick the candidate with the lowest average latency, ties to the first.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn lowest_latency(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    Ok(Contexts::new(contexts)?.pick(|contexts| strategy::lowest_latency(contexts)))
}

/// Pick the candidate with the lowest priority number, ties to the first.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn lowest_priority(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    Ok(Contexts::new(contexts)?.pick(|contexts| strategy::lowest_priority(contexts)))
}

/// Pick the candidate that is farthest from its limits, ties to the first.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn rate_limit_aware(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    Ok(Contexts::new(contexts)?.pick(|contexts| strategy::rate_limit_aware(contexts)))
}

/// Pick the candidates in turn: the model name's counter modulo their number. A single candidate does not
/// advance the counter.
#[pyfunction]
#[pyo3(signature = (model_name, contexts, counters, /))]
pub(crate) fn round_robin(
    model_name: &Bound<'_, PyAny>,
    contexts: &Bound<'_, PyAny>,
    counters: &Bound<'_, PyRoundRobinCounters>,
) -> PyResult<Option<String>> {
    let (contexts, model_name) = (Contexts::new(contexts)?, text("model_name", model_name)?);
    Ok(contexts.pick(|contexts| strategy::round_robin(model_name, contexts, &counters.get().0)))
}

/// Pick the candidate that costs least for a request, ties uniformly at random.
#[pyfunction]
#[pyo3(
    signature = (contexts, /, *, tokens=None, input_tokens=None, output_tokens=None),
    text_signature = "(contexts, /, *, tokens=0, input_tokens=None, output_tokens=None)"
)]
pub(crate) fn cheapest(
    contexts: &Bound<'_, PyAny>,
    tokens: Option<Tokens>,
    input_tokens: Option<&Bound<'_, PyAny>>,
    output_tokens: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<String>> {
    let contexts = Contexts::new(contexts)?;
    let (tokens, split) = split(tokens.map(|tokens| tokens.0), input_tokens, output_tokens)?;
    let size = Size::from(&Request { tokens: tokens.unwrap_or(0), split, ..Request::default() });
    Ok(contexts.pick(|contexts| strategy::cheapest(contexts, size, &Rng::default())))
}

/// Take a snapshot of some deployments for the functions of this module.
#[pyfunction]
#[pyo3(signature = (router, candidate_ids, /))]
pub(crate) fn build_routing_contexts(
    router: &Bound<'_, PyRouter>,
    candidate_ids: &Bound<'_, PyAny>,
) -> PyResult<Vec<PyRoutingContext>> {
    let ids: Vec<String> = texts("candidate_ids", candidate_ids)?;
    Ok(router.get().router.routing_contexts(&ids)?.into_iter().map(PyRoutingContext).collect())
}
