//! Conversions from Python's values to the core's. Their errors name the argument, the value and what is
//! allowed.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyIterator, PyString};

use super::errors::{out_of_range, wrong_type};
use crate::base::error::Error;
use crate::base::labels::Dialect;
use crate::base::time::{self, Nanos, nanos};
use crate::facts::{Request, Wishes};
use crate::health::{FailureKind, Scope};
use crate::strategy::Strategy;

/// Whether an error is about the value. Other errors come from the value's own code, such as an interrupt.
fn is_about_value(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyValueError>(py)
        || error.is_instance_of::<PyOverflowError>(py)
}

/// The items of an iterable.
pub(crate) fn items<'py>(name: &str, allowed: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyIterator>> {
    value.try_iter().map_err(|error| if is_about_value(value.py(), &error) { wrong_type(name, allowed, value) } else { error })
}

/// A whole number from `least` to `N`'s largest.
pub(crate) fn whole<'py, N>(name: &str, least: N, most: N, value: &Bound<'py, PyAny>) -> PyResult<N>
where
    N: for<'a> FromPyObject<'a, 'py> + PartialOrd + std::fmt::Display + Copy,
{
    let allowed = || format!("an int from {least} to {most}");
    // Numbers of other libraries count as int by `__index__`; a float does not, even a whole one.
    if !value.is_instance_of::<PyInt>() && (value.is_instance_of::<PyFloat>() || !value.hasattr("__index__").unwrap_or(false)) {
        return Err(wrong_type(name, &allowed(), value));
    }
    match value.extract::<N>().map_err(Into::<PyErr>::into) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Err(error) if !is_about_value(value.py(), &error) => Err(error),
        _ => Err(out_of_range(name, &allowed(), value)),
    }
}

/// A value, or None.
pub(crate) fn optional<'py, T>(
    value: Option<&Bound<'py, PyAny>>,
    convert: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<Option<T>> {
    value.filter(|value| !value.is_none()).map(convert).transpose()
}

/// A number of tokens.
#[derive(Clone, Copy)]
pub(crate) struct Tokens(pub(crate) u64);

impl<'a, 'py> FromPyObject<'a, 'py> for Tokens {
    type Error = PyErr;

    #[inline]
    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        whole("tokens", 0, u64::MAX, &value).map(Self)
    }
}

/// Reads what a refusal is about.
pub(crate) fn scope(value: &Bound<'_, PyAny>) -> PyResult<Scope> {
    Ok(text("scope", value)?.parse::<Scope>()?)
}

/// A length of time in seconds.
pub(crate) fn length(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Nanos> {
    moment(name, "a finite number of seconds from 0 to 1e9", nanos, value)
}

/// A reading of a clock in seconds.
pub(crate) fn reading(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Nanos> {
    moment(name, "a finite number of seconds from 0 to 1e10", time::reading, value)
}

/// The price of a million tokens, in millionths of a unit of the currency.
pub(crate) fn price(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it is in range
    let millionths = |price: f64| (0.0..=1e9).contains(&price).then(|| (price * PRICE_UNITS).round() as u64);
    moment(name, "a finite number from 0 to 1e9", millionths, value)
}

/// How many of the units of [`price`] make one unit of the currency.
const PRICE_UNITS: f64 = 1e6;

/// A price in units of the currency.
#[allow(clippy::cast_precision_loss)] // a price was a float
pub(crate) fn price_in_units(price: u64) -> f64 {
    price as f64 / PRICE_UNITS
}

fn moment(name: &str, allowed: &str, convert: impl Fn(f64) -> Option<u64>, value: &Bound<'_, PyAny>) -> PyResult<Nanos> {
    // An int may be too large for a float.
    let seconds = match value.extract::<f64>() {
        Ok(seconds) => seconds,
        Err(error) if !is_about_value(value.py(), &error) => return Err(error),
        Err(_) if value.is_instance_of::<PyInt>() => f64::NAN,
        Err(_) => return Err(wrong_type(name, allowed, value)),
    };
    convert(seconds).ok_or_else(|| out_of_range(name, allowed, value))
}

/// A latency in seconds, as whole microseconds.
pub(crate) fn latency_us(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    Ok(length("latency", value)? / 1000)
}

/// A string.
#[inline]
pub(crate) fn text<'a>(name: &str, value: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    let text = value.cast::<PyString>().map_err(|_| wrong_type(name, "a str", value))?;
    text.to_str().map_err(|_| out_of_range(name, "a str without surrogates", value))
}

/// Strings, from any iterable but a string: `"eu"` is not meant to be `"e"` and `"u"`.
pub(crate) fn texts<C: FromIterator<String>>(name: &str, value: &Bound<'_, PyAny>) -> PyResult<C> {
    const ALLOWED: &str = "an iterable of str";
    if value.is_instance_of::<PyString>() {
        return Err(wrong_type(name, ALLOWED, value));
    }
    let items = items(name, ALLOWED, value)?;
    items.map(|item| Ok(text(&format!("an item of {name}"), &item?)?.to_owned())).collect()
}

/// True or False.
pub(crate) fn flag(name: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.extract().map_err(|_| wrong_type(name, "a bool", value))
}

/// A dialect by its name.
pub(crate) fn dialect(value: &Bound<'_, PyAny>) -> PyResult<Dialect> {
    Ok(text("dialect", value)?.parse()?)
}

/// A strategy by its name.
pub(crate) fn strategy(value: &Bound<'_, PyAny>) -> PyResult<Strategy> {
    Ok(text("strategy", value)?.parse()?)
}

/// A failure kind by its name.
pub(crate) struct Kind(pub(crate) FailureKind);

impl<'a, 'py> FromPyObject<'a, 'py> for Kind {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(text("kind", &value)?.parse()?))
    }
}

/// A number of tokens, and how many of them are the prompt's and the answer's. Each is None if it is not
/// given.
pub(crate) type Split = (Option<u64>, Option<(u64, u64)>);

/// Reads `input_tokens` and `output_tokens`. If one of the three numbers is not given, it follows from the
/// other two.
#[inline(never)]
pub(crate) fn split(tokens: Option<u64>, input: Option<&Bound<'_, PyAny>>, output: Option<&Bound<'_, PyAny>>) -> PyResult<Split> {
    let input = optional(input, |input| whole("input_tokens", 0, u64::MAX, input))?;
    let output = optional(output, |output| whole("output_tokens", 0, u64::MAX, output))?;
    let split = match (input, output, tokens) {
        (None, None, _) => return Ok((tokens, None)),
        (Some(input), Some(output), _) => (input, output),
        (Some(input), None, Some(tokens)) => (input, tokens.saturating_sub(input)),
        (None, Some(output), Some(tokens)) => (tokens.saturating_sub(output), output),
        (Some(_), None, None) => return Err(lone_part("input_tokens", "output_tokens")),
        (None, Some(_), None) => return Err(lone_part("output_tokens", "input_tokens")),
    };
    let sum = split.0.saturating_add(split.1);
    if let Some(tokens) = tokens.filter(|&tokens| tokens < sum) {
        let message = format!("tokens must be at least input_tokens + output_tokens ({sum}), not {tokens}");
        return Err(Error::Configuration(message).into());
    }
    Ok((Some(tokens.unwrap_or(sum)), Some(split)))
}

fn lone_part(given: &str, missing: &str) -> PyErr {
    Error::Configuration(format!("{given} must come with {missing} or with tokens: a part does not tell the sum")).into()
}

/// Makes the request that a pick is made for.
#[inline(always)]
#[allow(clippy::inline_always, clippy::too_many_arguments)] // it is part of every pick; Python's keywords
pub(crate) fn request(
    tokens: Option<Tokens>,
    input_tokens: Option<&Bound<'_, PyAny>>,
    output_tokens: Option<&Bound<'_, PyAny>>,
    tags: Option<&Bound<'_, PyAny>>,
    tags_match: Option<&Bound<'_, PyAny>>,
    exclude: Option<&Bound<'_, PyAny>>,
    only: Option<&Bound<'_, PyAny>>,
    dialect: Option<&Bound<'_, PyAny>>,
) -> PyResult<Request> {
    let has_wishes = tags.is_some() || tags_match.is_some() || exclude.is_some() || only.is_some() || dialect.is_some();
    let wishes = if has_wishes { Some(wishes(tags, tags_match, exclude, only, dialect)?) } else { None };
    let (mut tokens, mut split) = (tokens.map(|tokens| tokens.0), None);
    if input_tokens.is_some() || output_tokens.is_some() {
        (tokens, split) = self::split(tokens, input_tokens, output_tokens)?;
    }
    Ok(Request { tokens: tokens.unwrap_or(0), split, wishes })
}

#[inline(never)]
fn wishes(
    tags: Option<&Bound<'_, PyAny>>,
    tags_match: Option<&Bound<'_, PyAny>>,
    exclude: Option<&Bound<'_, PyAny>>,
    only: Option<&Bound<'_, PyAny>>,
    dialect: Option<&Bound<'_, PyAny>>,
) -> PyResult<Box<Wishes>> {
    let any_tag = match tags_match.map(|tags_match| text("tags_match", tags_match)).transpose()? {
        None | Some("all") => false,
        Some("any") => true,
        Some(other) => return Err(Error::Configuration(format!("tags_match must be \"all\" or \"any\", not {other:?}")).into()),
    };
    let mut tags: Vec<String> = tags.map(|tags| texts("tags", tags)).transpose()?.unwrap_or_default();
    // The tags are sorted, since sets have no order. So an index knows them again.
    tags.sort_unstable();
    tags.dedup();
    let exclude = exclude.map(|ids| texts("exclude", ids)).transpose()?.unwrap_or_default();
    let only = optional(only, |ids| texts("only", ids))?;
    Ok(Box::new(Wishes { tags, any_tag, exclude, only, dialect: optional(dialect, self::dialect)?, by_default: None }))
}
