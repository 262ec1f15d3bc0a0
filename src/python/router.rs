//! The class `Router`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use pyo3::exceptions::{PyDeprecationWarning, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyList, PyMapping};
use rustc_hash::FxHashMap;

use super::args::{Kind, Tokens, flag, items, latency_us, length, optional, scope, strategy, text, whole};
use super::attached::Attached;
use super::attempts::Attempts;
use super::clock::PyManualClock;
use super::deployment::PyDeployment;
use super::errors::wrong_type;
use super::handle::PyRouter;
use super::said::read_headers;
use super::sharing::PyDesk;
use super::{interrupt, modules, options, pause, records, section, sharing};
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::names::not_empty;
use crate::facts::Deployment;
use crate::group::Removed;
use crate::health::{FailureKind, MinuteRules, Rules};
use crate::registry::{Changed, Newcomer};
use crate::router::Router;
use crate::settings::Settings;
use crate::strategy::Strategy;

#[pymethods]
impl PyRouter {
    #[new]
    #[pyo3(
        signature = (deployments=None, *, strategy=None, strategies=None, tiers=None, default_tag=None, allowed_fails=None, min_requests=None, cooldown_time=None,
                     success_threshold=None, health=None, learning=None, waiting=None, retry=None, fallbacks=None, timeouts=None,
                     hedge=None, model_options=None, seed=None, clock=None, shared=None),
        text_signature = "(deployments=(), *, strategy='simple_shuffle', strategies=None, tiers=False, default_tag=None, allowed_fails=None, min_requests=None, \
                          cooldown_time=None, success_threshold=None, health=None, learning=None, waiting=None, retry=None, \
                          fallbacks=None, timeouts=None, hedge=None, model_options=None, seed=None, clock=None, shared=None)"
    )]
    #[allow(clippy::too_many_arguments)] // Python's keywords
    fn new(
        py: Python<'_>,
        deployments: Option<&Bound<'_, PyAny>>,
        strategy: Option<&Bound<'_, PyAny>>,
        strategies: Option<&Bound<'_, PyAny>>,
        tiers: Option<&Bound<'_, PyAny>>,
        default_tag: Option<&Bound<'_, PyAny>>,
        allowed_fails: Option<&Bound<'_, PyAny>>,
        min_requests: Option<&Bound<'_, PyAny>>,
        cooldown_time: Option<&Bound<'_, PyAny>>,
        success_threshold: Option<&Bound<'_, PyAny>>,
        health: Option<&Bound<'_, PyAny>>,
        learning: Option<&Bound<'_, PyAny>>,
        waiting: Option<&Bound<'_, PyAny>>,
        retry: Option<&Bound<'_, PyAny>>,
        fallbacks: Option<&Bound<'_, PyAny>>,
        timeouts: Option<&Bound<'_, PyAny>>,
        hedge: Option<&Bound<'_, PyAny>>,
        model_options: Option<&Bound<'_, PyAny>>,
        seed: Option<&Bound<'_, PyAny>>,
        clock: Option<&Bound<'_, PyAny>>,
        shared: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        modules::find_with_router(py)?;
        let health = optional(health, options::rules)?;
        let minute = [
            ("allowed_fails", allowed_fails),
            ("min_requests", min_requests),
            ("cooldown_time", cooldown_time),
            ("success_threshold", success_threshold),
        ];
        let health = match (health, minute.iter().find(|(_, value)| value.is_some())) {
            (Some(_), Some((name, _))) => {
                let message = format!("{name} and health cannot be given together: health has all the rules");
                return Err(Error::Configuration(message).into());
            }
            (Some(rules), None) => rules,
            (None, Some((name, _))) => {
                warn_of_rules(py, name)?;
                let usual = MinuteRules::default();
                Rules::Minute(MinuteRules {
                    allowed_fails: allowed_fails
                        .map_or(Ok(usual.allowed_fails), |fails| whole("allowed_fails", 0, u64::MAX, fails))?,
                    min_requests: min_requests
                        .map_or(Ok(usual.min_requests), |requests| whole("min_requests", 0, u64::MAX, requests))?,
                    majority: usual.majority,
                    cooldown_time: cooldown_time.map_or(Ok(usual.cooldown_time), |time| length("cooldown_time", time))?,
                    success_threshold: success_threshold
                        .map_or(Ok(usual.success_threshold), |successes| whole("success_threshold", 1, u32::MAX, successes))?,
                })
            }
            (None, None) => Rules::default(),
        };
        let clock = optional(clock, |clock| {
            let manual = clock.cast::<PyManualClock>().map_err(|_| wrong_type("clock", "a ManualClock or None", clock))?;
            Ok(Clock::Manual(Arc::clone(&manual.get().0)))
        })?;
        let router = Router::new(Settings {
            strategy: strategy.map_or(Ok(Strategy::default()), self::strategy)?,
            strategies: optional(strategies, per_model)?.unwrap_or_default(),
            tiers: tiers.map_or(Ok(false), |tiers| flag("tiers", tiers))?,
            default_tag: optional(default_tag, |tag| Ok(not_empty("default_tag", text("default_tag", tag)?)?))?,
            health,
            learning: optional(learning, options::learning)?.unwrap_or_default(),
            waiting: optional(waiting, options::waiting)?.unwrap_or_default(),
            seed: optional(seed, |seed| whole("seed", 0, u64::MAX, seed))?,
            clock: clock.unwrap_or_default(),
            shared: optional(shared, sharing::sharing)?,
        })?;
        let store = shared.filter(|shared| !shared.is_none() && !router.shares_in_memory());
        let carrier = router.desk().zip(store).map(|(desk, store)| {
            modules::find_with_store(py)?;
            let desk = Bound::new(py, PyDesk(Arc::clone(desk)))?;
            modules::CARRIER.call1(py, (desk, store)).map(Bound::unbind)
        });
        let carrier = carrier.transpose()?;
        if let Some(deployments) = deployments {
            replace_all(py, &router, deployments)?;
        }
        let execution = modules::EXECUTION.call1(py, (retry, fallbacks, timeouts, hedge, model_options))?;
        let attempts = Attempts::new();
        attempts.follow(&router, &execution)?;
        Ok(Self {
            router,
            subscriptions: Arc::default(),
            attempts,
            execution: execution.unbind(),
            carrier,
            carried_in: AtomicU64::new(0),
        })
    }

    // --- options ---

    /// Change options while the router is in use. Counts, leases, cooldowns and waiters stay.
    #[pyo3(signature = (*, strategy=None, strategies=None, tiers=None, default_tag=None, health=None, learning=None, retry=None, fallbacks=None,
                        timeouts=None, hedge=None, model_options=None))]
    #[allow(clippy::too_many_arguments)] // Python's keywords
    fn configure(
        &self,
        py: Python<'_>,
        strategy: Option<&Bound<'_, PyAny>>,
        strategies: Option<&Bound<'_, PyAny>>,
        tiers: Option<&Bound<'_, PyAny>>,
        default_tag: Option<&Bound<'_, PyAny>>,
        health: Option<&Bound<'_, PyAny>>,
        learning: Option<&Bound<'_, PyAny>>,
        retry: Option<&Bound<'_, PyAny>>,
        fallbacks: Option<&Bound<'_, PyAny>>,
        timeouts: Option<&Bound<'_, PyAny>>,
        hedge: Option<&Bound<'_, PyAny>>,
        model_options: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let execution = self.execution.bind(py).call_method1("configure", (retry, fallbacks, timeouts, hedge, model_options))?;
        let changed = Changed {
            strategy: optional(strategy, self::strategy)?,
            strategies: optional(strategies, per_model)?,
            tiers: optional(tiers, |tiers| flag("tiers", tiers))?,
            default_tag: optional(default_tag, |tag| {
                Ok(Some(text("default_tag", tag)?).filter(|tag| !tag.is_empty()).map(Arc::from))
            })?,
            health: optional(health, options::rules)?,
            learning: optional(learning, options::learning)?,
        };
        let configured = self.work(py, None, |router| router.change_options(changed));
        self.router.finish_change();
        interrupt::after(configured)?;
        self.execution.bind(py).call_method1("take", (&execution,))?;
        self.attempts.follow(&self.router, &execution)
    }

    // --- registry ---

    /// Add a deployment at the end of its group.
    #[pyo3(signature = (deployment, /))]
    fn add_deployment(&self, deployment: &Bound<'_, PyAny>) -> PyResult<()> {
        let (facts, attachment) = self::deployment("deployment", deployment)?;
        interrupt::after(self.in_turn(deployment.py()).add(facts, attachment).map(drop))
    }

    /// Take a deployment out. Its live leases stay valid and harmless.
    #[pyo3(signature = (deployment_id, /))]
    fn remove_deployment(&self, py: Python<'_>, deployment_id: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyDeployment>>> {
        let removed = interrupt::after(self.in_turn(py).remove(text("deployment_id", deployment_id)?))?;
        Ok(removed.iter().next().map(|entry| entry.attachment().deployment.clone_ref(py)))
    }

    /// Replace all deployments. Ids that stay keep their state; live leases of ids that go stay valid and
    /// harmless.
    #[pyo3(signature = (deployments, /))]
    fn set_deployments(&self, deployments: &Bound<'_, PyAny>) -> PyResult<()> {
        replace_all(deployments.py(), &self.router, deployments)
    }

    /// Return the deployment with an id.
    #[pyo3(signature = (deployment_id, /))]
    fn get_deployment(&self, py: Python<'_>, deployment_id: &Bound<'_, PyAny>) -> PyResult<Py<PyDeployment>> {
        Ok(self.router.get(text("deployment_id", deployment_id)?)?.attachment().deployment.clone_ref(py))
    }

    /// List deployments in registration order.
    #[pyo3(signature = (model_name=None, /))]
    fn deployments<'py>(&self, py: Python<'py>, model_name: Option<&Bound<'_, PyAny>>) -> PyResult<Bound<'py, PyList>> {
        let entries = match model_name.filter(|model_name| !model_name.is_none()) {
            Some(name) => {
                let name = text("model_name", name)?;
                self.work(py, Some(name), |router| router.group(name))?
            }
            None => self.work(py, None, Router::deployments),
        };
        PyList::new(py, entries.iter().map(|entry| &entry.attachment().deployment))
    }

    /// List the model names that have a deployment, sorted. Aliases are not among them.
    fn models<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.in_turn(py).models().iter().map(|name| &**name))
    }

    /// Return every alias with the name it stands for.
    fn aliases<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let aliases = PyDict::new(py);
        for (alias, target) in self.router.aliases() {
            aliases.set_item(&*alias, &*target)?;
        }
        Ok(aliases)
    }

    /// Let a name stand for another name. The other name may be an alias itself and need not exist yet. An
    /// old alias of the same name is replaced.
    #[pyo3(signature = (alias, target, /))]
    fn add_alias(&self, alias: &Bound<'_, PyAny>, target: &Bound<'_, PyAny>) -> PyResult<()> {
        Ok(self.in_turn(alias.py()).add_alias(text("alias", alias)?, text("target", target)?)?)
    }

    /// Take an alias away.
    #[pyo3(signature = (alias, /))]
    fn remove_alias(&self, alias: &Bound<'_, PyAny>) -> PyResult<String> {
        Ok(self.in_turn(alias.py()).remove_alias(text("alias", alias)?)?.to_string())
    }

    /// Follow aliases to the model name.
    #[pyo3(signature = (name, /))]
    fn resolve(&self, name: &Bound<'_, PyAny>) -> PyResult<String> {
        Ok(self.router.resolve(text("name", name)?)?.to_string())
    }

    fn __len__(&self) -> usize {
        self.router.len()
    }

    fn __contains__(&self, deployment_id: &Bound<'_, PyAny>) -> bool {
        text("deployment_id", deployment_id).is_ok_and(|id| self.router.contains(id))
    }

    // --- outcomes ---

    /// Report a success of a request that was sent without a lease: it counts as one request of this minute.
    #[pyo3(
        signature = (deployment_id, /, *, tokens=Tokens(0), latency=None),
        text_signature = "($self, deployment_id, /, *, tokens=0, latency=None)"
    )]
    fn record_success(&self, deployment_id: &Bound<'_, PyAny>, tokens: Tokens, latency: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        interrupt::after(self.router.record_success(
            text("deployment_id", deployment_id)?,
            tokens.0,
            optional(latency, latency_us)?,
        ))
    }

    /// Report a failure of a request that was sent without a lease: it counts as one request of this minute.
    #[pyo3(
        signature = (deployment_id, /, kind=Kind(FailureKind::Error), *, retry_after=None, scope=None),
        text_signature = "($self, deployment_id, /, kind='error', *, retry_after=None, scope=None)"
    )]
    fn record_failure(
        &self,
        deployment_id: &Bound<'_, PyAny>,
        kind: Kind,
        retry_after: Option<&Bound<'_, PyAny>>,
        scope: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let retry_after = optional(retry_after, |seconds| length("retry_after", seconds))?;
        let scope = optional(scope, self::scope)?;
        interrupt::after(self.router.record_failure(text("deployment_id", deployment_id)?, kind.0, retry_after, scope))
    }

    /// Record what an answer's headers say about the provider's limits, for requests that were sent without
    /// a lease.
    #[pyo3(signature = (deployment_id, headers, /))]
    fn observe(&self, deployment_id: &Bound<'_, PyAny>, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        let (said, retry_after) = read_headers(headers)?;
        interrupt::after(self.router.observe(text("deployment_id", deployment_id)?, &said, retry_after))
    }

    /// Take a deployment out for a while. A cooldown that already lasts longer is not shortened.
    #[pyo3(signature = (deployment_id, seconds, /))]
    fn cool_down(&self, deployment_id: &Bound<'_, PyAny>, seconds: &Bound<'_, PyAny>) -> PyResult<()> {
        interrupt::after(self.router.cool_down(text("deployment_id", deployment_id)?, length("seconds", seconds)?))
    }

    /// Report what a health check of your own found.
    #[pyo3(signature = (deployment_id, healthy, /))]
    fn report_health(&self, deployment_id: &Bound<'_, PyAny>, healthy: &Bound<'_, PyAny>) -> PyResult<()> {
        interrupt::after(self.router.report_health(text("deployment_id", deployment_id)?, flag("healthy", healthy)?))
    }

    // --- events ---

    /// Call ``callback`` with an :class:`turnout.Event` whenever a deployment or a group changes its state.
    #[pyo3(signature = (callback, /))]
    fn subscribe<'py>(&self, callback: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyCFunction>> {
        if !callback.is_callable() {
            return Err(wrong_type("callback", "a callable", callback));
        }
        self.subscriptions.subscribe(&self.router, callback)
    }

    // --- inspection ---

    /// Return a deployment's state at this moment.
    #[pyo3(signature = (deployment_id, /))]
    fn stats<'py>(&self, py: Python<'py>, deployment_id: &Bound<'_, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        records::deployment_stats(py, &self.router.stats(text("deployment_id", deployment_id)?)?)
    }

    /// Return how many calls wait for capacity now.
    #[pyo3(signature = (model_name, /))]
    fn waiting(&self, model_name: &Bound<'_, PyAny>) -> PyResult<usize> {
        Ok(self.router.waiting(text("model_name", model_name)?)?)
    }

    /// Return every deployment's state as columns: the fields of :class:`turnout.DeploymentStats`, one value
    /// for each deployment.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        records::columns(py, self.work(py, None, Router::snapshot))
    }

    /// Return totals over the deployments that are registered now.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        records::router_metrics(py, &self.work(py, None, Router::metrics), &self.attempts.counts)
    }

    /// The strategy of every model name that has none of its own.
    #[getter]
    fn strategy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        records::strategy(py, self.router.strategy())
    }

    /// Whether the strategies pick among the candidates of the lowest priority only.
    #[getter]
    fn tiers(&self) -> bool {
        self.router.tiers()
    }

    /// The tag of the deployments that serve requests without tags; None if there is no such tag.
    #[getter]
    fn default_tag(&self) -> Option<String> {
        self.router.default_tag().map(|tag| tag.to_string())
    }

    /// The strategies of single model names.
    #[getter]
    fn strategies<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let strategies = PyDict::new(py);
        for (model_name, strategy) in self.router.strategies() {
            strategies.set_item(&*model_name, records::strategy(py, strategy)?)?;
        }
        Ok(strategies)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (class, router) = (slf.get_type().name()?, slf.get().in_turn(slf.py()));
        Ok(format!("<{class} of {} deployments, {} models, {}>", router.len(), router.models().len(), router.strategy()))
    }

    #[allow(clippy::unused_self)] // a method to Python
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("a Router holds live counters and can be neither pickled nor copied: make one in each process"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.subscriptions.traverse(&visit)?;
        visit.call(&self.execution)?;
        visit.call(&self.carrier)?;
        if section::runs() {
            return Ok(());
        }
        self.router.try_visit(|attached| visit.call(&attached.deployment))
    }

    fn __clear__(&self) {
        self.subscriptions.end();
    }

    /// What carries the talk with a shared store; None if nothing has to.
    #[getter]
    fn _carrier(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.carrier.as_ref().map(|carrier| carrier.clone_ref(py))
    }
}

/// Warns that the rules of the minute have a class of their own.
fn warn_of_rules(py: Python<'_>, name: &str) -> PyResult<()> {
    let message = format!("Router({name}=…) is now Router(health=MinuteRules({name}=…)), and other rules are the default");
    PyErr::warn(py, &py.get_type::<PyDeprecationWarning>(), &std::ffi::CString::new(message)?, 1)
}

fn replace_all(py: Python<'_>, router: &Router<Attached>, deployments: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut newcomers = self::deployments(deployments)?;
    let is_long = newcomers.len() >= section::MANY as usize || router.has(section::MANY, None);
    let removed = section::work(py, is_long, || router.exchange_all(&mut newcomers));
    router.finish_change();
    let Removed { entries, ids } = interrupt::after(removed)?;
    pause::drop_all(py, entries)?;
    pause::drop_all(py, ids)
}

fn deployment(name: &str, value: &Bound<'_, PyAny>) -> PyResult<(Deployment, Attached)> {
    let deployment = value.cast::<PyDeployment>().map_err(|_| wrong_type(name, "a Deployment", value))?;
    let facts = deployment.get().facts.clone();
    Ok((facts, Attached { deployment: deployment.clone().unbind(), leads_on: deployment.get().leads_on() }))
}

fn deployments(value: &Bound<'_, PyAny>) -> PyResult<Vec<Newcomer<Attached>>> {
    let items = items("deployments", "an iterable of Deployment", value)?.enumerate().map(|(read, item)| {
        pause::after(value.py(), read)?;
        let (facts, attachment) = deployment("an item of deployments", &item?)?;
        Ok(Newcomer::new(facts, attachment))
    });
    items.collect()
}

fn per_model(value: &Bound<'_, PyAny>) -> PyResult<FxHashMap<Arc<str>, Strategy>> {
    let mapping =
        value.cast::<PyMapping>().map_err(|_| wrong_type("strategies", "a mapping of model names to strategies", value))?;
    let items = mapping.items()?;
    let pairs = items.iter().map(|item| {
        let (model_name, rule) = item.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
        Ok((text("a key of strategies", &model_name)?.into(), strategy(&rule)?))
    });
    pairs.collect()
}
