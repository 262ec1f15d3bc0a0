//! Conversions from the option objects of `turnout.options` to the core's rules.

use pyo3::prelude::*;

use super::args::{self, flag, length, optional, whole};
use super::errors::wrong_type;
use super::modules::{self, Imported};
use crate::base::labels::Dialect;
use crate::facts::{Learning, Waiting};
use crate::health::{HealthRules, MinuteRules, Rules};

/// Whether a value is of a class of `turnout.options`, by its type. The value's own `__class__` may lie.
fn is_of(class: &Imported, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.get_type().is_subclass(class.get(value.py())?)
}

/// Refuses a value that is not of a class of `turnout.options`.
fn must_be(name: &str, class: &Imported, allowed: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    if is_of(class, value)? { Ok(()) } else { Err(wrong_type(name, allowed, value)) }
}

/// Reads the dialect of a `turnout.Endpoint`.
pub(crate) fn dialect(endpoint: &Bound<'_, PyAny>) -> PyResult<Dialect> {
    must_be("endpoint", &modules::ENDPOINT, "an Endpoint or None", endpoint)?;
    args::dialect(&endpoint.getattr("dialect")?)
}

/// Checks that a value is a `turnout.Retry`.
pub(crate) fn retry(value: &Bound<'_, PyAny>) -> PyResult<()> {
    must_be("retry", &modules::RETRY, "a Retry or None", value)
}

/// Reads a `turnout.Learning`.
pub(crate) fn learning(value: &Bound<'_, PyAny>) -> PyResult<Learning> {
    must_be("learning", &modules::LEARNING, "a Learning or None", value)?;
    Ok(Learning {
        headers: flag("headers", &value.getattr("headers")?)?,
        concurrency: flag("concurrency", &value.getattr("concurrency")?)?,
        longest_wait: length("longest_wait", &value.getattr("longest_wait")?)?,
    })
}

/// Reads a `turnout.Waiting`.
pub(crate) fn waiting(value: &Bound<'_, PyAny>) -> PyResult<Waiting> {
    must_be("waiting", &modules::WAITING, "a Waiting or None", value)?;
    Ok(Waiting {
        max_waiters: value.getattr("max_waiters")?.extract()?,
        patience: length("patience", &value.getattr("patience")?)?,
    })
}

/// Reads a `turnout.Health` or a `turnout.MinuteRules`. These have checked their numbers.
pub(crate) fn rules(value: &Bound<'_, PyAny>) -> PyResult<Rules> {
    if is_of(&modules::MINUTE_RULES, value)? { minute_rules(value).map(Rules::Minute) } else { health(value).map(Rules::Health) }
}

fn minute_rules(value: &Bound<'_, PyAny>) -> PyResult<MinuteRules> {
    let get = |name: &str| value.getattr(name);
    let count = |name: &str, least| whole(name, least, u64::MAX, &get(name)?);
    Ok(MinuteRules {
        allowed_fails: count("allowed_fails", 0)?,
        min_requests: count("min_requests", 0)?,
        majority: flag("majority", &get("majority")?)?,
        cooldown_time: length("cooldown_time", &get("cooldown_time")?)?,
        success_threshold: whole("success_threshold", 1, u32::MAX, &get("success_threshold")?)?,
    })
}

fn health(value: &Bound<'_, PyAny>) -> PyResult<HealthRules> {
    must_be("health", &modules::HEALTH, "a Health, a MinuteRules or None", value)?;
    let get = |name: &str| value.getattr(name);
    let seconds = |name: &str| length(name, &get(name)?);
    let count = |name: &str| whole(name, 1, u32::MAX, &get(name)?);
    let number = |value: &Bound<'_, PyAny>| value.extract::<f64>();
    Ok(HealthRules {
        consecutive_failures: optional(Some(&get("consecutive_failures")?), |value| {
            whole("consecutive_failures", 1, u32::MAX, value)
        })?,
        failure_rate: optional(Some(&get("failure_rate")?), number)?,
        window: seconds("window")?,
        min_volume: count("min_volume")?,
        cooldown_time: seconds("cooldown_time")?,
        cooldown_growth: number(&get("cooldown_growth")?)?,
        max_cooldown: seconds("max_cooldown")?,
        cooldown_jitter: number(&get("cooldown_jitter")?)?,
        forget_after: seconds("forget_after")?,
        success_threshold: count("success_threshold")?,
        slow_start: seconds("slow_start")?,
        panic_threshold: number(&get("panic_threshold")?)?,
        cool_last: flag("cool_last", &get("cool_last")?)?,
        fail_open: flag("fail_open", &get("fail_open")?)?,
        failure_penalty: seconds("failure_penalty")?,
        outlier_factor: optional(Some(&get("outlier_factor")?), number)?,
    })
}
