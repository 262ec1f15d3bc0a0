//! The strategies as functions over snapshots.

use std::hash::{DefaultHasher, Hash, Hasher};

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::args::{items, optional, text, texts, whole};
use super::errors::wrong_type;
use super::router::PyRouter;
use crate::base::rng::Rng;
use crate::limits::Usage;
use crate::strategy::{self, Candidate, RoundRobinCounters, RoutingContext};

/// An immutable snapshot of one candidate: all that a strategy sees.
#[pyclass(name = "RoutingContext", module = "turnout.strategies", frozen)]
pub(crate) struct PyRoutingContext(RoutingContext);

#[pymethods]
impl PyRoutingContext {
    #[new]
    #[pyo3(
        signature = (*, deployment_id, weight=None, priority=None, active_requests=None, tpm_current=None, tpm_limit=None,
                     rpm_current=None, rpm_limit=None, avg_latency_us=None),
        text_signature = "(*, deployment_id, weight=1, priority=0, active_requests=0, tpm_current=0, tpm_limit=None, rpm_current=0, \
                          rpm_limit=None, avg_latency_us=0)"
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
    ) -> PyResult<Self> {
        let small = |name: &str, value: Option<&Bound<'_, PyAny>>, usual: u32| {
            value.map_or(Ok(usual), |value| whole(name, 0, u32::MAX, value))
        };
        let large = |name: &str, value: Option<&Bound<'_, PyAny>>| value.map_or(Ok(0), |value| whole(name, 0, u64::MAX, value));
        let limit = |name: &str, value: Option<&Bound<'_, PyAny>>| optional(value, |value| whole(name, 0, u64::MAX, value));
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
        let context = &self.0;
        Ok(format!(
            "RoutingContext(deployment_id={}, weight={}, priority={}, active_requests={}, tpm_current={}, tpm_limit={}, \
             rpm_current={}, rpm_limit={}, avg_latency_us={})",
            PyString::new(py, &context.deployment_id).repr()?,
            context.weight,
            context.priority,
            context.active_requests,
            context.tpm_current,
            limit(context.tpm_limit),
            context.rpm_current,
            limit(context.rpm_limit),
            context.avg_latency_us,
        ))
    }
}

/// The turns that :func:`turnout.strategies.round_robin` keeps, one a model name. Safe to share between threads.
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
struct Contexts<'py>(Vec<Context<'py>>);

struct Context<'py>(Bound<'py, PyRoutingContext>);

impl<'py> Contexts<'py> {
    fn new(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let contexts = items("contexts", "an iterable of RoutingContext", value)?.map(|item| {
            let item = item?;
            match item.cast_into::<PyRoutingContext>() {
                Ok(context) => Ok(Context(context)),
                Err(error) => Err(wrong_type("an item of contexts", "a RoutingContext", &error.into_inner())),
            }
        });
        Ok(Self(contexts.collect::<PyResult<_>>()?))
    }

    fn id(&self, position: Option<usize>) -> Option<String> {
        position.and_then(|position| self.0.get(position)).map(|context| context.0.get().0.deployment_id.to_string())
    }
}

impl Candidate for Context<'_> {
    fn weight(&self) -> u32 {
        self.0.get().0.weight()
    }

    fn priority(&self) -> u32 {
        self.0.get().0.priority()
    }

    fn active_requests(&self) -> u32 {
        self.0.get().0.active_requests()
    }

    fn tpm(&self) -> Usage {
        self.0.get().0.tpm()
    }

    fn rpm(&self) -> Usage {
        self.0.get().0.rpm()
    }

    fn avg_latency_us(&self) -> u64 {
        self.0.get().0.avg_latency_us()
    }
}

/// Pick at random, each candidate with the probability weight / total weight; uniformly if every weight is 0.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn weighted_random(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let contexts = Contexts::new(contexts)?;
    Ok(contexts.id(strategy::weighted_random(&contexts.0, &Rng::default())))
}

/// Pick the candidate with the fewest active requests, ties uniformly at random.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn least_busy(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let contexts = Contexts::new(contexts)?;
    Ok(contexts.id(strategy::least_busy(&contexts.0, &Rng::default())))
}

/// Pick the candidate with the lowest ``tpm_current * 100 / tpm_limit`` in whole percent, ties to the first.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn lowest_usage(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let contexts = Contexts::new(contexts)?;
    Ok(contexts.id(strategy::lowest_usage(&contexts.0)))
}

/// Pick the candidate with the lowest average latency, ties to the first.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn lowest_latency(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let contexts = Contexts::new(contexts)?;
    Ok(contexts.id(strategy::lowest_latency(&contexts.0)))
}

/// Pick the candidate with the lowest priority number, ties to the first.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn lowest_priority(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let contexts = Contexts::new(contexts)?;
    Ok(contexts.id(strategy::lowest_priority(&contexts.0)))
}

/// Pick the candidate that is farthest from its limits, ties to the first.
#[pyfunction]
#[pyo3(signature = (contexts, /))]
pub(crate) fn rate_limit_aware(contexts: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let contexts = Contexts::new(contexts)?;
    Ok(contexts.id(strategy::rate_limit_aware(&contexts.0)))
}

/// Pick the candidates in turn: the model name's counter modulo their number. A single candidate does not advance it.
#[pyfunction]
#[pyo3(signature = (model_name, contexts, counters, /))]
pub(crate) fn round_robin(
    model_name: &Bound<'_, PyAny>,
    contexts: &Bound<'_, PyAny>,
    counters: &Bound<'_, PyRoundRobinCounters>,
) -> PyResult<Option<String>> {
    let contexts = Contexts::new(contexts)?;
    Ok(contexts.id(strategy::round_robin(text("model_name", model_name)?, &contexts.0, &counters.get().0)))
}

/// Take a snapshot of some deployments for the functions of this module.
#[pyfunction]
#[pyo3(signature = (router, candidate_ids, /))]
pub(crate) fn build_routing_contexts(
    router: &Bound<'_, PyRouter>,
    candidate_ids: &Bound<'_, PyAny>,
) -> PyResult<Vec<PyRoutingContext>> {
    let ids: Vec<String> = texts("candidate_ids", candidate_ids)?;
    ids.iter().map(|id| Ok(PyRoutingContext(router.get().0.routing_context(id)?))).collect()
}
