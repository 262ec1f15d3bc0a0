//! What stores in Python need: the class `_Books`, the books of a store, and names of processes.

use pyo3::prelude::*;

use crate::base::error::Error;
use crate::base::sync::{Mutex, hold};
use crate::shared::{Books, Message, Terms};
use crate::stores::Identity;

/// The books of a store. See `crate::shared`.
#[pyclass(name = "_Books", module = "turnout._core", frozen)]
pub(super) struct PyBooks(Mutex<Books>);

#[pymethods]
impl PyBooks {
    #[new]
    fn new() -> Self {
        Self(Mutex::default())
    }

    /// Handles a message. The numbers are those of the wire (`crate::shared::Message`); times are
    /// microseconds.
    #[pyo3(signature = (owner, process, numbers, *, now, run, life, learn))]
    #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)] // Python's keywords
    fn sync(
        &self,
        owner: &str,
        process: &str,
        numbers: Vec<u64>,
        now: u64,
        run: u64,
        life: u64,
        learn: u64,
    ) -> Result<Vec<u64>, Error> {
        let message = Message::read(owner, process, &numbers)?;
        Ok(hold(&self.0).sync(&message, Terms { now, run, life, learn }).numbers())
    }

    /// Forgets a process that has ended.
    fn bury(&self, process: &str) {
        hold(&self.0).bury(process);
    }

    /// How often something changed that a process may wait for.
    #[getter]
    fn news(&self) -> u64 {
        hold(&self.0).news()
    }

    fn __repr__(&self) -> String {
        format!("_Books(members={})", hold(&self.0).members().count())
    }
}

/// Makes a name for this process, as shared stores know it.
#[pyfunction(name = "_process_name")]
pub(super) fn process_name() -> String {
    Identity::find().new_name()
}
