//! What the calls of `turnout.execution` need of a router: its time and its chance, the budget of retries,
//! the counts of attempts, and a first attempt in one step.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use super::args::whole;
use super::attached::Attached;
use crate::attempts::{AttemptCounts, Budget, BudgetRules};
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::time::nanos;
use crate::router::Router;

/// The most budgets of a router. Options of calls may have budgets of their own; the oldest of these goes.
const MOST_BUDGETS: usize = 64;

/// What all calls of a router share.
pub(crate) struct Attempts {
    pub(super) counts: AttemptCounts,
    budgets: Mutex<Vec<(BudgetRules, Arc<Budget>)>>,
    /// How calls without options of their own begin.
    plain: Mutex<Plain>,
}

/// How calls without options of their own begin.
#[derive(Clone, Default)]
pub(super) struct Plain {
    /// Whether the first attempt needs a plan: a model name or a block has options, or somebody listens.
    pub(super) needs_plan: bool,
    /// What the calls pay into; None for nothing.
    pub(super) budget: Option<Arc<Budget>>,
}

impl Attempts {
    pub(super) fn new() -> Self {
        Self { counts: AttemptCounts::default(), budgets: Mutex::default(), plain: Mutex::default() }
    }

    /// Returns the budget with these numbers. Makes it first, if there is none.
    pub(super) fn budget(&self, router: &Router<Attached>, rules: BudgetRules) -> Result<Arc<Budget>, Error> {
        let mut budgets = hold(&self.budgets);
        if let Some((_, budget)) = budgets.iter().find(|(known, _)| *known == rules) {
            return Ok(Arc::clone(budget));
        }
        let budget = Arc::new(Budget::new(rules, router.clock().now())?);
        if let Some(desk) = router.desk() {
            budget.share_among(desk.members());
        }
        if budgets.len() == MOST_BUDGETS {
            // The router's own stays: what was paid in would be lost.
            let own = hold(&self.plain).budget.clone();
            let is_own = |budget: &Arc<Budget>| own.as_ref().is_some_and(|own| Arc::ptr_eq(own, budget));
            if let Some(oldest) = budgets.iter().position(|(_, budget)| !is_own(budget)) {
                budgets.remove(oldest);
            }
        }
        budgets.push((rules, Arc::clone(&budget)));
        Ok(budget)
    }

    /// Returns how a call without options begins.
    pub(super) fn plain(&self) -> Plain {
        hold(&self.plain).clone()
    }

    /// Lets every call have a plan from now on.
    pub(super) fn use_plans(&self) {
        hold(&self.plain).needs_plan = true;
    }

    /// Follows the options of a router.
    pub(super) fn follow(&self, router: &Router<Attached>, execution: &Bound<'_, PyAny>) -> PyResult<()> {
        let rules = execution.call_method0("budget")?;
        let budget = if rules.is_none() {
            None
        } else {
            let number = |name: &str| rules.getattr(name)?.extract::<f64>();
            let rules = budget_rules(number("share")?, number("per_second")?, number("window")?);
            Some(self.budget(router, rules)?)
        };
        let has_options = execution.getattr("model_options")?.is_truthy()?;
        let mut plain = hold(&self.plain);
        plain.needs_plan |= has_options;
        plain.budget = budget;
        Ok(())
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn budget_rules(share: f64, per_second: f64, window: f64) -> BudgetRules {
    BudgetRules { share, per_second, window: nanos(window).unwrap_or(0) }
}

/// The budget that the further attempts of a router's calls are paid from.
#[pyclass(name = "_RetryBudget", module = "turnout._core", frozen)]
pub(crate) struct PyRetryBudget {
    pub(super) budget: Arc<Budget>,
    pub(super) clock: Clock,
}

#[pymethods]
impl PyRetryBudget {
    /// Pay in the share of a call.
    fn deposit(&self) {
        self.budget.deposit(self.clock.now());
    }

    /// Take out attempts, all or none. Return whether there were so many.
    #[pyo3(signature = (attempts, /))]
    fn withdraw(&self, attempts: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self.budget.withdraw(whole("attempts", 0, u32::MAX, attempts)?, self.clock.now()))
    }

    /// Give back attempts that did not begin.
    #[pyo3(signature = (attempts, /))]
    fn put_back(&self, attempts: &Bound<'_, PyAny>) -> PyResult<()> {
        self.budget.put_back(whole("attempts", 0, u32::MAX, attempts)?, self.clock.now());
        Ok(())
    }

    /// Return how many attempts can be taken out now.
    fn balance(&self) -> u64 {
        self.budget.balance(self.clock.now())
    }
}
