//! The one public door.

use std::hint::black_box;
use std::sync::Arc;
use std::task::Waker;

use rustc_hash::FxHashMap;

use crate::clock::{Clock, Nanos, Now};
use crate::context::{RoutingContext, Usage};
use crate::deployment::Deployment;
use crate::error::Error;
use crate::events::{Event, Subscription};
use crate::explain::{Explanation, Notes};
use crate::group::Group;
use crate::health::{BreakerRules, Failure, FailureKind, HealthRules};
use crate::index::Filter;
use crate::learn::{self, Learning, Observed};
use crate::lease::Lease;
use crate::limits::{Demand, Minute, Unit};
use crate::outcome::Success;
use crate::registry::{Attachment, Common, Entry, Registry, Removed};
use crate::rng::Rng;
use crate::select::{Live, Request, Unobserved, Waived, Walk};
use crate::state::{Held, Metrics, Stats, mark};
use crate::strategy::Strategy;
use crate::wait::{Patience, Queue, Turn, Waiting};

/// How a router is set up.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The rule for every model name that `strategies` does not name.
    pub strategy: Strategy,
    /// Rules for single model names.
    pub strategies: FxHashMap<Arc<str>, Strategy>,
    /// When deployments cool down and come back.
    pub health: HealthRules,
    /// The rules to follow instead of `health`, if any.
    pub breaker: Option<BreakerRules>,
    /// What is learnt from providers.
    pub learning: Learning,
    /// How many may wait for capacity.
    pub waiting: Waiting,
    /// Makes the random draws repeatable; None seeds from the system.
    pub seed: Option<u64>,
    /// Where the time comes from.
    pub clock: Clock,
}

/// Tells the draws of cooldowns from those of picks.
const JITTER: u64 = 0x6a69_7474_6572;

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
    /// If a number of the rules makes no sense.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        if settings.health.success_threshold == 0 {
            return Err(Error::Configuration("success_threshold must be at least 1, not 0".to_owned()));
        }
        settings.breaker.as_ref().map_or(Ok(()), BreakerRules::check)?;
        let common = Common {
            clock: settings.clock,
            rules: settings.health,
            breaker: settings.breaker,
            jitter: Rng::new(settings.seed.map(|seed| seed ^ JITTER)),
            events: Arc::default(),
            learning: settings.learning,
            queue: Queue::new(settings.waiting),
        };
        Ok(Self { registry: Registry::new(common, settings.strategy, settings.strategies), rng: Rng::new(settings.seed) })
    }

    // --- registry ---

    /// Adds a deployment at the end of its group. One with a known id replaces that one's facts and keeps its state and its place;
    /// with another model name it moves.
    ///
    /// # Errors
    /// If its model name is an alias.
    pub fn add(&self, deployment: Deployment, attachment: T) -> Result<Removed<T>, Error> {
        let removed = self.registry.add(deployment, attachment);
        self.changed();
        removed
    }

    /// Takes a deployment out. Its leases stay valid and harmless.
    ///
    /// # Errors
    /// If there is none with this id.
    pub fn remove(&self, id: &str) -> Result<Removed<T>, Error> {
        let removed = self.registry.remove(id);
        self.changed();
        removed
    }

    /// Replaces all deployments; ids that stay keep their state.
    ///
    /// # Errors
    /// If an id is given twice or a model name is an alias; nothing is changed then.
    pub fn replace_all(&self, deployments: Vec<(Deployment, T)>) -> Result<Removed<T>, Error> {
        let removed = self.registry.replace_all(deployments);
        self.changed();
        removed
    }

    /// Tells of what a change of the deployments has caused, and those who wait that there are others.
    fn changed(&self) {
        self.deliver();
        let queue = &self.registry.common().queue;
        if queue.is_waited_in() {
            queue.wake_all();
        }
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
        let picked = self.registry.with_group(model_name, |model_name, group| {
            let (now, chance) = (Now::new(self.clock()), group.chance(&self.rng));
            let asks_index = group.quotas_are_open(request, &now);
            if asks_index {
                let filter = self.filter(group, request);
                // Read for the cache: see `Tree::pick`.
                let near = |position| _ = black_box(group.id(position).is_some());
                let picked = group.index.lock().pick(group.places(), &filter, &now, &chance, near);
                // Where it finds somebody whom the request rules out, it was asked amid a change.
                if let Some(position) = picked
                    && (request.wishes.is_none() || group.member(position).is_some_and(|entry| request.rules_in(entry).is_ok()))
                    && let Some(id) = group.id(position)
                {
                    return Ok(found(id));
                }
            }
            self.select_by_walk(model_name, group, request, now, asks_index, found)
        });
        self.deliver();
        picked
    }

    /// For what the index cannot answer: where a quota is spent, of which it does not know, and where it finds nobody but a walk would, since
    /// it was asked amid a change that another thread is making, or by a coarse clock took a time for one to come. And for the error, which it
    /// mostly comes to where the index `found_nobody`.
    #[cold]
    fn select_by_walk<R>(
        &self,
        model_name: &Arc<str>,
        group: &Group<T>,
        request: &Request,
        now: Now<'_>,
        mut found_nobody: bool,
        found: impl FnOnce(&T::Id) -> R,
    ) -> Result<R, Error> {
        let mut walk = Walk::new(group, request, self.registry.common(), &self.rng, now);
        loop {
            if found_nobody && let Some(error) = walk.refuse(model_name) {
                return Err(error);
            }
            if let Some(id) = walk.choose(&mut Unobserved).and_then(|position| group.id(position)) {
                return Ok(found(id));
            }
            found_nobody = true;
        }
    }

    /// Picks a deployment and reserves, in one step or not at all: one in flight, one request and the request's tokens.
    ///
    /// # Errors
    /// If no deployment serves the model, or none passes every gate.
    #[inline]
    pub fn acquire(&self, model_name: &str, request: &Request) -> Result<Lease<T>, Error> {
        self.acquire_by_priority(model_name, request, 0)
    }

    /// Like [`Router::acquire`], in the order of this priority among those who wait, lower first. Nobody who waits is overtaken.
    ///
    /// # Errors
    /// As for [`Router::acquire`].
    #[inline]
    pub fn acquire_by_priority(&self, model_name: &str, request: &Request, priority: i32) -> Result<Lease<T>, Error> {
        if self.registry.common().queue.is_waited_in() {
            return self.acquire_in_turn(model_name, request, priority);
        }
        self.acquire_out_of_turn(model_name, request)
    }

    #[cold]
    fn acquire_in_turn(&self, model_name: &str, request: &Request, priority: i32) -> Result<Lease<T>, Error> {
        if self.waiting(model_name)? == 0 {
            return self.acquire_out_of_turn(model_name, request);
        }
        let patience = Patience { timeout: Some(0), priority };
        let waiter = self.wait(model_name, request.clone(), patience, Waker::noop().clone())?;
        match self.poll(&waiter)? {
            Turn::Served(lease) => Ok(lease),
            Turn::Waits(_) => self.acquire_out_of_turn(model_name, request),
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always)] // its other callers are rare
    fn acquire_out_of_turn(&self, model_name: &str, request: &Request) -> Result<Lease<T>, Error> {
        let picked = self.try_acquire(model_name, request);
        self.deliver();
        picked
    }

    /// Tries without a look at who waits. What happens is told by whoever calls it, once they hold no lock.
    #[inline(always)]
    #[allow(clippy::inline_always)] // see `acquire_out_of_turn`
    pub(crate) fn try_acquire(&self, model_name: &str, request: &Request) -> Result<Lease<T>, Error> {
        let picked = self.registry.with_group(model_name, |model_name, group| {
            let (now, chance) = (Now::new(self.clock()), group.chance(&self.rng));
            let asks_index = group.quotas_are_open(request, &now);
            if asks_index {
                let filter = self.filter(group, request);
                let mut forest = group.index.lock();
                let near = |position| _ = black_box(group.member(position).is_some());
                let picked = forest.pick(group.places(), &filter, &now, &chance, near);
                let found = picked.and_then(|position| Some((position, group.member_and_state(position, &self.registry.table)?)));
                if let Some((position, (entry, state))) = found {
                    let lease = Lease::reserve(entry, state, request, Waived::default(), &now);
                    forest.renew(position, entry, &now);
                    if let Ok(lease) = lease {
                        return Ok(lease);
                    }
                }
            }
            self.acquire_by_walk(model_name, group, request, now, asks_index)
        });
        if let Ok(lease) = &picked {
            lease.renew_moved();
        }
        picked
    }

    /// See [`Router::select_by_walk`].
    #[cold]
    fn acquire_by_walk(
        &self,
        model_name: &Arc<str>,
        group: &Group<T>,
        request: &Request,
        now: Now<'_>,
        mut found_nobody: bool,
    ) -> Result<Lease<T>, Error> {
        let mut walk = Walk::new(group, request, self.registry.common(), &self.rng, now);
        loop {
            if found_nobody && let Some(error) = walk.refuse(model_name) {
                return Err(error);
            }
            while let Some((position, entry)) =
                walk.choose(&mut Unobserved).and_then(|position| Some((position, group.member(position)?)))
            {
                match Lease::reserve(entry, &entry.slot, request, walk.waived, &walk.now) {
                    Ok(lease) => {
                        group.index.lock().renew(position, entry, &walk.now);
                        return Ok(lease);
                    }
                    Err(refusal) => walk.lose(position, refusal),
                }
            }
            found_nobody = true;
        }
    }

    /// Why a request is refused now; None if it is not.
    pub(crate) fn refusal(&self, model_name: &str, request: &Request) -> Option<Error> {
        let refuse = |model_name: &_, group: &_| {
            Ok(Walk::new(group, request, self.registry.common(), &self.rng, Now::new(self.clock())).refuse(model_name))
        };
        self.registry.with_group(model_name, refuse).unwrap_or_else(Some)
    }

    /// Whether so few of a group are in service that their health is ignored.
    pub(crate) fn panics(&self, model_name: &str) -> bool {
        let now = Now::new(self.clock());
        self.registry.with_group(model_name, |_, group| Ok(group.panics(self.registry.common(), &now))).unwrap_or(false)
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
            let mut walk = Walk::new(group, request, self.registry.common(), &self.rng, Now::new(self.clock()));
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
                panic: walk.waived.health,
            })
        })
    }

    // --- outcomes ---

    /// Takes in a success of a request that was sent without a lease.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn record_success(&self, id: &str, tokens: u64, latency_us: Option<u64>) -> Result<(), Error> {
        let (entry, now) = (self.get(id)?, self.clock().now());
        entry.succeed(now, &Success { tokens, latency_us, sent_at: now }, |state| {
            let held = state.hold();
            let minute = charge(&entry, &held, tokens, now);
            Some((held, minute))
        });
        Ok(())
    }

    /// Takes in a failure of a request that was sent without a lease.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn record_failure(&self, id: &str, kind: FailureKind, retry_after: Option<Nanos>) -> Result<(), Error> {
        let (entry, now) = (self.get(id)?, self.clock().now());
        entry.fail(now, &Failure { kind, retry_after, sent_at: now, has_lease: false }, |state| {
            let held = state.hold();
            let minute = charge(&entry, &held, 0, now);
            Some((held, minute))
        });
        Ok(())
    }

    /// Takes a deployment out for a while. A cooldown that lasts longer already is not shortened.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn cool_down(&self, id: &str, length: Nanos) -> Result<(), Error> {
        self.get(id)?.cool_down(self.clock().now(), length);
        Ok(())
    }

    /// Takes in what a health check of the application's own found.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn report_health(&self, id: &str, healthy: bool) -> Result<(), Error> {
        self.get(id)?.checked(self.clock().now(), healthy);
        Ok(())
    }

    /// Takes in what the headers of an answer say about a provider's limits, and how long it wants not to be asked.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn observe(&self, id: &str, said: &[Observed], retry_after: Option<Nanos>) -> Result<(), Error> {
        let (entry, now) = (self.get(id)?, self.clock().now());
        learn::observe(&entry, said, retry_after, now, None, now);
        Ok(())
    }

    // --- events ---

    /// Calls `callback` for everything that happens from now on. It is called when the call that caused the event holds no lock any
    /// more, and may use the router.
    pub fn subscribe(&self, callback: impl Fn(&Event) + Send + Sync + 'static) -> Subscription {
        Subscription::new(&self.registry.common().events, Arc::new(callback))
    }

    #[inline]
    pub(crate) fn deliver(&self) {
        self.registry.common().events.deliver();
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
        let panicking = self.registry.panicking();
        let mut metrics = Metrics { models: self.models().len(), panicking, ..Metrics::default() };
        self.snapshot().iter().for_each(|stats| metrics.add(stats));
        metrics.waiting = self.registry.common().queue.waiting() as u64;
        metrics
    }

    /// How many wait for a model name or alias.
    ///
    /// # Errors
    /// If no deployment serves the model.
    pub fn waiting(&self, name: &str) -> Result<usize, Error> {
        Ok(self.registry.common().queue.waiting_for(&self.resolve(name)?))
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
            active_requests: stats.in_flight.saturating_add(stats.penalty),
            tpm_current: tpm.current,
            tpm_limit: tpm.limit,
            rpm_current: rpm.current,
            rpm_limit: rpm.limit,
            avg_latency_us: stats.avg_latency_us,
        })
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.registry.common().clock
    }
}

/// Counts a request that was sent without a lease.
fn charge<T>(entry: &Entry<T>, held: &Held<'_>, tokens: u64, now: Nanos) -> Minute {
    let demand = Demand { tokens, split: None };
    if let Some(metering) = &entry.metering {
        metering.with_locks(|locked| locked.charge(demand, now));
    }
    if entry.slot.marks() & mark::OBSERVED != 0 {
        entry.slot.annex().observed.reserve(demand);
    }
    entry.slot.window.charge(held, now, tokens)
}
