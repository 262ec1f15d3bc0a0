//! Bodies of requests and answers for Python.

use std::io::Write;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::args::{flag, optional, text};
use super::errors::{out_of_range, wrong_type};
use crate::base::sync::{Mutex, hold};
use crate::wire::{self, Dialect, Quoted, RequestScan, Seen, Stream, Usage};

/// Tokens of an answer: input, output, and input that a cache counts apart.
type Tokens = (u64, u64, u64);

fn bytes<'a, 'py>(name: &str, value: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyBytes>> {
    value.cast().map_err(|_| wrong_type(name, "bytes", value))
}

fn tokens(usage: Usage) -> Tokens {
    (usage.input, usage.output, usage.cached)
}

/// What the body of a request says.
#[pyclass(name = "_RequestScan", module = "turnout._core", frozen)]
pub(crate) struct PyRequestScan(RequestScan);

#[pymethods]
impl PyRequestScan {
    /// The model, if it is a string.
    #[getter]
    fn model(&self) -> Option<&str> {
        self.0.model.as_deref()
    }

    /// Whether `stream` is true.
    #[getter]
    fn stream(&self) -> bool {
        self.0.stream
    }

    /// Most output tokens; None if nothing bounds them.
    #[getter]
    fn most_output(&self) -> Option<u64> {
        self.0.most_output
    }

    /// Whether `stream_options.include_usage` is true.
    #[getter]
    fn include_usage(&self) -> bool {
        self.0.include_usage
    }

    /// Whether `stream_options` is there and not null.
    #[getter]
    fn has_stream_options(&self) -> bool {
        self.0.has_stream_options
    }

    /// The response that this one follows, if it is a string.
    #[getter]
    fn previous_response_id(&self) -> Option<&str> {
        self.0.previous_response_id.as_deref()
    }

    /// The conversation that the request is a part of.
    #[getter]
    fn conversation(&self) -> Option<&str> {
        self.0.conversation.as_deref()
    }

    /// Whether `store` is true.
    #[getter]
    fn store(&self) -> bool {
        self.0.store
    }

    /// Whether `background` is true.
    #[getter]
    fn background(&self) -> bool {
        self.0.background
    }

    /// Strings that hold files.
    #[getter]
    fn inlined_files(&self) -> usize {
        self.0.inlined_files
    }

    /// Bytes of these strings in the body.
    #[getter]
    fn inlined_bytes(&self) -> usize {
        self.0.inlined_bytes
    }
}

/// Read what a router has to know of a request's body.
#[pyfunction]
#[pyo3(name = "_scan_request", signature = (body, /))]
pub(crate) fn scan_request(body: &Bound<'_, PyAny>) -> PyResult<Option<PyRequestScan>> {
    Ok(RequestScan::read(bytes("body", body)?.as_bytes()).map(PyRequestScan))
}

/// Return the body with another model, and with the stream's usage included.
#[pyfunction]
#[pyo3(name = "_rewrite_request", signature = (body, scan, model, include_usage, /))]
pub(crate) fn rewrite_request<'py>(
    body: &Bound<'py, PyAny>,
    scan: &Bound<'py, PyAny>,
    model: &Bound<'py, PyAny>,
    include_usage: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let body = bytes("body", body)?;
    let scan = scan.cast::<PyRequestScan>().map_err(|_| wrong_type("scan", "a _RequestScan", scan))?;
    let model = optional(Some(model), |model| Ok(Quoted::new(text("model", model)?)))?;
    let pieces = scan.get().0.rewrite(body.as_bytes(), model.as_ref(), flag("include_usage", include_usage)?);
    let Some(pieces) = pieces else { return Err(out_of_range("body", "the one that was scanned", body)) };
    if let [_] = *pieces {
        return Ok(body.clone());
    }
    PyBytes::new_with(body.py(), pieces.iter().map(|piece| piece.len()).sum(), |mut rest| {
        pieces.iter().try_for_each(|piece| rest.write_all(piece)).map_err(Into::into)
    })
}

/// Read the tokens that an answer says it used, and whether it is an error.
#[pyfunction]
#[pyo3(name = "_read_answer", signature = (body, /))]
pub(crate) fn read_answer(body: &Bound<'_, PyAny>) -> PyResult<(Option<Tokens>, bool)> {
    let answer = wire::read_answer(bytes("body", body)?.as_bytes());
    Ok((answer.usage.map(tokens), answer.is_error))
}

/// Reads an answer in server-sent events while it is handed on.
#[pyclass(name = "_StreamScanner", module = "turnout._core", frozen)]
pub(crate) struct PyStreamScanner(Mutex<Stream>);

impl PyStreamScanner {
    /// Looks at what was seen. No Python object is made under the lock: that may stop all threads.
    fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(hold(&self.0).seen())
    }
}

#[pymethods]
impl PyStreamScanner {
    #[new]
    #[pyo3(signature = (dialect, drop_usage))]
    fn new(dialect: &Bound<'_, PyAny>, drop_usage: &Bound<'_, PyAny>) -> PyResult<Self> {
        let dialect = match text("dialect", dialect)? {
            "openai" => Dialect::OpenAi,
            "anthropic" => Dialect::Anthropic,
            _ => return Err(out_of_range("dialect", "'openai' or 'anthropic'", dialect)),
        };
        Ok(Self(Mutex::new(Stream::new(dialect, flag("drop_usage", drop_usage)?))))
    }

    /// Take the next bytes, cut anywhere, and return what the client gets.
    #[pyo3(signature = (chunk, /))]
    fn feed<'py>(&self, chunk: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let chunk = bytes("chunk", chunk)?;
        let changed = hold(&self.0).feed(chunk.as_bytes());
        Ok(changed.map_or_else(|| chunk.clone(), |changed| PyBytes::new(chunk.py(), &changed)))
    }

    /// Take the end of the body, and return what was held back.
    fn finish<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let held = hold(&self.0).finish();
        PyBytes::new(py, &held)
    }

    /// Whether an event with data was seen that is no ping.
    #[getter]
    fn has_event(&self) -> bool {
        self.seen(|seen| seen.has_event)
    }

    /// The data of the first error.
    #[getter]
    fn error<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.seen(|seen| seen.error.clone()).map(|error| PyBytes::new(py, &error))
    }

    /// Whether the error was the first event that is no ping.
    #[getter]
    fn error_is_first(&self) -> bool {
        self.seen(|seen| seen.error_is_first)
    }

    /// Whether the last event of the stream was seen.
    #[getter]
    fn ended(&self) -> bool {
        self.seen(|seen| seen.ended)
    }

    /// Whether the model said why it stopped.
    #[getter]
    fn finished(&self) -> bool {
        self.seen(|seen| seen.finished)
    }

    /// The tokens that the answer says it used.
    #[getter]
    fn usage(&self) -> Option<Tokens> {
        self.seen(Seen::usage).map(tokens)
    }

    /// Events with content.
    #[getter]
    fn deltas(&self) -> u64 {
        self.seen(|seen| seen.deltas)
    }
}
