//! Conversions from the core's records to the dataclasses of `turnout.records`.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::attached::Attached;
use super::limits::limit_to;
use super::{modules, pause};
use crate::attempts::AttemptCounts;
use crate::base::events::Event;
use crate::base::time::seconds;
use crate::group::{Metrics, Stats};
use crate::health::Status;
use crate::limits::{LimitStats, ObservedStats};
use crate::pick::{Explanation, Verdict};
use crate::strategy::Strategy;

/// The member of `turnout.Strategy`.
pub(crate) fn strategy(py: Python<'_>, strategy: Strategy) -> PyResult<Bound<'_, PyAny>> {
    modules::STRATEGY.call1(py, (strategy.name(),))
}

/// Looks up the members of `turnout.Status` once.
struct Statuses<'py>([(Status, Bound<'py, PyAny>); 4]);

impl<'py> Statuses<'py> {
    fn new(py: Python<'py>) -> PyResult<Self> {
        let of = |status: Status| Ok::<_, PyErr>((status, modules::STATUS.call1(py, (status.name(),))?));
        Ok(Self([of(Status::Available)?, of(Status::Degraded)?, of(Status::CoolingDown)?, of(Status::Unhealthy)?]))
    }

    fn get(&self, py: Python<'py>, status: Status) -> Bound<'py, PyAny> {
        self.0.iter().find(|(known, _)| *known == status).map_or_else(|| py.None().into_bound(py), |(_, member)| member.clone())
    }
}

/// The fields of `turnout.DeploymentStats`, in order.
#[allow(clippy::cast_precision_loss)] // seconds are a float
fn fields<'py>(py: Python<'py>, statuses: &Statuses<'py>, stats: &Stats) -> PyResult<[(&'static str, Bound<'py, PyAny>); 29]> {
    let seconds = |us: u64| (us != 0).then_some(us as f64 / 1e6);
    Ok([
        ("deployment_id", (&*stats.deployment_id).into_pyobject(py)?.into_any()),
        ("model_name", (&*stats.model_name).into_pyobject(py)?.into_any()),
        ("status", statuses.get(py, stats.status)),
        ("in_flight", stats.in_flight.into_pyobject(py)?.into_any()),
        ("max_parallel_requests", stats.max_parallel_requests.into_pyobject(py)?),
        ("rpm_current", stats.rpm_current.into_pyobject(py)?.into_any()),
        ("rpm_limit", stats.rpm_limit.into_pyobject(py)?),
        ("tpm_current", stats.tpm_current.into_pyobject(py)?.into_any()),
        ("tpm_limit", stats.tpm_limit.into_pyobject(py)?),
        ("fails_this_minute", stats.fails_this_minute.into_pyobject(py)?.into_any()),
        ("cooldown_remaining", stats.cooldown_remaining.into_pyobject(py)?.into_any()),
        ("avg_latency", seconds(stats.avg_latency_us).into_pyobject(py)?),
        ("consecutive_successes", stats.consecutive_successes.into_pyobject(py)?.into_any()),
        ("total_requests", stats.total_requests.into_pyobject(py)?.into_any()),
        ("total_successes", stats.total_successes.into_pyobject(py)?.into_any()),
        ("total_failures", stats.total_failures.into_pyobject(py)?.into_any()),
        ("total_tokens", stats.total_tokens.into_pyobject(py)?.into_any()),
        ("limits", limits(py, &stats.limits)?),
        ("observed", observed(py, &stats.observed)?),
        ("learnt_parallel_requests", stats.learnt_parallel_requests.into_pyobject(py)?),
        ("domain", stats.domain.as_deref().into_pyobject(py)?.into_any()),
        ("consecutive_failures", stats.consecutive_failures.into_pyobject(py)?.into_any()),
        ("window_successes", stats.window_successes.into_pyobject(py)?.into_any()),
        ("window_failures", stats.window_failures.into_pyobject(py)?.into_any()),
        ("trips", stats.trips.into_pyobject(py)?.into_any()),
        ("penalty", stats.penalty.into_pyobject(py)?.into_any()),
        ("slow_start_share", stats.slow_start_share.into_pyobject(py)?.into_any()),
        ("avg_first_token", seconds(stats.avg_first_token_us).into_pyobject(py)?),
        ("in_flight_all", stats.in_flight_all.into_pyobject(py)?.into_any()),
    ])
}

/// A tuple of `turnout.LimitStats`.
fn limits<'py>(py: Python<'py>, limits: &[LimitStats]) -> PyResult<Bound<'py, PyAny>> {
    let records = limits.iter().map(|limit| {
        let object = limit_to(py, &limit.limit)?;
        modules::LIMIT_STATS
            .call1(py, (object, limit.quota.as_deref(), limit.used, limit.remaining, limit.resets_in, limit.held, limit.granted))
    });
    Ok(PyTuple::new(py, records.collect::<PyResult<Vec<_>>>()?)?.into_any())
}

/// A tuple of `turnout.ObservedStats`.
fn observed<'py>(py: Python<'py>, observed: &[ObservedStats]) -> PyResult<Bound<'py, PyAny>> {
    let records = observed.iter().map(|said| {
        let facts = (said.unit.name(), said.quota.as_deref(), said.remaining, said.resets_in, said.limit);
        modules::OBSERVED_STATS.call1(py, facts)
    });
    Ok(PyTuple::new(py, records.collect::<PyResult<Vec<_>>>()?)?.into_any())
}

/// A `turnout.DeploymentStats`.
pub(crate) fn deployment_stats<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyAny>> {
    let keywords = PyDict::new(py);
    for (name, value) in fields(py, &Statuses::new(py)?, stats)? {
        keywords.set_item(name, value)?;
    }
    modules::DEPLOYMENT_STATS.call_with(py, &keywords)
}

/// Makes one list for each field.
pub(crate) fn columns(py: Python<'_>, snapshot: Vec<Stats>) -> PyResult<Bound<'_, PyDict>> {
    let columns = PyDict::new(py);
    let names = modules::DEPLOYMENT_STATS.get(py)?.getattr("__dataclass_fields__")?;
    let lists = names.try_iter()?.map(|name| {
        let list = PyList::empty(py);
        columns.set_item(name?, &list)?;
        Ok(list)
    });
    let lists: Vec<_> = lists.collect::<PyResult<_>>()?;
    let statuses = Statuses::new(py)?;
    for (done, stats) in snapshot.into_iter().enumerate() {
        pause::after(py, done)?;
        for (list, (_, value)) in lists.iter().zip(fields(py, &statuses, &stats)?) {
            list.append(value)?;
        }
    }
    Ok(columns)
}

/// A `turnout.RouterMetrics`.
pub(crate) fn router_metrics<'py>(py: Python<'py>, metrics: &Metrics, counts: &AttemptCounts) -> PyResult<Bound<'py, PyAny>> {
    let keywords = PyDict::new(py);
    keywords.set_item("models", metrics.models)?;
    keywords.set_item("deployments", metrics.deployments)?;
    keywords.set_item("available", metrics.available)?;
    keywords.set_item("degraded", metrics.degraded)?;
    keywords.set_item("cooling_down", metrics.cooling_down)?;
    keywords.set_item("unhealthy", metrics.unhealthy)?;
    keywords.set_item("in_flight", metrics.in_flight)?;
    keywords.set_item("waiting", metrics.waiting)?;
    keywords.set_item("total_requests", metrics.total_requests)?;
    keywords.set_item("total_successes", metrics.total_successes)?;
    keywords.set_item("total_failures", metrics.total_failures)?;
    keywords.set_item("total_tokens", metrics.total_tokens)?;
    keywords.set_item("panicking", PyTuple::new(py, metrics.panicking.iter().map(|name| &**name))?)?;
    keywords.set_item("events_dropped", metrics.events_dropped)?;
    for (name, count) in counts.all() {
        keywords.set_item(name, count)?;
    }
    if let Some(sharing) = metrics.sharing {
        keywords.set_item("processes", sharing.processes)?;
        keywords.set_item("syncs", sharing.syncs)?;
        keywords.set_item("sync_errors", sharing.errors)?;
        keywords.set_item("store_age", sharing.age.map(seconds))?;
        keywords.set_item("recovering", sharing.recovering)?;
        keywords.set_item("store_lost", sharing.lost)?;
    }
    modules::ROUTER_METRICS.call_with(py, &keywords)
}

/// A `turnout.Event`.
pub(crate) fn event<'py>(py: Python<'py>, event: &Event) -> PyResult<Bound<'py, PyAny>> {
    let kind = modules::EVENT_KIND.call1(py, (event.kind.name(),))?;
    let at = seconds(event.at);
    let fields = (kind, event.deployment_id.as_deref(), &*event.model_name, at, &*event.detail);
    modules::EVENT.call1(py, fields)
}

/// A `turnout.Explanation`.
pub(crate) fn explanation(py: Python<'_>, explanation: Explanation<Attached>) -> PyResult<Bound<'_, PyAny>> {
    let verdicts = explanation.verdicts.into_iter().map(|(entry, verdict)| {
        let id = &entry.attachment().deployment.get().id;
        match verdict {
            Verdict::Stopped(refusal) => {
                modules::VERDICT.call1(py, (id, refusal.gate().name(), entry.describe(&refusal), py.None(), 0.0))
            }
            Verdict::Spare => {
                let detail = format!("priority {}, and others of a lower one are left", entry.deployment().priority());
                modules::VERDICT.call1(py, (id, "tier", detail, py.None(), 0.0))
            }
            Verdict::Candidate { score, probability } => modules::VERDICT.call1(py, (id, py.None(), py.None(), score, probability)),
        }
    });
    let verdicts = verdicts.collect::<PyResult<Vec<_>>>()?;
    let winner = explanation.winner.as_ref().map(|entry| &entry.attachment().deployment.get().id);
    modules::EXPLANATION.call1(
        py,
        (
            &*explanation.model_name,
            strategy(py, explanation.strategy)?,
            explanation.score_name,
            winner,
            explanation.retry_after,
            PyTuple::new(py, verdicts)?,
            explanation.panic,
        ),
    )
}
