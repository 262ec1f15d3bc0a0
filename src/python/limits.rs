//! Conversions from the dataclasses of `turnout.limits` to the core's limits.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::args::{items, length, optional, text, whole};
use super::errors::wrong_type;
use super::modules::{self, Imported};
use crate::base::time::seconds;
use crate::limits::{Limit, LimitKind, Quota, Start, Unit, Zone};

/// Makes a tuple of a class's instances, from any iterable of them; None if there is none.
fn tuple_of<'py>(name: &str, class: &Imported, value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let py = value.py();
    let (expected, class) = (class.get(py)?, class.name());
    let instances = items(name, &format!("an iterable of {class}"), value)?.map(|item| {
        let item = item?;
        if item.is_instance(expected)? {
            Ok(item)
        } else {
            Err(wrong_type(&format!("an item of {name}"), &format!("a {class}"), &item))
        }
    });
    let instances = instances.collect::<PyResult<Vec<_>>>()?;
    if instances.is_empty() { Ok(None) } else { PyTuple::new(py, instances).map(Some) }
}

/// The limits of a deployment.
pub(crate) fn limit_objects<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    tuple_of("limits", &modules::LIMIT, value)
}

/// The quotas of a deployment.
pub(crate) fn quota_objects<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    tuple_of("quotas", &modules::QUOTA, value)
}

pub(crate) fn limit_from(limit: &Bound<'_, PyAny>) -> PyResult<Limit> {
    let unit: Unit = text("unit", &limit.getattr("unit")?)?.parse()?;
    let amount = whole(unit.name(), 1, u64::MAX, &limit.getattr("amount")?)?;
    let kind = limit.getattr("kind")?;
    let kind = match text("kind", &kind)? {
        "bucket" => LimitKind::Bucket {
            burst: optional(Some(&limit.getattr("burst")?), |burst| whole("burst", 1, u64::MAX, burst))?.unwrap_or(amount),
        },
        "sliding" => LimitKind::Sliding,
        _ => LimitKind::Fixed(start_from(limit)?),
    };
    Ok(Limit::new(unit, amount, length("per", &limit.getattr("per")?)?, kind)?)
}

fn start_from(limit: &Bound<'_, PyAny>) -> PyResult<Start> {
    if let Some(zone) = optional(Some(&limit.getattr("timezone")?), |zone| Ok(Zone::new(text("timezone", zone)?)?))? {
        return Ok(Start::Midnight(zone));
    }
    Ok(match (text("start", &limit.getattr("start")?)?, length("offset", &limit.getattr("offset")?)?) {
        ("first_use", _) => Start::FirstUse,
        (_, 0) => Start::Clock,
        (_, offset) => Start::Offset(offset),
    })
}

/// Return the name of a time zone as the IANA database writes it.
#[pyfunction]
#[pyo3(name = "_time_zone", signature = (name, /))]
pub(crate) fn time_zone(name: &Bound<'_, PyAny>) -> PyResult<&'static str> {
    Ok(Zone::new(text("timezone", name)?)?.name())
}

pub(crate) fn quota_from(quota: &Bound<'_, PyAny>) -> PyResult<Quota> {
    let id = quota.getattr("quota_id")?;
    let limits = quota.getattr("limits")?;
    let limits = limits.try_iter()?.map(|limit| limit_from(&limit?)).collect::<PyResult<Vec<_>>>()?;
    Ok(Quota::new(text("quota_id", &id)?, &limits)?)
}

/// A limit as Python knows it.
pub(crate) fn limit_to<'py>(py: Python<'py>, limit: &Limit) -> PyResult<Bound<'py, PyAny>> {
    let keywords = pyo3::types::PyDict::new(py);
    keywords.set_item(limit.unit().name(), limit.amount())?;
    keywords.set_item("per", seconds(limit.per()))?;
    keywords.set_item("kind", limit.kind().name())?;
    match limit.kind() {
        LimitKind::Bucket { burst } if burst != limit.amount() => keywords.set_item("burst", burst)?,
        LimitKind::Fixed(Start::FirstUse) => keywords.set_item("start", "first_use")?,
        LimitKind::Fixed(Start::Offset(offset)) => keywords.set_item("offset", seconds(offset))?,
        LimitKind::Fixed(Start::Midnight(zone)) => keywords.set_item("timezone", zone.name())?,
        _ => {}
    }
    modules::LIMIT.call_with(py, &keywords)
}
