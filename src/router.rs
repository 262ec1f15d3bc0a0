//! The one public door.

use std::hint::black_box;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::clock::{Clock, Nanos, Now};
use crate::context::{RoutingContext, Usage};
use crate::deployment::Deployment;
use crate::error::Error;
use crate::explain::{Explanation, Notes};
use crate::group::Group;
use crate::health::{FailureKind, HealthRules};
use crate::index::{self, Filter};
use crate::learn::{self, Learning, Observed};
use crate::lease::Lease;
use crate::limits::{Demand, Minute, Unit};
use crate::registry::{Attachment, Common, Entry, Registry, Removed};
use crate::rng::Rng;
use crate::select::{Live, Request, Unobserved, Walk};
use crate::state::{Held, Metrics, Stats};
use crate::strategy::Strategy;

/// How a router is set up.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The rule for every model name that `strategies` does not name.
    pub strategy: Strategy,
    /// Rules for single model names.
    pub strategies: FxHashMap<Arc<str>, Strategy>,
    /// When deployments cool down and come back.
    pub health: HealthRules,
    /// What is learnt from providers.
    pub learning: Learning,
    /// Makes the random draws repeatable; None seeds from the system.
    pub seed: Option<u64>,
    /// Where the time comes from.
    pub clock: Clock,
}

/// Picks one deployment of a model for every request. `T` is what the application attaches to each deployment.
#[derive(Debug)]
pub struct Router<T: Attachment> {
    pub(crate) registry: Registry<T>,
    rng: Rng,
}

impl<T: Attachment> Router<T> {
    /// A router without deployments.
    ///
    /// # Errors
    /// If the success threshold is 0.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        if settings.health.success_threshold == 0 {
            return Err(Error::Configuration("success_threshold must be at least 1, not 0".to_owned()));
        }
        let common = Common { clock: settings.clock, rules: settings.health, learning: settings.learning };
        Ok(Self { registry: Registry::new(common, settings.strategy, settings.strategies), rng: Rng::new(settings.seed) })
    }

    // --- registry ---

    /// Adds a deployment at the end of its group. One with a known id replaces that one's facts and keeps its state and its place;
    /// with another model name it moves.
    ///
    /// # Errors
    /// If its model name is an alias.
    pub fn add(&self, deployment: Deployment, attachment: T) -> Result<Removed<T>, Error> {
        self.registry.add(deployment, attachment)
    }

    /// Takes a deployment out. Its leases stay valid and harmless.
    ///
    /// # Errors
    /// If there is none with this id.
    pub fn remove(&self, id: &str) -> Result<Removed<T>, Error> {
        self.registry.remove(id)
    }

    /// Replaces all deployments; ids that stay keep their state.
    ///
    /// # Errors
    /// If an id is given twice or a model name is an alias; nothing is changed then.
    pub fn replace_all(&self, deployments: Vec<(Deployment, T)>) -> Result<Removed<T>, Error> {
        self.registry.replace_all(deployments)
    }

    /// The deployment with an id.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, id: &str) -> Result<Arc<Entry<T>>, Error> {
        self.registry.get(id)
    }

    /// All deployments, in registration order.
    #[must_use]
    pub fn deployments(&self) -> Vec<Arc<Entry<T>>> {
        self.registry.all()
    }

    /// The deployments that a model name or alias leads to, in registration order.
    ///
    /// # Errors
    /// If no deployment serves the model.
    pub fn group(&self, name: &str) -> Result<Vec<Arc<Entry<T>>>, Error> {
        self.registry.with_group(name, |_, group| Ok(group.members().map(|(_, entry)| Arc::clone(entry)).collect()))
    }

    /// How many deployments there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.registry.len()
    }

    /// Whether there is no deployment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is a deployment with an id.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.registry.contains(id)
    }

    /// The model names that have a deployment, sorted.
    #[must_use]
    pub fn models(&self) -> Vec<Arc<str>> {
        self.registry.models()
    }

    /// Lets a name stand for another one, which may be an alias itself and need not exist yet.
    ///
    /// # Errors
    /// If a name is empty, the alias is a model name, or the target leads back to it.
    pub fn add_alias(&self, alias: &str, target: &str) -> Result<(), Error> {
        self.registry.add_alias(alias, target)
    }

    /// Takes an alias away and returns what it stood for.
    ///
    /// # Errors
    /// If there is no such alias.
    pub fn remove_alias(&self, alias: &str) -> Result<Arc<str>, Error> {
        self.registry.remove_alias(alias)
    }

    /// The aliases and what they stand for.
    #[must_use]
    pub fn aliases(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.registry.aliases()
    }

    /// The model name that a name leads to.
    ///
    /// # Errors
    /// If no deployment serves it.
    pub fn resolve(&self, name: &str) -> Result<Arc<str>, Error> {
        self.registry.with_group(name, |model_name, _| Ok(Arc::clone(model_name)))
    }

    /// The rule for every model name that has none of its own.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        self.registry.default_strategy()
    }

    /// The rules of single model names.
    pub fn strategies(&self) -> impl Iterator<Item = (&str, Strategy)> {
        self.registry.strategies()
    }

    #[cfg(feature = "python")]
    pub(crate) fn try_visit<E>(&self, visit: impl FnMut(&T) -> Result<(), E>) -> Result<(), E> {
        self.registry.try_visit(visit)
    }

    // --- picks ---

    /// Picks a deployment, reserves nothing, and returns what `found` makes of its id. `found` runs under a lock: it must be short and
    /// must not use the router.
    ///
    /// # Errors
    /// If no deployment serves the model, or none passes every gate.
    #[inline]
    pub fn select<R>(&self, model_name: &str, request: &Request, found: impl FnOnce(&T::Id) -> R) -> Result<R, Error> {
        self.registry.with_group(model_name, |model_name, group| {
            let walk = Walk::new(group, request, self.clock(), &self.rng);
            let mut filter = walk.quotas_are_open().then(|| self.filter(group, request));
            loop {
                // The index answers first, unless a quota is spent, of which it does not know. Where it finds nobody but a walk would,
                // it cannot tell, was asked amid a change that another thread is making, or by a coarse clock took a time for one to
                // come; where it finds somebody whom the request rules out, it was asked amid a change. The walk decides then.
                let picked = match filter.take() {
                    Some(filter) => {
                        // Read for the cache: see `Tree::pick`.
                        let near = |position| _ = black_box(group.id(position).is_some());
                        group.index.lock().pick(group.places(), &filter, &walk.now, &walk.chance, near)
                    }
                    None => walk.choose(&mut Unobserved),
                };
                if let Some(position) = picked
                    && (request.wishes.is_none() || group.member(position).is_some_and(|entry| request.rules_in(entry).is_ok()))
                    && let Some(id) = group.id(position)
                {
                    return Ok(found(id));
                }
                if let Some(error) = walk.refuse(model_name) {
                    return Err(error);
                }
            }
        })
    }

    /// Picks a deployment and reserves, in one step or not at all: one in flight, one request and the request's tokens.
    ///
    /// # Errors
    /// If no deployment serves the model, or none passes every gate.
    #[inline]
    pub fn acquire(&self, model_name: &str, request: &Request) -> Result<Lease<T>, Error> {
        let lease = self.registry.with_group(model_name, |model_name, group| {
            let mut walk = Walk::new(group, request, self.clock(), &self.rng);
            let filter = self.filter(group, request);
            let mut forest = group.index.lock();
            let near = |position| _ = black_box(group.member(position).is_some());
            let picked =
                if walk.quotas_are_open() { forest.pick(group.places(), &filter, &walk.now, &walk.chance, near) } else { None };
            let found = picked.and_then(|position| Some((position, group.member_and_state(position, &self.registry.table)?)));
            if let Some((position, (entry, state))) = found {
                let lease = Lease::reserve(entry, state, request, &walk.now);
                forest.renew(position, entry, &walk.now);
                if let Ok(lease) = lease {
                    return Ok(lease);
                }
            }
            drop(forest);
            // A walk, for what the index cannot answer, for the error, and where the index was asked amid a change: see `select`.
            loop {
                while let Some((position, entry)) =
                    walk.choose(&mut Unobserved).and_then(|position| Some((position, group.member(position)?)))
                {
                    match Lease::reserve(entry, &entry.slot, request, &walk.now) {
                        Ok(lease) => {
                            group.index.lock().renew(position, entry, &walk.now);
                            return Ok(lease);
                        }
                        Err(refusal) => walk.lose(position, refusal),
                    }
                }
                if let Some(error) = walk.refuse(model_name) {
                    return Err(error);
                }
            }
        })?;
        lease.renew_moved();
        Ok(lease)
    }

    /// What the index is asked for.
    #[inline]
    fn filter<'a>(&self, group: &Group<T>, request: &'a Request) -> Filter<'a> {
        let mut filter = Filter { tokens: request.least_tokens(), skips: Vec::new(), lacks_part: request.lacks_part(), tags: None };
        if let Some(wishes) = &request.wishes {
            filter.skips.extend(wishes.exclude.iter().filter_map(|id| self.registry.position_in(group, id)));
            filter.skips.sort_unstable();
            filter.tags = Some(&**wishes).filter(|wishes| !wishes.tags.is_empty());
        }
        filter
    }

    /// Says what a pick would do now, and why; it has no side effect.
    ///
    /// # Errors
    /// If no deployment serves the model.
    pub fn explain(&self, model_name: &str, request: &Request) -> Result<Explanation<T>, Error> {
        self.registry.with_group(model_name, |model_name, group| {
            let mut walk = Walk::new(group, request, self.clock(), &self.rng);
            walk.chance.peek = true;
            let mut notes = Notes::new(group);
            let winner = walk.choose(&mut notes).and_then(|position| group.member(position)).cloned();
            Ok(Explanation {
                model_name: Arc::clone(model_name),
                strategy: group.strategy,
                score_name: notes.score_name,
                retry_after: if winner.is_none() { walk.retry_after() } else { None },
                winner,
                verdicts: notes
                    .verdicts
                    .into_iter()
                    .filter_map(|(position, verdict)| Some((Arc::clone(group.member(position)?), verdict)))
                    .collect(),
            })
        })
    }

    // --- outcomes ---

    /// Takes in a success of a request that was sent without a lease.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn record_success(&self, id: &str, tokens: u64, latency_us: Option<u64>) -> Result<(), Error> {
        self.change(id, |entry, held, now| {
            let minute = charge(entry, held, tokens, now);
            entry.slot.success(held, &entry.common.rules, now, minute, tokens, latency_us);
        })
    }

    /// Takes in a failure of a request that was sent without a lease.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn record_failure(&self, id: &str, kind: FailureKind, retry_after: Option<Nanos>) -> Result<(), Error> {
        self.change(id, |entry, held, now| {
            let (state, rules) = (&*entry.slot, &entry.common.rules);
            let minute = charge(entry, held, 0, now);
            let pause = retry_after.unwrap_or(rules.cooldown_time);
            if kind == FailureKind::RateLimit && learn::refused(entry, held, None, pause, now) {
                state.failed_elsewhere(held);
            } else {
                state.failure(held, rules, now, minute, kind, retry_after);
            }
        })
    }

    /// Takes a deployment out for a while. A cooldown that lasts longer already is not shortened.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn cool_down(&self, id: &str, length: Nanos) -> Result<(), Error> {
        self.change(id, |entry, held, now| entry.slot.health.cool_down(held, now, length))
    }

    /// Takes in what a health check of the application's own found.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn report_health(&self, id: &str, healthy: bool) -> Result<(), Error> {
        self.change(id, |entry, held, now| entry.slot.health.checked(held, now, healthy))
    }

    /// Takes in what the headers of an answer say about a provider's limits, and how long it wants not to be asked.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn observe(&self, id: &str, said: &[Observed], retry_after: Option<Nanos>) -> Result<(), Error> {
        let entry = self.registry.get(id)?;
        let now = self.clock().now();
        learn::observe(&entry, said, retry_after, now, None, now);
        Ok(())
    }

    /// Changes a deployment's counters under their lock, and then its leaf in the index.
    fn change(&self, id: &str, change: impl FnOnce(&Entry<T>, &Held<'_>, Nanos)) -> Result<(), Error> {
        let entry = self.registry.get(id)?;
        let now = self.clock().now();
        change(&entry, &entry.slot.hold(), now);
        index::renew(&entry, &Now::at(self.clock(), now));
        Ok(())
    }

    // --- inspection ---

    /// A deployment's state.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn stats(&self, id: &str) -> Result<Stats, Error> {
        let entry = self.get(id)?;
        Ok(entry.stats(self.clock().now()))
    }

    /// Every deployment's state, in registration order.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Stats> {
        let now = self.clock().now();
        self.registry.all().iter().map(|entry| entry.stats(now)).collect()
    }

    /// Totals over the deployments that are registered now.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let mut metrics = Metrics { models: self.models().len(), ..Metrics::default() };
        self.snapshot().iter().for_each(|stats| metrics.add(stats));
        metrics
    }

    /// What a strategy sees of a deployment.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn routing_context(&self, id: &str) -> Result<RoutingContext, Error> {
        let entry = self.get(id)?;
        let deployment = entry.deployment();
        let now = Now::new(self.clock());
        let stats = entry.stats(now.get());
        let live = Live { entry: &entry, state: &entry.slot, now: &now };
        let tpm = live.fullest(Usage { current: stats.tpm_current, limit: stats.tpm_limit }, |unit| unit != Unit::Requests);
        let rpm = live.fullest(Usage { current: stats.rpm_current, limit: stats.rpm_limit }, |unit| unit == Unit::Requests);
        Ok(RoutingContext {
            deployment_id: stats.deployment_id,
            weight: deployment.weight(),
            priority: deployment.priority(),
            active_requests: stats.in_flight,
            tpm_current: tpm.current,
            tpm_limit: tpm.limit,
            rpm_current: rpm.current,
            rpm_limit: rpm.limit,
            avg_latency_us: stats.avg_latency_us,
        })
    }

    fn clock(&self) -> &Clock {
        &self.registry.common().clock
    }
}

/// Counts a request that was sent without a lease.
fn charge<T>(entry: &Entry<T>, held: &Held<'_>, tokens: u64, now: Nanos) -> Minute {
    if let Some(metering) = &entry.metering {
        metering.with_locks(|locked| locked.charge(Demand { tokens, split: None }, now));
    }
    entry.slot.window.charge(held, now, tokens)
}
