//! The router: the one public door.

use std::sync::{Arc, Weak};
use std::task::Waker;

use rustc_hash::FxHashMap;

#[cfg(feature = "python")]
use crate::base::clock::Clock;
use crate::base::clock::Now;
use crate::base::current::Current;
use crate::base::doorbell::Doorbell;
use crate::base::error::Error;
use crate::base::events::{Event, Subscription};
use crate::base::rng::Rng;
use crate::base::time::Nanos;
use crate::facts::{Deployment, Request};
use crate::gates::routing_context;
use crate::group::{Attachment, Entry, Metrics, Removed, Services, Stats};
use crate::health::{FailureKind, Scope};
use crate::lease::Lease;
use crate::limits::{Desk, Observed};
use crate::pick::{Explanation, Picker};
use crate::registry::{Changed, Newcomer, Registry, Strategies};
use crate::settings::Settings;
use crate::sharing::{Ears, Sharing};
use crate::strategy::{RoutingContext, Strategy};
use crate::wait::{Patience, Progress, Queue, Waiter};

/// A seed is changed by this, so that cooldowns draw other numbers than picks.
const JITTER: u64 = 0x6a69_7474_6572;

/// Picks one deployment of a model for every request. `T` is what the application attaches to each
/// deployment.
///
/// ```
/// use turnout::{Deployment, Request, Router, Settings, Strategy};
///
/// let router = Router::new(Settings { strategy: Strategy::RoundRobin, ..Settings::default() })?;
/// for id in ["azure-eu", "azure-us"] {
///     drop(router.add(Deployment::new(id, "gpt-4o")?, ())?);
/// }
/// let pick = || router.select("gpt-4o", &Request::default(), |id| id.to_string());
/// assert_eq!([pick()?, pick()?, pick()?], ["azure-eu", "azure-us", "azure-eu"]);
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug)]
pub struct Router<T: Attachment> {
    picker: Picker<T>,
    queue: Arc<Queue<T>>,
    shared: Option<Sharing>,
    /// Hears what the talk with a shared store has brought.
    ears: Arc<Ears<T>>,
}

impl<T: Attachment> Drop for Router<T> {
    fn drop(&mut self) {
        if let Some(desk) = self.desk() {
            desk.close();
        }
    }
}

impl<T: Attachment> Router<T> {
    /// Makes a router without deployments.
    ///
    /// # Errors
    /// If a number of the rules makes no sense.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        settings.health.check()?;
        let desk = settings.shared.as_ref().map(|shared| shared.desk(settings.clock.clone()));
        let services = Arc::new(Services {
            clock: settings.clock,
            rules: Current::new(settings.health),
            jitter: Rng::new(settings.seed.map(|seed| seed ^ JITTER)),
            events: Arc::default(),
            learning: Current::new(settings.learning),
            bell: Doorbell::default(),
            desk,
        });
        let queue = Queue::new(Arc::clone(&services), settings.waiting);
        let strategies = Strategies { usual: settings.strategy, single: settings.strategies, tiers: settings.tiers };
        let registry = Registry::new(services, strategies, settings.default_tag);
        let ears = Arc::new(Ears::new(registry.by_id(), &registry.services().events));
        let router = Self { picker: Picker::new(registry, Rng::new(settings.seed)), queue, shared: settings.shared, ears };
        if let Some(desk) = router.desk() {
            let ears: Weak<Ears<T>> = Arc::downgrade(&router.ears);
            desk.connect(ears);
            desk.set_compares(router.compares_in_flight());
        }
        Ok(router)
    }

    // --- registry ---

    /// Adds a deployment at the end of its group. If a deployment has the same id, the new one replaces its
    /// facts and keeps its state and its place. If the model name is another, the deployment moves to that
    /// group.
    ///
    /// If its model name has a `*`, the group serves every name that fits and that is neither a model name
    /// nor an alias. The longest such model name counts.
    ///
    /// # Errors
    /// If its model name is an alias, or if a quota has other limits than in another deployment.
    pub fn add(&self, deployment: Deployment, attachment: T) -> Result<Removed<T>, Error> {
        let removed = self.registry().add(Newcomer::new(deployment, attachment));
        self.finish_change();
        removed
    }

    /// Takes a deployment out. Its leases stay valid and harmless.
    ///
    /// # Errors
    /// If there is none with this id.
    pub fn remove(&self, id: &str) -> Result<Removed<T>, Error> {
        let removed = self.registry().remove(id);
        self.finish_change();
        removed
    }

    /// Replaces all deployments. Ids that stay keep their state.
    ///
    /// # Errors
    /// If an id is given twice, a model name is an alias, or a quota has several meanings. Nothing is changed
    /// then.
    pub fn replace_all(&self, deployments: Vec<(Deployment, T)>) -> Result<Removed<T>, Error> {
        let mut newcomers = deployments.into_iter().map(|(deployment, attachment)| Newcomer::new(deployment, attachment)).collect();
        let removed = self.exchange_all(&mut newcomers);
        self.finish_change();
        removed
    }

    /// Replaces all deployments, and leaves the rest to [`Router::finish_change`]. It runs no code of the
    /// application. On an error the newcomers stay with the caller.
    pub(crate) fn exchange_all(&self, newcomers: &mut Vec<Newcomer<T>>) -> Result<Removed<T>, Error> {
        self.registry().replace_all(newcomers)
    }

    /// Waits until no change is being made.
    #[cfg(feature = "python")]
    pub(crate) fn wait_for_change(&self) {
        self.registry().wait_for_change();
    }

    /// Ends a change of the deployments: wakes all waiters, and delivers the events that were noted.
    pub(crate) fn finish_change(&self) {
        if self.services().bell.is_waited_at() {
            self.services().bell.ring(|room| room.wake_all());
        }
        self.picker.deliver();
    }

    /// Returns the deployment with an id.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, id: &str) -> Result<Arc<Entry<T>>, Error> {
        self.registry().get(id)
    }

    /// Returns all deployments, in registration order.
    #[must_use]
    pub fn deployments(&self) -> Vec<Arc<Entry<T>>> {
        self.registry().all()
    }

    /// Returns the deployments that a model name or alias leads to, in registration order.
    ///
    /// # Errors
    /// If no deployment serves the model.
    pub fn group(&self, name: &str) -> Result<Vec<Arc<Entry<T>>>, Error> {
        self.registry().with_group(name, |_, group| Ok(group.members().map(|(_, entry)| Arc::clone(entry)).collect()))
    }

    /// Returns whether there are so many deployments; with a name, whether it leads to so many.
    #[cfg(feature = "python")]
    pub(crate) fn has(&self, many: u32, name: Option<&str>) -> bool {
        let group_len = |name| self.registry().with_group(name, |_, group| Ok(group.len())).unwrap_or(0);
        // Most routers never had so many. To know that takes less time than a count.
        self.registry().table.may_have(many) && name.map_or_else(|| self.len(), group_len) >= many as usize
    }

    /// Returns how many deployments there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.registry().len()
    }

    /// Returns whether there is no deployment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether there is a deployment with an id.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.registry().contains(id)
    }

    /// Returns the model names that have a deployment, sorted.
    #[must_use]
    pub fn models(&self) -> Vec<Arc<str>> {
        self.registry().models()
    }

    /// Lets a name stand for another name. The other name may be an alias itself, and need not exist yet.
    ///
    /// # Errors
    /// If a name is empty, the alias is a model name, or the target leads back to the alias.
    pub fn add_alias(&self, alias: &str, target: &str) -> Result<(), Error> {
        self.registry().add_alias(alias, target)
    }

    /// Takes an alias away and returns what it stood for.
    ///
    /// # Errors
    /// If there is no such alias.
    pub fn remove_alias(&self, alias: &str) -> Result<Arc<str>, Error> {
        self.registry().remove_alias(alias)
    }

    /// Returns the aliases and what they stand for.
    #[must_use]
    pub fn aliases(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.registry().aliases()
    }

    /// Returns the model name that a name leads to. It has a `*` if that name is one of many that it stands
    /// for.
    ///
    /// # Errors
    /// If no deployment serves that model.
    pub fn resolve(&self, name: &str) -> Result<Arc<str>, Error> {
        self.registry().resolve(name)
    }

    /// Returns the name that the aliases lead to from a name. With `*` among the model names it need not be a
    /// model name.
    ///
    /// # Errors
    /// If no deployment serves that model.
    #[cfg(feature = "python")]
    pub(crate) fn resolve_alias(&self, name: &str) -> Result<Arc<str>, Error> {
        self.resolve(name)?;
        Ok(self.registry().asked_for(name))
    }

    // --- options ---

    /// Changes options while the router is in use. Counts, leases and waiters stay.
    ///
    /// # Errors
    /// If a number of the rules makes no sense. Nothing is changed then.
    pub fn configure(&self, changed: Changed) -> Result<(), Error> {
        let configured = self.change_options(changed);
        self.finish_change();
        configured
    }

    /// Changes options as [`Router::configure`] does, and leaves the rest to [`Router::finish_change`]. It
    /// runs no code of the application.
    pub(crate) fn change_options(&self, changed: Changed) -> Result<(), Error> {
        let configured = self.registry().configure(changed);
        if let Some(desk) = self.desk() {
            desk.set_compares(self.compares_in_flight());
        }
        configured
    }

    /// Returns whether a strategy compares what is in flight.
    fn compares_in_flight(&self) -> bool {
        let strategies = self.registry().strategies();
        strategies.usual.compares_in_flight() || strategies.single.values().any(|strategy| strategy.compares_in_flight())
    }

    /// Returns the strategy of every model name that has none of its own.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        self.registry().strategies().usual
    }

    /// Returns whether the strategies pick among the candidates of the lowest priority only.
    #[must_use]
    pub fn tiers(&self) -> bool {
        self.registry().strategies().tiers
    }

    /// Returns the tag of the deployments that serve requests without tags; None for no such tag.
    #[must_use]
    pub fn default_tag(&self) -> Option<Arc<str>> {
        self.registry().default_tag()
    }

    /// Returns the strategies of single model names.
    #[must_use]
    pub fn strategies(&self) -> FxHashMap<Arc<str>, Strategy> {
        self.registry().strategies().single.clone()
    }

    #[cfg(feature = "python")]
    pub(crate) fn try_visit<E>(&self, visit: impl FnMut(&T) -> Result<(), E>) -> Result<(), E> {
        self.registry().try_visit(visit)
    }

    // --- picks ---

    /// Picks a deployment, reserves nothing, and returns what `found` makes of its id. `found` runs under a
    /// lock: it must be short and must not use the router.
    ///
    /// # Errors
    /// If no deployment serves the model, or none passes every gate.
    #[inline]
    pub fn select<R>(&self, model_name: &str, request: &Request, found: impl FnOnce(&T::Id) -> R) -> Result<R, Error> {
        self.settle();
        let stand_in = self.registry().stand_in(model_name, request);
        self.picker.select(model_name, stand_in.as_ref().unwrap_or(request), found)
    }

    /// Picks a deployment and reserves a place in flight, one request and the request's tokens. It reserves
    /// all three in one step, or nothing.
    ///
    /// # Errors
    /// If no deployment serves the model, or none passes every gate.
    #[inline]
    pub fn acquire(&self, model_name: &str, request: &Request) -> Result<Lease<T>, Error> {
        self.acquire_at(model_name, request, 0)
    }

    /// Like [`Router::acquire`], with a priority among the requests that wait; lower numbers come first. No
    /// waiter of the same or a lower number is overtaken.
    ///
    /// # Errors
    /// As for [`Router::acquire`].
    #[inline]
    pub fn acquire_at(&self, model_name: &str, request: &Request, priority: i32) -> Result<Lease<T>, Error> {
        self.settle();
        let lease = self.try_acquire(model_name, request, priority);
        match lease {
            Err(Error::NoAvailableDeployment(_)) if self.serve_at_once() => self.try_acquire(model_name, request, priority),
            lease => lease,
        }
    }

    /// Lets a store in memory answer what any router has to say, if there is one.
    #[inline]
    fn settle(&self) {
        if let Some(shared) = &self.shared
            && let Some(memory) = &shared.memory
        {
            memory.settle();
        }
    }

    /// Lets a store in memory answer, if there is one and a request lacked something. Returns whether it did.
    #[cold]
    fn serve_at_once(&self) -> bool {
        let memory = self.shared.as_ref().and_then(|shared| shared.memory.as_ref());
        let (Some(memory), Some(desk)) = (memory, &self.services().desk) else { return false };
        let has_rung = desk.take_ring();
        if has_rung {
            memory.serve(desk);
        }
        has_rung
    }

    #[inline]
    fn try_acquire(&self, model_name: &str, request: &Request, priority: i32) -> Result<Lease<T>, Error> {
        let stand_in = self.registry().stand_in(model_name, request);
        let request = stand_in.as_ref().unwrap_or(request);
        let lease = if self.services().bell.is_waited_at() {
            self.queue.acquire(&self.picker, model_name, request, priority)
        } else {
            self.picker.acquire(model_name, request)
        };
        self.picker.deliver();
        lease.map(|lease| lease.asked_for(|| self.registry().asked_for(model_name)))
    }

    /// Like [`Router::acquire`], for a request that may wait. None if a request waits for the model name
    /// already, of whatever priority, or if no deployment is found at once. Then a waiter has to look.
    #[inline]
    pub fn acquire_at_once(&self, model_name: &str, request: &Request) -> Option<Lease<T>> {
        self.settle();
        // Requests that wait for other models are not overtaken.
        if self.services().bell.is_waited_at() && self.queue.is_contended(&self.resolve(model_name).ok()?) {
            return None;
        }
        let stand_in = self.registry().stand_in(model_name, request);
        let lease = self.picker.acquire_at_once(model_name, stand_in.as_ref().unwrap_or(request));
        self.picker.deliver();
        lease.map(|lease| lease.asked_for(|| self.registry().asked_for(model_name)))
    }

    /// Says what a pick would do now, and why. It has no side effect.
    ///
    /// # Errors
    /// If no deployment serves the model.
    pub fn explain(&self, model_name: &str, request: &Request) -> Result<Explanation<T>, Error> {
        self.settle();
        let stand_in = self.registry().stand_in(model_name, request);
        self.picker.explain(model_name, stand_in.as_ref().unwrap_or(request))
    }

    // --- waiting ---

    /// Makes a waiter for [`Router::poll`]. It has no place in line before its first poll.
    ///
    /// # Errors
    /// If no deployment serves the model.
    pub fn wait(&self, model_name: &str, request: Request, patience: Patience, waker: Waker) -> Result<Waiter<T>, Error> {
        let names = (self.resolve(model_name)?, self.registry().asked_for(model_name));
        let stand_in = self.registry().stand_in(model_name, &request);
        Ok(self.queue.wait(names, stand_in.unwrap_or(request), patience, waker))
    }

    /// Looks whether a waiter of this router has its lease. It tries for all waiters for its model name, if
    /// something may have changed.
    ///
    /// # Errors
    /// If waiting is over without a lease: waiting would not help, the timeout has come, or too many requests
    /// wait. After the end, poll no more.
    pub fn poll(&self, waiter: &Waiter<T>) -> Result<Progress<T>, Error> {
        match self.queue.poll(&self.picker, waiter) {
            Ok(Progress::Waits(_)) if self.serve_at_once() => self.queue.poll(&self.picker, waiter),
            progress => progress,
        }
    }

    /// Returns how many requests wait for a model name or alias.
    ///
    /// # Errors
    /// If no deployment serves the model.
    pub fn waiting(&self, name: &str) -> Result<usize, Error> {
        Ok(self.queue.waiting_for(&self.resolve(name)?))
    }

    // --- outcomes ---

    /// Records a success of a request that was sent without a lease.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn record_success(&self, id: &str, tokens: u64, latency_us: Option<u64>) -> Result<(), Error> {
        self.get(id)?.record_success(self.now(), tokens, latency_us);
        Ok(())
    }

    /// Records a failure of a request that was sent without a lease. See [`Lease::failure`].
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn record_failure(
        &self,
        id: &str,
        kind: FailureKind,
        retry_after: Option<Nanos>,
        scope: Option<Scope>,
    ) -> Result<(), Error> {
        self.get(id)?.record_failure(self.now(), kind, retry_after, scope);
        Ok(())
    }

    /// Takes a deployment out for a while. A cooldown that already lasts longer is not shortened.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn cool_down(&self, id: &str, length: Nanos) -> Result<(), Error> {
        self.get(id)?.cool_down(self.now(), length);
        Ok(())
    }

    /// Records what a health check of the application's own found.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn report_health(&self, id: &str, healthy: bool) -> Result<(), Error> {
        self.get(id)?.report_health(self.now(), healthy);
        Ok(())
    }

    /// Records what the headers of an answer say about a provider's limits, and how long the provider wants
    /// no requests.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn observe(&self, id: &str, said: &[Observed], retry_after: Option<Nanos>) -> Result<(), Error> {
        let now = self.now();
        self.get(id)?.observe(said, retry_after, None, None, now);
        Ok(())
    }

    // --- events ---

    /// Calls `callback` for every event from now on. It is called when the call that caused the event holds
    /// no lock any more. It may use the router.
    pub fn subscribe(&self, callback: impl Fn(&Event) + Send + Sync + 'static) -> Subscription {
        Subscription::new(&self.services().events, Arc::new(callback))
    }

    // --- inspection ---

    /// Returns a deployment's state.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn stats(&self, id: &str) -> Result<Stats, Error> {
        self.settle();
        let entry = self.get(id)?;
        Ok(entry.stats(self.services().clock.look()))
    }

    /// Returns every deployment's state, in registration order.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Stats> {
        let now = self.services().clock.look();
        self.registry().all().iter().map(|entry| entry.stats(now)).collect()
    }

    /// Returns totals over the deployments that are registered now.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let panicking = self.registry().panicking();
        let mut metrics = Metrics { models: self.models().len(), panicking, ..Metrics::default() };
        self.snapshot().iter().for_each(|stats| metrics.add(stats));
        metrics.waiting = self.queue.waiting() as u64;
        metrics.events_dropped = self.services().events.dropped();
        metrics.sharing = self.desk().map(|desk| desk.stats(self.now()));
        metrics
    }

    /// Returns what a strategy sees of a deployment.
    ///
    /// # Errors
    /// If there is no deployment with this id.
    pub fn routing_context(&self, id: &str) -> Result<RoutingContext, Error> {
        Ok(routing_context(&*self.get(id)?, &Now::new(&self.services().clock)))
    }

    /// Returns what a strategy sees of candidates. If a time to the first token is known of any of them, such
    /// times take the place of the latencies.
    ///
    /// # Errors
    /// If there is no deployment with one of the ids.
    pub fn routing_contexts(&self, ids: &[impl AsRef<str>]) -> Result<Vec<RoutingContext>, Error> {
        let now = Now::new(&self.services().clock);
        let entries: Vec<_> = ids.iter().map(|id| self.get(id.as_ref())).collect::<Result<_, _>>()?;
        let by_first_token = entries.iter().any(|entry| entry.slot.avg_first_token_us() != 0);
        let contexts = entries.iter().map(|entry| {
            let context = routing_context(&**entry, &now);
            if by_first_token { RoutingContext { avg_latency_us: entry.slot.avg_first_token_us(), ..context } } else { context }
        });
        Ok(contexts.collect())
    }

    /// Returns the source of the time.
    #[cfg(feature = "python")]
    pub(crate) fn clock(&self) -> &Clock {
        &self.services().clock
    }

    /// Returns the source of chance that no pick draws from.
    #[cfg(feature = "python")]
    pub(crate) fn jitter(&self) -> &Rng {
        &self.services().jitter
    }

    /// Returns whether it shares limits through a store in memory.
    #[cfg(feature = "python")]
    pub(crate) fn shares_in_memory(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.memory.is_some())
    }

    /// Returns how long a request waits for an answer of a shared store, if it does not want to wait.
    #[cfg(feature = "python")]
    pub(crate) fn patience(&self) -> Nanos {
        self.shared.as_ref().map_or(0, |shared| shared.patience)
    }

    /// Returns its talk with a shared store, if it shares limits.
    pub(crate) fn desk(&self) -> Option<&Arc<Desk>> {
        self.services().desk.as_ref()
    }

    fn now(&self) -> Nanos {
        self.services().clock.now()
    }

    fn services(&self) -> &Services {
        self.registry().services()
    }

    fn registry(&self) -> &Registry<T> {
        &self.picker.registry
    }
}
