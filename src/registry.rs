//! Which deployments there are: by id, in groups by model name, and the aliases of model names.
//!
//! Readers see an entry of a map before or after a change and never amid it, and a pick looks at one group. Changes that touch more than
//! one entry are made one at a time; what must see all entries at once ([`Registry::all`]) waits for its turn among them.
//!
//! Whatever a change takes out is handed back to the caller ([`Removed`]), who drops it when no lock is held: an attachment may run
//! anything when it is dropped.

use std::fmt;
use std::sync::{Arc, PoisonError, Weak};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::clock::{Clock, Nanos, Now};
use crate::deployment::{Deployment, not_empty};
use crate::error::{Error, UnknownDeployment, UnknownModel};
use crate::events::Events;
use crate::group::{Group, Places};
use crate::health::{BreakerRules, Domain, HealthRules};
use crate::index::{Home, Index, NOWHERE};
use crate::learn::Learning;
use crate::limits::{Ledger, Meter, Metering, Quota};
use crate::rng::Rng;
use crate::select::Refusal;
use crate::state::{Slot, StateTable, Stats, mark};
use crate::strategy::{Position, Strategy};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{self, Mutex, MutexGuard};
use crate::wait::Queue;

type Map<V> = sync::Map<Arc<str>, V>;

/// What an application attaches to each deployment.
pub trait Attachment: Send + Sync + 'static {
    /// The id as [`Router::select`](crate::Router::select) hands it out. It lies where a pick finds it without looking at the deployment.
    type Id: fmt::Debug;

    /// The id of a deployment. Called under locks: it must be short and must not use the router.
    fn id(&self, deployment: &Deployment) -> Self::Id;
}

impl Attachment for () {
    type Id = Arc<str>;

    fn id(&self, deployment: &Deployment) -> Arc<str> {
        Arc::clone(deployment.shared_id())
    }
}

/// A registered deployment: its facts, its counters, and what the application attached.
#[derive(Debug)]
#[repr(C)] // what an acquire reads comes first and lies together
pub struct Entry<T> {
    pub(crate) slot: Slot,
    pub(crate) home: Home,
    attachment: T,
    pub(crate) common: Arc<Common<T>>,
    /// Whether it has left the registry.
    left: AtomicBool,
    /// What counts beside the minute window; None for most.
    pub(crate) metering: Option<Box<Metering>>,
    deployment: Deployment,
    /// Registration order over the whole registry.
    order: u64,
    /// Who has its counters now; shared by all that had them.
    heir: Heir<T>,
    /// Its failure domain, where the rules look at it.
    pub(crate) domain: Option<Arc<Domain<T>>>,
}

/// The entry that has a deployment's counters.
type Heir<T> = Arc<Mutex<Weak<Entry<T>>>>;

/// What has become of an entry.
pub(crate) enum Fate<T> {
    Registered,
    /// Its counters belong to this one.
    Replaced(Arc<Entry<T>>),
    Removed,
}

impl<T> Entry<T> {
    /// Its facts.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Its state now.
    pub(crate) fn stats(&self, now: Nanos) -> Stats {
        self.slot.stats(&self.deployment, self.metering.as_deref(), self.common.breaker.as_ref(), now)
    }

    /// What stopped it, in words.
    pub fn describe(&self, refusal: &Refusal) -> String {
        let nth = |nth: u32| usize::try_from(nth).unwrap_or(usize::MAX);
        let quota = |at: u32| self.metering.as_ref().and_then(|metering| Some(metering.quotas().get(nth(at))?.quota()));
        let cause = match refusal {
            Refusal::Limit(spent) => self.deployment.limits().get(nth(spent.nth)).map(ToString::to_string),
            Refusal::Quota { nth: at, spent } => quota(*at).and_then(|quota| {
                let limit = quota.limits().get(nth(spent.nth))?;
                Some(format!("quota {:?}: {limit}", quota.id()))
            }),
            Refusal::ObservedQuota { nth, .. } => quota(*nth).map(|quota| format!("quota {:?}", quota.id())),
            _ => None,
        };
        cause.map_or_else(|| refusal.to_string(), |cause| format!("{cause}: {refusal}"))
    }

    /// What the application attached.
    pub fn attachment(&self) -> &T {
        &self.attachment
    }

    #[inline]
    pub(crate) fn is_registered(&self) -> bool {
        // Relaxed: asked and said around the index's lock, which orders it.
        !self.left.load(Ordering::Relaxed)
    }

    /// Whether it is in the registry, and if not, who has its counters now.
    #[inline]
    pub(crate) fn fate(&self) -> Fate<T> {
        if self.is_registered() {
            return Fate::Registered;
        }
        let heir = self.heir.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        heir.map_or(Fate::Removed, Fate::Replaced)
    }

    /// Says that it leaves the registry, and to whom its counters go. Comes before the index is changed, so that nobody renews its leaf
    /// afterwards.
    fn leave(&self, heir: Option<&Arc<Self>>) {
        *self.heir.lock().unwrap_or_else(PoisonError::into_inner) = heir.map(Arc::downgrade).unwrap_or_default();
        self.left.store(true, Ordering::Relaxed);
        if let Some(rules) = &self.common.breaker
            && heir.is_none_or(|heir| !Arc::ptr_eq(&heir.home.index, &self.home.index))
        {
            self.slot.move_outcomes(&self.slot.hold(), rules, self.home.index.pool(), heir.map(|heir| heir.home.index.pool()));
        }
    }
}

/// What every deployment of a router needs when an outcome comes in, the router itself being gone perhaps.
#[derive(Debug)]
pub(crate) struct Common<T> {
    pub(crate) clock: Clock,
    pub(crate) rules: HealthRules,
    /// Followed instead of `rules`, if there are any.
    pub(crate) breaker: Option<BreakerRules>,
    /// What cooldowns are lengthened by; apart from the draws of picks, which so do not depend on cooldowns.
    pub(crate) jitter: Rng,
    pub(crate) events: Arc<Events>,
    pub(crate) learning: Learning,
    pub(crate) queue: Queue<T>,
}

/// What a change took out of the registry. Drop it where it is harmless.
#[derive(Debug)]
#[must_use]
pub struct Removed<T: Attachment> {
    pub(crate) entries: Vec<Arc<Entry<T>>>,
    pub(crate) ids: Vec<T::Id>,
}

impl<T: Attachment> Default for Removed<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), ids: Vec::new() }
    }
}

impl<T: Attachment> Removed<T> {
    /// The deployments.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.iter().map(|entry| &**entry)
    }
}

/// So many aliases are followed from one to the next: more than anybody makes, and an end to a walk among changing ones.
const LONGEST_CHAIN: usize = 100_000;

/// Names are compared for likeness only among so many: a wrong name must not cost more than a pick.
const MOST_COMPARED: usize = 1000;

/// Nor are longer ones, for the same reason: names come from requests.
const LONGEST_COMPARED: usize = 100;

#[derive(Debug)]
pub(crate) struct Registry<T: Attachment> {
    deployments: Map<Arc<Entry<T>>>,
    groups: Map<Group<T>>,
    aliases: Map<Arc<str>>,
    /// Failure domains, for as long as a deployment is in one.
    domains: Mutex<FxHashMap<Arc<str>, Weak<Domain<T>>>>,
    /// Held for the length of a change.
    changing: Mutex<Changes>,
    pub(crate) table: Arc<StateTable>,
    common: Arc<Common<T>>,
    default_strategy: Strategy,
    strategies: FxHashMap<Arc<str>, Strategy>,
}

#[derive(Debug, Default)]
struct Changes {
    /// The order of the next deployment to be registered.
    next_order: u64,
    /// What counts the quotas that somebody is under, by their ids.
    ledgers: FxHashMap<Arc<str>, Weak<Ledger>>,
    /// The serial number of the next of these.
    next_serial: u64,
}

impl Changes {
    fn next(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    /// The ledger of a quota: the one in use, or one that goes on where that is if its limits are others.
    fn ledger(&mut self, quota: &Quota, now: Nanos) -> Arc<Ledger> {
        let before = self.ledgers.get(quota.id()).and_then(Weak::upgrade);
        if let Some(same) = before.as_ref().filter(|ledger| ledger.quota() == quota) {
            return Arc::clone(same);
        }
        self.next_serial += 1;
        let ledger = Arc::new(Ledger::new(quota, self.next_serial, before.as_deref(), now));
        // What nobody is under any more goes when there is as much of it as of the rest.
        if self.ledgers.len() == self.ledgers.capacity() {
            self.ledgers.retain(|_, ledger| ledger.strong_count() > 0);
        }
        self.ledgers.insert(Arc::clone(quota.shared_id()), Arc::downgrade(&ledger));
        ledger
    }

    /// What counts for a deployment that takes the place of another one, or of none.
    fn metering<T>(&mut self, deployment: &Deployment, old: Option<&Entry<T>>, clock: &Clock) -> Option<Box<Metering>> {
        if deployment.limits().is_empty() && deployment.quotas().is_empty() {
            return None;
        }
        let now = clock.now();
        let quotas = deployment.quotas().iter().map(|quota| self.ledger(quota, now)).collect();
        let _held = old.map(|old| old.slot.hold());
        let before = old.and_then(|old| old.metering.as_ref()).map_or(&[][..], |metering| metering.own());
        Some(Box::new(Metering::new(Meter::all(deployment.limits(), before, now), quotas)))
    }
}

pub(crate) fn too_many() -> Error {
    Error::Configuration("a router holds at most 2^32 deployments".to_owned())
}

impl<T: Attachment> Registry<T> {
    pub(crate) fn new(common: Common<T>, default_strategy: Strategy, strategies: FxHashMap<Arc<str>, Strategy>) -> Self {
        let common = Arc::new(common);
        if let Clock::Manual(clock) = &common.clock {
            let watch = Arc::downgrade(&common);
            clock.watch(watch);
        }
        Self {
            deployments: Map::default(),
            groups: sync::busy_map(),
            aliases: Map::default(),
            domains: Mutex::default(),
            changing: Mutex::default(),
            table: StateTable::new(),
            common,
            default_strategy,
            strategies,
        }
    }

    pub(crate) fn common(&self) -> &Arc<Common<T>> {
        &self.common
    }

    pub(crate) fn default_strategy(&self) -> Strategy {
        self.default_strategy
    }

    pub(crate) fn strategies(&self) -> impl Iterator<Item = (&str, Strategy)> {
        self.strategies.iter().map(|(name, &strategy)| (&**name, strategy))
    }

    fn change(&self) -> MutexGuard<'_, Changes> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- deployments ---

    pub(crate) fn len(&self) -> usize {
        self.deployments.len()
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.deployments.contains_key(id)
    }

    pub(crate) fn get(&self, id: &str) -> Result<Arc<Entry<T>>, Error> {
        self.deployments.get(id).map(|entry| Arc::clone(&entry)).ok_or_else(|| self.deployment_not_found(id))
    }

    /// The place that a deployment has in a group, if it is there. Amid a change it may be the place of another.
    pub(crate) fn position_in(&self, group: &Group<T>, id: &str) -> Option<Position> {
        let entry = self.deployments.get(id)?;
        Arc::ptr_eq(&entry.home.index, &group.index).then(|| entry.home.position())
    }

    /// All deployments at one moment, in registration order.
    pub(crate) fn all(&self) -> Vec<Arc<Entry<T>>> {
        let changes = self.change();
        let mut entries: Vec<_> = self.deployments.iter().map(|entry| Arc::clone(&entry)).collect();
        drop(changes);
        entries.sort_unstable_by_key(|entry| entry.order);
        entries
    }

    /// Calls `visit` for every attachment, unless a change is being made.
    #[cfg(feature = "python")]
    pub(crate) fn try_visit<E>(&self, mut visit: impl FnMut(&T) -> Result<(), E>) -> Result<(), E> {
        let Ok(_changes) = self.changing.try_lock() else { return Ok(()) };
        self.deployments.iter().try_for_each(|entry| visit(&entry.attachment))
    }

    /// Adds a deployment, or replaces the facts of the one with its id.
    pub(crate) fn add(&self, deployment: Deployment, attachment: T) -> Result<Removed<T>, Error> {
        let mut changes = self.change();
        self.must_not_be_alias(&deployment)?;
        self.quotas_must_agree(&changes, &deployment)?;
        let old = self.deployments.get(deployment.id()).map(|entry| Arc::clone(&entry));
        let stays = old.as_ref().filter(|old| old.deployment.model_name() == deployment.model_name()).cloned();
        let (slot, heir) = self.slot(old.as_deref())?;
        let model_name = Arc::clone(deployment.shared_model_name());
        // Changes come one at a time, so what this finds still holds when the entry gets its place.
        let (index, next) = match self.groups.get(&model_name) {
            Some(group) => (Arc::clone(&group.index), group.next_position()?),
            None => (self.index(&model_name), 0),
        };
        let (position, order) = stays.as_ref().map_or_else(|| (next, changes.next()), |old| (old.home.position(), old.order));
        let metering = changes.metering(&deployment, old.as_deref(), &self.common.clock);
        let entry = self.entry(deployment, (slot, heir, metering), &index, position, order, attachment);
        if stays.is_none() && next > 0 {
            entry.start_slowly();
        }

        let mut removed = Removed::default();
        if let Some(old) = &old {
            old.leave(Some(&entry));
            if stays.is_none() {
                self.leave_group(old, &mut removed);
            }
        }
        let strategy = self.strategy_of(&model_name);
        self.groups.entry(model_name).or_insert_with(|| Group::new(strategy, index)).put(&entry, &mut removed);
        removed.entries.extend(self.deployments.insert(Arc::clone(entry.deployment.shared_id()), entry));
        removed.entries.extend(old.into_iter().chain(stays));
        Ok(removed)
    }

    /// The model names whose groups panic, sorted.
    pub(crate) fn panicking(&self) -> Vec<Arc<str>> {
        let now = Now::new(&self.common.clock);
        let changes = self.change();
        let panicking = self.groups.iter().filter(|group| group.panics(&self.common, &now)).map(|group| Arc::clone(group.key()));
        let mut names: Vec<_> = panicking.collect();
        drop(changes);
        names.sort_unstable();
        names
    }

    /// Takes a deployment out.
    pub(crate) fn remove(&self, id: &str) -> Result<Removed<T>, Error> {
        let _changes = self.change();
        let Some((_, entry)) = self.deployments.remove(id) else { return Err(self.deployment_not_found(id)) };
        entry.leave(None);
        let mut removed = Removed::default();
        self.leave_group(&entry, &mut removed);
        removed.entries.push(entry);
        Ok(removed)
    }

    /// Replaces all deployments.
    pub(crate) fn replace_all(&self, deployments: Vec<(Deployment, T)>) -> Result<Removed<T>, Error> {
        let mut changes = self.change();
        let mut ids = FxHashSet::default();
        let mut quotas: FxHashMap<&str, (&Quota, &str)> = FxHashMap::default();
        for (deployment, _) in &deployments {
            self.must_not_be_alias(deployment)?;
            if !ids.insert(Arc::clone(deployment.shared_id())) {
                return Err(Error::Configuration(format!("the id {:?} is given twice: ids must be unique", deployment.id())));
            }
            for quota in deployment.quotas() {
                let (known, user) = *quotas.entry(quota.id()).or_insert((quota, deployment.id()));
                must_agree(known, user, quota, deployment.id())?;
            }
        }
        let old: Vec<_> =
            deployments.iter().map(|(deployment, _)| self.deployments.get(deployment.id()).map(|old| Arc::clone(&old))).collect();
        let slots = old.iter().map(|old| self.slot(old.as_deref())).collect::<Result<Vec<_>, _>>()?;

        let stays = |deployment: &Deployment, old: &Option<Arc<Entry<T>>>| {
            old.as_ref().is_some_and(|old| old.deployment.model_name() == deployment.model_name())
        };
        let pairs = deployments.iter().map(|(deployment, _)| deployment).zip(&old);
        let staying: FxHashSet<_> =
            pairs.filter(|(new, old)| stays(new, old)).map(|(new, _)| Arc::clone(new.shared_model_name())).collect();
        let mut groups: FxHashMap<Arc<str>, (Arc<Index>, Places<T>)> = FxHashMap::default();
        let mut removed = Removed::default();
        for (((deployment, attachment), (slot, heir)), old) in deployments.into_iter().zip(slots).zip(old) {
            let model_name = deployment.shared_model_name();
            if !groups.contains_key(model_name) {
                let index = self.groups.get(model_name).map(|group| Arc::clone(&group.index));
                let index = index.unwrap_or_else(|| self.index(model_name));
                groups.insert(Arc::clone(model_name), (index, Places::new()));
            }
            if let Some((index, places)) = groups.get_mut(model_name) {
                let joins = !stays(&deployment, &old) && staying.contains(model_name);
                let metering = changes.metering(&deployment, old.as_deref(), &self.common.clock);
                let entry = self.entry(deployment, (slot, heir, metering), index, NOWHERE, changes.next(), attachment);
                if joins {
                    entry.start_slowly();
                }
                places.push(&entry);
                if let Some(old) = old {
                    old.leave(Some(&entry));
                    removed.entries.push(old);
                }
                removed.entries.extend(self.deployments.insert(Arc::clone(entry.deployment.shared_id()), entry));
            }
        }
        let gone = self.deployments.iter().map(|entry| Arc::clone(entry.key())).filter(|id| !ids.contains(id));
        for id in gone.collect::<Vec<_>>() {
            if let Some((_, entry)) = self.deployments.remove(&id) {
                entry.leave(None);
                removed.entries.push(entry);
            }
        }
        // Whoever changed counters of an old entry without knowing that it has left is through when its index has been locked once
        // more; what is made of the counters from here on is up to date.
        for group in &self.groups {
            drop(group.index.lock());
        }
        let models: FxHashSet<Arc<str>> = groups.keys().cloned().collect();
        for (model_name, (index, places)) in groups {
            let strategy = self.strategy_of(&model_name);
            let mut group = self.groups.entry(model_name).or_insert_with(|| Group::new(strategy, index));
            group.replace_all(places, &self.common.clock, &mut removed);
        }
        let gone = self.groups.iter().map(|group| Arc::clone(group.key())).filter(|name| !models.contains(name));
        for name in gone.collect::<Vec<_>>() {
            if let Some((_, group)) = self.groups.remove(&name) {
                group.take_all(&mut removed);
            }
        }
        Ok(removed)
    }

    /// The counters of the deployment that is replaced, or new ones.
    fn slot(&self, old: Option<&Entry<T>>) -> Result<(Slot, Heir<T>), Error> {
        match old {
            Some(old) => Ok((old.slot.clone(), Arc::clone(&old.heir))),
            None => Ok((self.table.claim().ok_or_else(too_many)?, Arc::default())),
        }
    }

    fn entry(
        &self,
        deployment: Deployment,
        (slot, heir, metering): (Slot, Heir<T>, Option<Box<Metering>>),
        index: &Arc<Index>,
        position: Position,
        order: u64,
        attachment: T,
    ) -> Arc<Entry<T>> {
        slot.mark(&slot.hold(), mark::METERED, metering.is_some());
        let domain = self.domain(&deployment);
        let entry = Arc::new(Entry {
            slot,
            home: Home::new(index, position),
            attachment,
            common: Arc::clone(&self.common),
            left: AtomicBool::new(false),
            metering,
            deployment,
            order,
            heir,
            domain,
        });
        if let Some(domain) = &entry.domain {
            domain.enter(&entry);
        }
        entry
    }

    fn index(&self, model_name: &str) -> Arc<Index> {
        Arc::new(Index::new(self.strategy_of(model_name), self.common.breaker.as_ref()))
    }

    /// The failure domain of a deployment, where the rules look at it.
    fn domain(&self, deployment: &Deployment) -> Option<Arc<Domain<T>>> {
        let name = deployment.shared_domain().filter(|_| self.common.breaker.is_some())?;
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        let known = domains.get(name).and_then(Weak::upgrade);
        Some(known.unwrap_or_else(|| {
            if domains.len() == domains.capacity() {
                domains.retain(|_, domain| domain.strong_count() > 0);
            }
            let domain = Arc::new(Domain::new());
            domains.insert(Arc::clone(name), Arc::downgrade(&domain));
            domain
        }))
    }

    fn strategy_of(&self, model_name: &str) -> Strategy {
        self.strategies.get(model_name).copied().unwrap_or(self.default_strategy)
    }

    /// Takes a deployment out of its group, and the group away if it was the last.
    fn leave_group(&self, entry: &Entry<T>, removed: &mut Removed<T>) {
        self.groups.remove_if_mut(entry.deployment.model_name(), |_, group| {
            group.take(entry, removed);
            group.len() == 0
        });
    }

    // --- model names and aliases ---

    /// The model names, sorted.
    pub(crate) fn models(&self) -> Vec<Arc<str>> {
        let changes = self.change();
        let mut names: Vec<_> = self.groups.iter().map(|group| Arc::clone(group.key())).collect();
        drop(changes);
        names.sort_unstable();
        names
    }

    /// Calls `with` with the group that a model name or alias leads to. It runs under a lock and must not come back here.
    #[inline]
    pub(crate) fn with_group<R>(
        &self,
        name: &str,
        with: impl FnOnce(&Arc<str>, &Group<T>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        if let Some(group) = self.groups.get(name) {
            return with(group.key(), group.value());
        }
        let resolved = self.follow(name);
        match resolved.as_ref().and_then(|resolved| self.groups.get(resolved)) {
            Some(group) => with(group.key(), group.value()),
            None => Err(self.model_not_found(name, resolved)),
        }
    }

    /// The aliases and what they stand for.
    pub(crate) fn aliases(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.aliases.iter().map(|alias| (Arc::clone(alias.key()), Arc::clone(alias.value()))).collect()
    }

    pub(crate) fn add_alias(&self, alias: &str, target: &str) -> Result<(), Error> {
        let alias = not_empty("alias", alias)?;
        let target = not_empty("target", target)?;
        let _changes = self.change();
        if self.groups.contains_key(&alias) {
            return Err(Error::Configuration(format!("{alias:?} is a model name: an alias must be a name of its own")));
        }
        let mut way = vec![Arc::clone(&alias)];
        let mut next = Some(Arc::clone(&target));
        while let Some(name) = next {
            let closes = name == alias;
            next = self.aliases.get(&name).map(|next| Arc::clone(&next));
            way.push(name);
            if closes {
                return Err(Error::AliasCycle(way));
            }
        }
        self.aliases.insert(alias, target);
        Ok(())
    }

    pub(crate) fn remove_alias(&self, alias: &str) -> Result<Arc<str>, Error> {
        let _changes = self.change();
        self.aliases.remove(alias).map(|(_, target)| target).ok_or_else(|| Error::AliasNotFound(alias.to_owned()))
    }

    /// Where the aliases lead from a name; None if it is no alias.
    fn follow(&self, name: &str) -> Option<Arc<str>> {
        let mut name = Arc::clone(&*self.aliases.get(name)?);
        // There is no cycle, but aliases that change on the way could keep the walk from ending.
        for _ in 0..LONGEST_CHAIN {
            let Some(next) = self.aliases.get(&name).map(|next| Arc::clone(&next)) else { break };
            name = next;
        }
        Some(name)
    }

    /// A quota's limits are the same for all that are under it.
    fn quotas_must_agree(&self, changes: &Changes, deployment: &Deployment) -> Result<(), Error> {
        let ledger = |quota: &Quota| changes.ledgers.get(quota.id()).and_then(Weak::upgrade);
        for quota in deployment.quotas().iter().filter(|quota| ledger(quota).is_some_and(|ledger| ledger.quota() != *quota)) {
            let others = self.deployments.iter().filter(|other| other.deployment.id() != deployment.id());
            for other in others {
                if let Some(known) = other.deployment.quotas().iter().find(|known| known.id() == quota.id()) {
                    must_agree(known, other.deployment.id(), quota, deployment.id())?;
                }
            }
        }
        Ok(())
    }

    fn must_not_be_alias(&self, deployment: &Deployment) -> Result<(), Error> {
        if self.aliases.contains_key(deployment.model_name()) {
            return Err(Error::Configuration(format!(
                "the model_name {:?} of deployment {:?} is an alias: a model name must be a name of its own",
                deployment.model_name(),
                deployment.id()
            )));
        }
        Ok(())
    }

    // --- names that are not there ---

    #[cold]
    fn model_not_found(&self, name: &str, resolved: Option<Arc<str>>) -> Error {
        let known = self.groups.iter().map(|group| Arc::clone(group.key()));
        let near = nearest(name, known.chain(self.aliases.iter().map(|alias| Arc::clone(alias.key()))));
        Error::ModelNotFound(Box::new(UnknownModel { name: name.to_owned(), resolved, near }))
    }

    #[cold]
    fn deployment_not_found(&self, id: &str) -> Error {
        let near = nearest(id, self.deployments.iter().map(|entry| Arc::clone(entry.key())));
        Error::DeploymentNotFound(Box::new(UnknownDeployment { id: id.to_owned(), near }))
    }
}

fn must_agree(known: &Quota, user: &str, quota: &Quota, id: &str) -> Result<(), Error> {
    if known == quota {
        return Ok(());
    }
    Err(Error::Configuration(format!(
        "the quota {:?} of deployment {id:?} has other limits than that of {user:?}: all that share a quota must give the same, and change \
         it together by set_deployments",
        quota.id()
    )))
}

/// The names most like the one asked for, best first.
fn nearest(name: &str, known: impl Iterator<Item = Arc<str>>) -> Vec<String> {
    const LIKE: f64 = 0.8;
    const MOST: usize = 3;
    if name.len() > LONGEST_COMPARED {
        return Vec::new();
    }
    let mut like: Vec<_> = known
        .take(MOST_COMPARED)
        .filter(|known| known.len() <= LONGEST_COMPARED)
        .map(|known| (strsim::jaro_winkler(&name.to_lowercase(), &known.to_lowercase()), known))
        .filter(|&(likeness, _)| likeness >= LIKE)
        .collect();
    like.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.cmp(y)));
    like.into_iter().take(MOST).map(|(_, known)| known.to_string()).collect()
}
