//! Headers of answers for Python.
//!
//! The headers that most clients have are a dict of texts, or a list of pairs. These are read without a step
//! of Python code. What strangers' objects hold is for `turnout.providers.headers` to find out.

use std::borrow::Cow;

use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyFloat, PyList, PyString, PyTuple};

use super::args::{length, optional};
use super::errors::wrong_type;
use super::modules;
use crate::base::time::{Nanos, nanos};
use crate::base::wall;
use crate::limits::Observed;
use crate::said::{self, Heard, MOST_CHARACTERS, MOST_SECONDS, Present, Reader, Time};

/// Servers and clients allow for about a hundred headers; a list may be of any length.
const MOST_HEADERS: usize = 1000;

/// A text that is short enough to be read. Surrogates are replaced: none has a meaning in a header.
fn short<'a>(text: &'a Bound<'_, PyString>) -> Option<Cow<'a, str>> {
    // It need not be decoded to see that it is too long.
    text.code_point_len().is_ok_and(|length| length <= MOST_CHARACTERS).then(|| text.to_string_lossy())
}

fn take(reader: &mut Reader, name: &Bound<'_, PyString>, said: &Bound<'_, PyString>) {
    if let (Some(name), Some(said)) = (short(name), short(said)) {
        reader.take(&name, &said);
    }
}

/// Takes in a header if both its parts are texts of Python's own class. Returns whether they are.
fn take_plain(reader: &mut Reader, name: &Bound<'_, PyAny>, said: &Bound<'_, PyAny>) -> bool {
    let (Ok(name), Ok(said)) = (name.cast_exact::<PyString>(), said.cast_exact::<PyString>()) else { return false };
    take(reader, name, said);
    true
}

/// Reads a dict of texts, or a list or tuple of pairs of texts; None if the headers are anything else.
fn read_plain(headers: &Bound<'_, PyAny>, present: Option<Present>) -> Option<Heard> {
    let mut reader = Reader::new(present);
    let take_pair = |pair: Bound<'_, PyAny>| {
        let Ok(pair) = pair.cast_exact::<PyTuple>() else { return false };
        let [name, said] = pair.as_slice() else { return false };
        take_plain(&mut reader, name, said)
    };
    let is_plain = if let Ok(list) = headers.cast_exact::<PyList>() {
        list.iter().take(MOST_HEADERS).all(take_pair)
    } else if let Ok(tuple) = headers.cast_exact::<PyTuple>() {
        tuple.iter().take(MOST_HEADERS).all(take_pair)
    } else if let Ok(dict) = headers.cast_exact::<PyDict>() {
        // Its entries are held first. Nothing can change it amid that: no object is made, so no garbage is
        // collected, and without the GIL it is locked.
        let entries: Vec<_> = with_critical_section(dict, || dict.iter().take(MOST_HEADERS).collect());
        entries.iter().all(|(name, said)| take_plain(&mut reader, name, said))
    } else {
        false
    };
    is_plain.then(|| reader.finish())
}

/// What headers say: each limit, and how long the provider wants no requests.
pub(crate) type Said = (Vec<Observed>, Option<Nanos>);

fn said_of(heard: &Heard) -> Said {
    let known = heard.limits.iter().filter_map(|limit| {
        let reset = limit.reset.and_then(nanos);
        Some(Observed { unit: limit.unit, limit: limit.limit, remaining: limit.remaining?, reset })
    });
    (known.collect(), heard.retry_after.and_then(nanos))
}

/// Reads the headers of a response, or of an exception that has one, for a lease.
pub(crate) fn read_headers(headers: &Bound<'_, PyAny>) -> PyResult<Said> {
    if let Some(heard) = read_plain(headers, None) {
        return Ok(said_of(&heard));
    }
    let said = modules::READ_RATE_LIMITS.call1(headers.py(), (headers,))?;
    let (retry_after, observed) = said.extract::<(Option<Bound<'_, PyAny>>, Vec<Bound<'_, PyAny>>)>()?;
    said_from(retry_after.as_ref(), observed)
}

/// Converts what `turnout.providers` has read.
pub(crate) fn said_from(retry_after: Option<&Bound<'_, PyAny>>, observed: Vec<Bound<'_, PyAny>>) -> PyResult<Said> {
    let mut known = Vec::new();
    for one in observed {
        let (unit, limit, remaining, reset) = one.extract::<(String, Option<u64>, Option<u64>, Option<Bound<'_, PyAny>>)>()?;
        if let Some(remaining) = remaining {
            let reset = optional(reset.as_ref(), |reset| length("reset", reset))?;
            known.push(Observed { unit: unit.parse()?, limit, remaining, reset });
        }
    }
    Ok((known, optional(retry_after, |seconds| length("retry_after", seconds))?))
}

/// A limit: its unit, how many are admitted, how many are left, and the seconds until that is over.
type Limit = (&'static str, Option<u64>, Option<u64>, Option<f64>);
/// The wait, the limits, when spent ones begin anew, and what the wait is about.
type All<'py> = (Option<f64>, Bound<'py, PyTuple>, Option<f64>, Option<&'static str>);

fn all<'py>(py: Python<'py>, heard: &Heard) -> PyResult<All<'py>> {
    let limits = heard.limits.iter().map(|limit| -> Limit { (limit.unit.name(), limit.limit, limit.remaining, limit.reset) });
    let limits = PyTuple::new(py, limits.collect::<Vec<_>>())?;
    Ok((heard.retry_after, limits, heard.renewed, heard.of_account.then_some("account")))
}

/// The present: microseconds since the epoch, or what an answer's `Date` says.
fn present(now: &Bound<'_, PyAny>) -> PyResult<Option<Present>> {
    if now.is_none() {
        return Ok(None);
    }
    if let Ok(date) = now.cast::<PyString>() {
        return Ok(short(date).and_then(|date| Present::of_date(&date)));
    }
    now.extract().map(|micros| Some(Present::At(micros)))
}

/// Read headers, if they are a dict of texts, or a list or tuple of pairs of texts.
#[pyfunction]
#[pyo3(name = "_read_plain_headers", signature = (headers, now, /))]
pub(crate) fn read_plain_headers<'py>(headers: &Bound<'py, PyAny>, now: &Bound<'py, PyAny>) -> PyResult<Option<All<'py>>> {
    read_plain(headers, present(now)?).map(|heard| all(headers.py(), &heard)).transpose()
}

/// Read headers that are pairs of texts.
#[pyfunction]
#[pyo3(name = "_read_header_pairs", signature = (pairs, now, /))]
pub(crate) fn read_header_pairs<'py>(pairs: &Bound<'py, PyAny>, now: &Bound<'py, PyAny>) -> PyResult<All<'py>> {
    let mut reader = Reader::new(present(now)?);
    let wrong = || wrong_type("pairs", "a list of pairs of str", pairs);
    for pair in pairs.cast::<PyList>().map_err(|_| wrong())?.iter().take(MOST_HEADERS) {
        let (name, said) = pair.extract::<(Bound<'_, PyString>, Bound<'_, PyString>)>().map_err(|_| wrong())?;
        take(&mut reader, &name, &said);
    }
    all(pairs.py(), &reader.finish())
}

/// Return whether the value of a header is read.
#[pyfunction]
#[pyo3(name = "_is_read", signature = (name, /))]
pub(crate) fn is_read(name: &Bound<'_, PyAny>) -> PyResult<bool> {
    let name = name.cast::<PyString>().map_err(|_| wrong_type("name", "a str", name))?;
    Ok(short(name).is_some_and(|name| said::is_known(&name)))
}

/// Read a plain number from 0 to 1e9.
#[pyfunction]
#[pyo3(name = "_read_number", signature = (said, /))]
pub(crate) fn read_number(said: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    if let Ok(said) = said.cast::<PyString>() {
        return Ok(said::number(&said.to_string_lossy(), MOST_SECONDS));
    }
    let said = said.cast::<PyFloat>().map_err(|_| wrong_type("said", "a str or a float", said))?;
    Ok(said::within(said.value(), MOST_SECONDS))
}

/// Read a time: the seconds from now.
#[pyfunction]
#[pyo3(name = "_read_time", signature = (said, /))]
pub(crate) fn read_time(said: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    let said = said.cast::<PyString>().map_err(|_| wrong_type("said", "a str", said))?;
    Ok(short(said).and_then(|said| Time::read(&said)?.seconds(wall::micros)))
}
