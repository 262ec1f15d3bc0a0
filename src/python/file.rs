//! The class `_FileLedger`: the ledger that the processes of a host share.

use std::path::PathBuf;

use pyo3::prelude::*;

use super::section;
use crate::base::error::Error;
use crate::base::time::{Nanos, SECOND};
use crate::shared::{Message, Micros, Reply};
use crate::stores::{FileLedger, Lost, Place};

/// How long a batch waits for the file's lock. A process that was stopped may have it.
const PATIENCE: Nanos = SECOND / 2;

/// As many messages, or fewer, take less time than it may take to get the GIL back.
const FEW: usize = 16;

/// A ledger in a file. See `crate::stores`.
#[pyclass(name = "_FileLedger", module = "turnout._core", frozen)]
pub(super) struct PyFileLedger(FileLedger);

#[pymethods]
impl PyFileLedger {
    #[new]
    #[pyo3(signature = (path, *, learn, has_own_folder = false))]
    fn new(path: PathBuf, learn: Micros, has_own_folder: bool) -> Self {
        Self(FileLedger::new(Place::new(path, has_own_folder), learn))
    }

    /// Handles a batch of messages, each an owner, a process and the numbers of the wire.
    #[pyo3(signature = (batch, /))]
    fn exchange(&self, py: Python<'_>, batch: Vec<(String, String, Vec<u64>)>) -> PyResult<Vec<Vec<u64>>> {
        let read = |(owner, process, numbers): &(String, String, Vec<u64>)| Message::read(owner, process, numbers);
        let batch: Vec<_> = batch.iter().map(read).collect::<Result<_, Error>>()?;
        let is_long = batch.len() > FEW;
        let mut handled = section::work(py, is_long, || self.0.exchange(&batch, if is_long { PATIENCE } else { 0 }));
        if !is_long && handled.as_ref().is_err_and(Lost::is_locked) {
            handled = section::work(py, true, || self.0.exchange(&batch, PATIENCE));
        }
        Ok(handled?.iter().map(Reply::numbers).collect())
    }

    /// Another number if something happened that a process may wait for.
    fn news(&self, py: Python<'_>) -> u64 {
        section::work(py, false, || self.0.news())
    }

    /// Closes the file. It is opened again when it is next used.
    fn close(&self, py: Python<'_>) {
        section::work(py, false, || self.0.close());
    }

    fn __repr__(&self) -> String {
        format!("_FileLedger({:?})", self.0.place().path().to_string_lossy())
    }
}
