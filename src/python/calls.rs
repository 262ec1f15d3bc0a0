//! The methods of `Router` that `turnout.execution` calls: a first attempt in one step, the time, chance, the
//! budget and the counts.

use std::sync::Arc;

use pyo3::prelude::*;

use super::args::text;
use super::attempts::{PyRetryBudget, budget_rules};
use super::clock::PyManualClock;
use super::handle::PyRouter;
use super::interrupt;
use super::lease::PyLease;
use crate::attempts::Counted;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::time::seconds;
use crate::facts::Request;

#[pymethods]
impl PyRouter {
    /// Begin a call that has no options and no size: pay into the budget, and acquire. None if it needs a
    /// plan.
    #[pyo3(signature = (model_name, /))]
    fn _begin<'py>(&self, model_name: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyLease>>> {
        let plain = self.attempts.plain();
        if plain.needs_plan {
            return Ok(None);
        }
        let Ok(lease) = self.router.acquire(text("model_name", model_name)?, &Request::default()) else {
            return interrupt::done(None);
        };
        if let Some(budget) = plain.budget {
            budget.deposit(self.router.clock().now());
        }
        self.attempts.counts.add(Counted::Attempt);
        let py = model_name.py();
        PyLease::hand_out(Bound::new(py, PyLease::new(py, lease))?).map(Some)
    }

    /// Let every call have a plan from now on.
    fn _use_plans(&self) {
        self.attempts.use_plans();
    }

    /// Return the budget with these numbers: one for all calls that name them.
    #[pyo3(signature = (share, per_second, window, /))]
    fn _budget(&self, share: f64, per_second: f64, window: f64) -> PyResult<PyRetryBudget> {
        let budget = self.attempts.budget(&self.router, budget_rules(share, per_second, window))?;
        Ok(PyRetryBudget { budget, clock: self.router.clock().clone() })
    }

    /// Count one of ``attempts``, ``retries``, ``fallbacks``, ``hedges`` or ``budget_refusals``.
    #[pyo3(signature = (what, /))]
    fn _count(&self, what: &Bound<'_, PyAny>) -> PyResult<()> {
        let name = text("what", what)?;
        let counted = Counted::ALL.into_iter().find(|what| what.name() == name);
        let what = counted.ok_or_else(|| Error::Configuration(format!("nothing called {name:?} is counted")))?;
        self.attempts.counts.add(what);
        Ok(())
    }

    /// Return the time in seconds. It never steps back.
    fn _now(&self) -> f64 {
        seconds(self.router.clock().now())
    }

    /// Draw a number from 0.0 up to but not including 1.0.
    #[allow(clippy::cast_precision_loss)] // it has 53 bits
    fn _draw(&self) -> f64 {
        const STEPS: u64 = 1 << 53;
        self.router.jitter().below(STEPS) as f64 / STEPS as f64
    }

    /// The clock, if it is moved by hand.
    #[getter]
    fn _clock(&self) -> Option<PyManualClock> {
        match self.router.clock() {
            Clock::Manual(clock) => Some(PyManualClock(Arc::clone(clock))),
            Clock::System(_) => None,
        }
    }

    /// The options of calls, and who is told of them.
    #[getter]
    fn _execution<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.execution.bind(py)
    }
}
