//! The deployments of a router: by id, in groups by model name, and the aliases of model names.
//!
//! Readers see an entry of a map before or after a change and never amid it, and a pick looks at one group.
//! Changes that touch more than one entry are made one at a time. A reader that must see all entries at one
//! moment ([`Registry::all`]) waits for its turn among the changes.
//!
//! A change hands back to the caller what it takes out ([`Removed`]). The caller drops it when no lock is
//! held: the drop of an attachment may run any code.

mod aliases;
mod by_id;
mod configure;
mod default_tag;
mod ledgers;
mod newcomer;
mod patterns;
mod replace;

use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;

use crate::base::clock::Now;
use crate::base::error::{Error, UnknownDeployment, UnknownModel};
use crate::base::fork;
use crate::base::names::{nearest, not_empty};
use crate::base::position::Position;
use crate::base::sync::atomic::AtomicBool;
use crate::base::sync::{self, Mutex, MutexGuard, hold};
use crate::counters::{Slot, StateTable, mark};
use crate::facts::{Deployment, Request};
use crate::group::{Attachment, Entry, Group, Heir, Home, Removed, Services, too_many};
use crate::health::Domains;
use crate::index::{Index, Place};
use crate::limits::{Metering, Quota};
use crate::strategy::{Order, Strategy};

use aliases::Aliases;
pub(crate) use by_id::ById;
pub use configure::Changed;
use default_tag::DefaultTag;
use ledgers::{Ledgers, must_agree, take_over};
pub(crate) use newcomer::Newcomer;
use patterns::Patterns;

type Map<V> = sync::Map<Arc<str>, V>;

#[derive(Debug)]
pub(crate) struct Registry<T: Attachment> {
    deployments: Arc<ById<T>>,
    groups: Map<Group<T>>,
    aliases: Aliases,
    patterns: Patterns,
    domains: Domains<Entry<T>>,
    /// Held for the length of a change.
    changing: Mutex<Changes>,
    pub(crate) table: Arc<StateTable>,
    services: Arc<Services>,
    strategies: Mutex<Strategies>,
    default_tag: DefaultTag,
}

/// Which strategy each group follows.
#[derive(Debug)]
pub(crate) struct Strategies {
    /// The strategy of the model names that `single` does not name.
    pub(crate) usual: Strategy,
    pub(crate) single: FxHashMap<Arc<str>, Strategy>,
    /// Whether all of them pick by tiers.
    pub(crate) tiers: bool,
}

impl Strategies {
    fn of(&self, model_name: &str) -> Order {
        Order { strategy: self.single.get(model_name).copied().unwrap_or(self.usual), tiers: self.tiers }
    }
}

#[derive(Debug, Default)]
struct Changes {
    /// The order of the last deployment that was registered.
    last_order: u64,
    ledgers: Ledgers,
}

impl Changes {
    fn next_order(&mut self) -> u64 {
        self.last_order += 1;
        self.last_order
    }
}

/// The counters of a deployment, and the record of who has them. They outlive its facts.
struct Inheritance<T> {
    slot: Slot,
    heir: Heir<T>,
}

/// The parts that are made for one entry alone.
struct Belongings<T> {
    inheritance: Inheritance<T>,
    metering: Option<Box<Metering>>,
    place: Place,
    order: u64,
}

impl<T: Attachment> Registry<T> {
    pub(crate) fn new(services: Arc<Services>, strategies: Strategies, default_tag: Option<Arc<str>>) -> Self {
        let deployments = Arc::<ById<T>>::default();
        let forks: Weak<ById<T>> = Arc::downgrade(&deployments);
        fork::tell(forks);
        Self {
            deployments,
            groups: sync::busy_map(),
            aliases: Aliases::default(),
            patterns: Patterns::default(),
            domains: Domains::default(),
            changing: Mutex::default(),
            table: StateTable::new(),
            services,
            strategies: Mutex::new(strategies),
            default_tag: DefaultTag::new(default_tag),
        }
    }

    pub(crate) fn services(&self) -> &Arc<Services> {
        &self.services
    }

    pub(crate) fn by_id(&self) -> &Arc<ById<T>> {
        &self.deployments
    }

    pub(crate) fn strategies(&self) -> MutexGuard<'_, Strategies> {
        hold(&self.strategies)
    }

    fn change(&self) -> MutexGuard<'_, Changes> {
        hold(&self.changing)
    }

    /// Waits until no change is being made.
    #[cfg(feature = "python")]
    pub(crate) fn wait_for_change(&self) {
        drop(self.change());
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

    /// Returns the place that a deployment has in a group, if it is in the group. Amid a change it may be the
    /// place of another deployment.
    pub(crate) fn position_in(&self, group: &Group<T>, id: &str) -> Option<Position> {
        let entry = self.deployments.get(id)?;
        Arc::ptr_eq(&entry.home.index, &group.index).then(|| entry.home.place.position())
    }

    /// Returns all deployments at one moment, in registration order.
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
    pub(crate) fn add(&self, newcomer: Newcomer<T>) -> Result<Removed<T>, Error> {
        let Newcomer { deployment, attachment, id } = newcomer;
        let mut changes = self.change();
        self.must_not_be_alias(&deployment)?;
        self.quotas_must_agree(&changes, &deployment)?;
        let old = self.deployments.get(deployment.id()).map(|entry| Arc::clone(&entry));
        let stays = old.as_ref().filter(|old| old.deployment.model_name() == deployment.model_name()).cloned();
        let inheritance = self.inherit(old.as_deref())?;
        let model_name = Arc::clone(deployment.shared_model_name());
        // Changes come one at a time, so what this finds still holds when the entry gets its place.
        let (index, next) = match self.groups.get(&model_name) {
            Some(group) => (Arc::clone(&group.index), group.next_position()?),
            None => (self.index(&model_name), 0),
        };
        let (position, order) =
            stays.as_ref().map_or_else(|| (next, changes.next_order()), |old| (old.home.place.position(), old.order));
        let metering = changes.ledgers.metering(&deployment, old.as_deref(), &self.services);
        let belongings = Belongings { inheritance, metering, place: Place::new(position), order };
        let entry = self.entry(deployment, attachment, &index, belongings);

        let mut removed = Removed::default();
        if let Some(old) = &old {
            take_over(old, &entry, &self.services.clock);
            if stays.is_none() {
                self.leave_group(old, &mut removed);
            }
        }
        if stays.is_none() && next > 0 {
            entry.join();
        }
        let order = self.order_of(&model_name);
        self.patterns.note(&model_name, true);
        self.groups.entry(model_name).or_insert_with(|| Group::new(order, index)).put(&entry, id, &mut removed);
        removed.entries.extend(self.deployments.insert(Arc::clone(entry.deployment.shared_id()), entry));
        removed.entries.extend(old.into_iter().chain(stays));
        Ok(removed)
    }

    /// Returns the model names whose groups panic, sorted.
    pub(crate) fn panicking(&self) -> Vec<Arc<str>> {
        let now = Now::new(&self.services.clock);
        let changes = self.change();
        let panicking = self.groups.iter().filter(|group| group.panics(&self.services, &now)).map(|group| Arc::clone(group.key()));
        let mut names: Vec<_> = panicking.collect();
        drop(changes);
        names.sort_unstable();
        names
    }

    /// Takes a deployment out.
    pub(crate) fn remove(&self, id: &str) -> Result<Removed<T>, Error> {
        let _changes = self.change();
        let Some((_, entry)) = self.deployments.remove(id) else { return Err(self.deployment_not_found(id)) };
        entry.leave(&entry.slot.hold(), None);
        let mut removed = Removed::default();
        self.leave_group(&entry, &mut removed);
        removed.entries.push(entry);
        Ok(removed)
    }

    /// Returns the counters of the deployment that is replaced, or new ones.
    fn inherit(&self, old: Option<&Entry<T>>) -> Result<Inheritance<T>, Error> {
        match old {
            Some(old) => Ok(Inheritance { slot: old.slot.clone(), heir: Arc::clone(&old.heir) }),
            None => Ok(Inheritance { slot: self.table.claim().ok_or_else(too_many)?, heir: Arc::default() }),
        }
    }

    fn entry(&self, deployment: Deployment, attachment: T, index: &Arc<Index>, belongings: Belongings<T>) -> Arc<Entry<T>> {
        let Belongings { inheritance: Inheritance { slot, heir }, metering, place, order } = belongings;
        if metering.is_some() {
            slot.mark(&slot.hold(), mark::METERED, true);
        }
        let domain = deployment.shared_domain().map(|name| self.domains.get(name));
        let entry = Arc::new(Entry {
            slot,
            home: Home { index: Arc::clone(index), place },
            attachment,
            services: Arc::clone(&self.services),
            left: AtomicBool::new(false),
            own_rules: deployment.shared_health().cloned(),
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
        Arc::new(Index::new(self.order_of(model_name), self.services.rules.get().health()))
    }

    fn order_of(&self, model_name: &str) -> Order {
        self.strategies().of(model_name)
    }

    /// Takes a deployment out of its group. Removes the group too, if it was the last member.
    fn leave_group(&self, entry: &Entry<T>, removed: &mut Removed<T>) {
        let emptied = self.groups.remove_if_mut(entry.deployment.model_name(), |_, group| {
            group.take(entry, removed);
            group.len() == 0
        });
        if let Some((model_name, _)) = emptied {
            self.patterns.note(&model_name, false);
        }
    }

    // --- model names and aliases ---

    /// Returns the model names, sorted.
    pub(crate) fn models(&self) -> Vec<Arc<str>> {
        let changes = self.change();
        let mut names: Vec<_> = self.groups.iter().map(|group| Arc::clone(group.key())).collect();
        drop(changes);
        names.sort_unstable();
        names
    }

    /// Calls `with` with the group that a name leads to: the model name itself, else the one that an alias
    /// stands for, else the longest model name with `*` that fits. `with` runs under a lock and must not use
    /// the registry.
    #[inline]
    pub(crate) fn with_group<R>(
        &self,
        name: &str,
        with: impl FnOnce(&Arc<str>, &Group<T>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        if let Some(group) = self.groups.get(name) {
            return with(group.key(), group.value());
        }
        let resolved = self.aliases.follow(name);
        let exact = resolved.as_ref().and_then(|resolved| self.groups.get(resolved));
        match exact.or_else(|| self.patterns.of(resolved.as_deref().unwrap_or(name)).find_map(|pattern| self.groups.get(&pattern)))
        {
            Some(group) => with(group.key(), group.value()),
            None => Err(self.model_not_found(name, resolved)),
        }
    }

    /// Returns the name that the aliases lead to from a name. It is what a model name with `*` is asked for.
    pub(crate) fn asked_for(&self, name: &str) -> Arc<str> {
        self.aliases.follow(name).unwrap_or_else(|| name.into())
    }

    /// Returns the model name that a model name or alias leads to.
    pub(crate) fn resolve(&self, name: &str) -> Result<Arc<str>, Error> {
        self.with_group(name, |model_name, _| Ok(Arc::clone(model_name)))
    }

    pub(crate) fn default_tag(&self) -> Option<Arc<str>> {
        self.default_tag.get()
    }

    /// Returns the request that takes the place of one in a router with a default tag: see
    /// [`Group::stand_in`].
    #[inline]
    pub(crate) fn stand_in(&self, name: &str, request: &Request) -> Option<Request> {
        let default_tag = self.default_tag()?;
        self.with_group(name, |_, group| Ok(group.stand_in(request, &default_tag))).ok()?
    }

    /// Returns what a request asks for now, if its tags are others than when it was made: the default tag of
    /// the router, or the deployments that have it, may have changed since.
    pub(crate) fn renewed(&self, name: &str, request: &Request) -> Option<Request> {
        let own = request.wishes.as_ref().and_then(|wishes| wishes.by_default.clone());
        let original = own.map(|tags| {
            let mut original = request.clone();
            let wishes = original.wishes.get_or_insert_default();
            (wishes.tags, wishes.by_default) = (tags, None);
            original
        });
        self.stand_in(name, original.as_ref().unwrap_or(request)).or(original)
    }

    pub(crate) fn aliases(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.aliases.all()
    }

    pub(crate) fn add_alias(&self, alias: &str, target: &str) -> Result<(), Error> {
        let alias = not_empty("alias", alias)?;
        let target = not_empty("target", target)?;
        let _changes = self.change();
        if self.groups.contains_key(&alias) {
            return Err(Error::Configuration(format!("{alias:?} is a model name: an alias must be a name of its own")));
        }
        self.aliases.add(alias, target)
    }

    pub(crate) fn remove_alias(&self, alias: &str) -> Result<Arc<str>, Error> {
        let _changes = self.change();
        self.aliases.remove(alias)
    }

    /// Checks that a quota's limits are the same for all deployments that are under it.
    fn quotas_must_agree(&self, changes: &Changes, deployment: &Deployment) -> Result<(), Error> {
        let differs = |quota: &&Quota| changes.ledgers.quota(quota.id()).is_some_and(|known| known != **quota);
        for quota in deployment.quotas().iter().filter(differs) {
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
        if self.aliases.contains(deployment.model_name()) {
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
        let near = nearest(name, known.chain(self.aliases.names()));
        Error::ModelNotFound(Box::new(UnknownModel { name: name.to_owned(), resolved, near }))
    }

    #[cold]
    fn deployment_not_found(&self, id: &str) -> Error {
        let near = nearest(id, self.deployments.iter().map(|entry| Arc::clone(entry.key())));
        Error::DeploymentNotFound(Box::new(UnknownDeployment { id: id.to_owned(), near }))
    }
}
