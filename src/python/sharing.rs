//! The class `_Desk`, which a thread of Python carries messages for, and the class `Memory`.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyList;

use super::args::{length, text};
use super::errors::{out_of_range, wrong_type};
use crate::base::error::Error;
use crate::base::time::{Nanos, SECOND, seconds};
use crate::limits::{Batch, Desk, OnLoss, Terms};
use crate::shared::{Message, Reply};
use crate::sharing::{Memory, Sharing};

/// The shortest lease. What a process holds must be kept for longer than it pauses between two messages.
const SHORTEST_TTL: Nanos = SECOND / 10;

/// The owner, the process, and the numbers of a message.
type Told = (String, String, Vec<u64>);

/// Reads the store that a user gives.
pub(super) fn sharing(store: &Bound<'_, PyAny>) -> PyResult<Sharing> {
    if let Ok(memory) = store.cast::<PyMemory>() {
        return Ok(Sharing { memory: Some(Arc::clone(&memory.get().memory)), ..memory.get().sharing.clone() });
    }
    if !store.hasattr("exchange")? {
        return Err(wrong_type("shared", "a store of turnout.shared, or an object with a method exchange", store));
    }
    let option = |name| store.getattr_opt(name);
    options([option("ttl")?, option("busy_ttl")?, option("horizon")?, option("patience")?, option("on_loss")?])
}

/// Reads the options of a store. Those that are left out are as usual.
fn options(given: [Option<Bound<'_, PyAny>>; 5]) -> PyResult<Sharing> {
    let usual = Sharing::default();
    let [ttl, busy_ttl, horizon, patience, on_loss] = given;
    let time = |name, given: Option<Bound<'_, PyAny>>, usual| given.map_or(Ok(usual), |given| length(name, &given));
    let terms = Terms {
        ttl: time("ttl", ttl, usual.terms.ttl)?,
        busy_for: time("busy_ttl", busy_ttl, usual.terms.busy_for)?,
        horizon: time("horizon", horizon, usual.terms.horizon)?,
    };
    if terms.ttl < SHORTEST_TTL {
        return Err(Error::Configuration(format!("ttl must be at least 0.1 seconds, not {}", seconds(terms.ttl))).into());
    }
    if terms.horizon == 0 || terms.horizon > terms.ttl {
        let (most, given) = (seconds(terms.ttl), seconds(terms.horizon));
        return Err(Error::Configuration(format!("horizon must be above 0 and at most ttl, {most}, not {given}")).into());
    }
    let patience = time("patience", patience, usual.patience)?;
    let on_loss = on_loss.map_or(Ok(usual.on_loss), |given| self::on_loss(&given))?;
    Ok(Sharing { terms, on_loss, patience, memory: None })
}

fn on_loss(value: &Bound<'_, PyAny>) -> PyResult<OnLoss> {
    match text("on_loss", value)? {
        "closed" => Ok(OnLoss::Closed),
        "share" => Ok(OnLoss::Share),
        "open" => Ok(OnLoss::Open),
        _ => Err(out_of_range("on_loss", "'closed', 'share' or 'open'", value)),
    }
}

/// A store in the memory of this process, for tests.
#[pyclass(name = "Memory", module = "turnout.shared", frozen, weakref)]
pub(super) struct PyMemory {
    memory: Arc<Memory>,
    sharing: Sharing,
}

#[pymethods]
impl PyMemory {
    #[new]
    #[pyo3(signature = (*, ttl=None, busy_ttl=None, horizon=None, patience=None, on_loss=None),
           text_signature = "(*, ttl=10.0, busy_ttl=60.0, horizon=0.25, patience=0.05, on_loss='share')")]
    fn new(
        ttl: Option<Bound<'_, PyAny>>,
        busy_ttl: Option<Bound<'_, PyAny>>,
        horizon: Option<Bound<'_, PyAny>>,
        patience: Option<Bound<'_, PyAny>>,
        on_loss: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        Ok(Self { memory: Arc::default(), sharing: options([ttl, busy_ttl, horizon, patience, on_loss])? })
    }

    /// Handle messages, in their order, by the wall clock.
    #[pyo3(signature = (batch, /))]
    fn exchange(&self, batch: Vec<Told>) -> Result<Vec<Vec<u64>>, Error> {
        let messages = batch.iter().map(|(owner, process, numbers)| Message::read(owner, process, numbers));
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        let now = u64::try_from(crate::base::wall::micros()).unwrap_or(0);
        Ok(self.memory.exchange(&messages, now).iter().map(Reply::numbers).collect())
    }

    /// Return how often something changed that a router may wait for.
    fn news(&self) -> u64 {
        self.memory.news()
    }

    #[allow(clippy::unused_self)] // a method of Python
    fn __repr__(&self) -> &'static str {
        "Memory()"
    }
}

/// The talk of a router with its store. A thread carries it.
#[pyclass(name = "_Desk", module = "turnout._core", frozen)]
pub(super) struct PyDesk(pub(super) Arc<Desk>);

/// Messages on their way.
#[pyclass(name = "_Batch", module = "turnout._core", frozen)]
pub(super) struct PyBatch(Batch);

#[pymethods]
impl PyBatch {
    /// The messages: the owner, the process and the numbers of each.
    #[getter]
    fn messages<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let told = |message: &Message| (message.owner.to_string(), message.process.to_string(), message.numbers());
        PyList::new(py, self.0.messages.iter().map(told))
    }
}

#[pymethods]
impl PyDesk {
    /// Return the messages that are due; None if there are none.
    fn batch(&self) -> Option<PyBatch> {
        self.0.batch(self.0.now()).map(PyBatch)
    }

    /// Return the messages by which the process gives everything back; None if it has nothing.
    fn farewell(&self) -> Option<PyBatch> {
        self.0.farewell(self.0.now()).map(PyBatch)
    }

    /// Take the replies to a batch: one for each message, None for one that was lost.
    #[pyo3(signature = (batch, replies, /))]
    fn take(&self, batch: &PyBatch, replies: Vec<Option<Vec<u64>>>) -> Result<(), Error> {
        let replies = replies.iter().map(|reply| reply.as_ref().map(|reply| Reply::read(reply)).transpose());
        let replies = replies.collect::<Result<Vec<_>, _>>()?;
        self.0.take(&batch.0, &replies, self.0.now());
        Ok(())
    }

    /// Note that the store did not answer a batch.
    #[pyo3(signature = (batch, /))]
    fn lose(&self, batch: &PyBatch) {
        self.0.lose(&batch.0, self.0.now());
    }

    /// Do what is wanted while the store is lost.
    fn fend(&self) {
        self.0.fend(self.0.now());
    }

    /// Let all that were refused something ask again.
    fn hear_news(&self) {
        self.0.hear_news();
    }

    /// Wake the thread that carries.
    fn ring(&self) {
        self.0.ring();
    }

    /// Sleep until somebody rings, or until a look is due. ``news``: the store has to be asked for news.
    #[pyo3(signature = (news, /))]
    fn rest(&self, py: Python<'_>, news: bool) {
        let at_most = Duration::from_nanos(self.0.rest(self.0.now(), news));
        py.detach(|| self.0.sleep(at_most));
    }

    /// Sleep until somebody rings, at most for so many seconds.
    #[pyo3(signature = (seconds, /))]
    fn sleep(&self, py: Python<'_>, seconds: &Bound<'_, PyAny>) -> PyResult<()> {
        let at_most = Duration::from_nanos(length("seconds", seconds)?);
        py.detach(|| self.0.sleep(at_most));
        Ok(())
    }

    /// Whether the talk is over.
    #[getter]
    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// End the talk.
    fn close(&self) {
        self.0.close();
    }

    /// Begin the talk again.
    fn open(&self) {
        self.0.open();
    }
}
