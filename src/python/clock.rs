//! The class `ManualClock`.

use std::sync::Arc;

use pyo3::prelude::*;

use super::args::{length, reading};
use super::errors::out_of_range;
use super::interrupt;
use crate::base::manual_clock::ManualClock;
use crate::base::time::seconds;

const ALLOWED_READING: &str = "a step that keeps the reading at 1e10 seconds or less";

/// A clock that moves only when told to, for tests and simulations.
#[pyclass(name = "ManualClock", module = "turnout", frozen)]
pub(crate) struct PyManualClock(pub(crate) Arc<ManualClock>);

#[pymethods]
impl PyManualClock {
    #[new]
    #[pyo3(signature = (start=None), text_signature = "(start=0.0)")]
    fn new(start: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let start = start.map_or(Ok(0), |start| reading("start", start))?;
        Ok(Self(Arc::new(ManualClock::new(start))))
    }

    /// Move the clock forward.
    #[pyo3(signature = (seconds, /))]
    fn advance(&self, seconds: &Bound<'_, PyAny>) -> PyResult<()> {
        let by = length("seconds", seconds)?;
        interrupt::after(if self.0.advance(by) { Ok(()) } else { Err(out_of_range("seconds", ALLOWED_READING, seconds)) })
    }

    /// Set the reading, forward or back.
    #[pyo3(signature = (seconds, /))]
    fn set(&self, seconds: &Bound<'_, PyAny>) -> PyResult<()> {
        self.0.set(reading("seconds", seconds)?);
        interrupt::done(())
    }

    /// Return the reading in seconds.
    fn now(&self) -> f64 {
        seconds(self.0.reading())
    }

    fn __repr__(&self) -> String {
        format!("<ManualClock {:?} s>", self.now())
    }
}
