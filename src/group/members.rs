//! The deployments of one model name.

use std::sync::Arc;

use super::entry::{Attachment, Entry};
use super::services::Services;
use super::tags::{Tags, asks_for};
use crate::base::clock::{Clock, Now};
use crate::base::error::Error;
use crate::base::position::Position;
use crate::base::rng::Rng;
use crate::counters::{State, StateTable};
use crate::facts::{Request, Wishes};
use crate::health::HealthRules;
use crate::index::{self, AnyForest, Index, Members, QuotaBits};
use crate::limits::Quotas;
use crate::strategy::{Chance, Order};

/// The members of a group by their places, in registration order; a place is empty once its member has left.
#[derive(Debug)]
pub(crate) struct Places<T: Attachment> {
    members: Vec<Option<Arc<Entry<T>>>>,
    /// The ids that a select hands out. Like the slots, which an acquire counts in, they are found without a
    /// look at the entry: among very many deployments no entry is in the cache.
    ids: Vec<Option<T::Id>>,
    slots: Vec<u32>,
}

impl<T: Attachment> Places<T> {
    pub(crate) fn new() -> Self {
        Self { members: Vec::new(), ids: Vec::new(), slots: Vec::new() }
    }

    fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn push(&mut self, entry: &Arc<Entry<T>>, id: T::Id) {
        self.members.push(Some(Arc::clone(entry)));
        self.ids.push(Some(id));
        self.slots.push(entry.slot.index());
    }

    /// Puts an entry into the place that it was made for. Returns whether the place was empty.
    fn put(&mut self, entry: &Arc<Entry<T>>, id: T::Id, removed: &mut Removed<T>) -> bool {
        let place = entry.home.place.position() as usize;
        if place == self.len() {
            self.push(entry, id);
            return true;
        }
        let was_empty = self.take(entry.home.place.position(), removed);
        if let (Some(member), Some(its_id), Some(slot)) =
            (self.members.get_mut(place), self.ids.get_mut(place), self.slots.get_mut(place))
        {
            *member = Some(Arc::clone(entry));
            *its_id = Some(id);
            *slot = entry.slot.index();
        }
        was_empty
    }

    /// Empties a place. Returns whether it was empty before.
    fn take(&mut self, position: Position, removed: &mut Removed<T>) -> bool {
        removed.ids.extend(self.ids.get_mut(position as usize).and_then(Option::take));
        let member = self.members.get_mut(position as usize).and_then(Option::take);
        let was_empty = member.is_none();
        removed.entries.extend(member);
        was_empty
    }

    /// Drops the places that are empty. The members learn their new places when the index is rebuilt.
    fn close_up(&mut self) {
        self.members.retain(Option::is_some);
        self.ids.retain(Option::is_some);
        self.slots.clear();
        self.slots.extend(self.members.iter().flatten().map(|member| member.slot.index()));
    }

    /// Empties all places.
    fn take_all(self, removed: &mut Removed<T>) {
        removed.entries.extend(self.members.into_iter().flatten());
        removed.ids.extend(self.ids.into_iter().flatten());
    }
}

/// The deployments of one model name.
#[derive(Debug)]
pub(crate) struct Group<T: Attachment> {
    pub(crate) order: Order,
    pub(crate) index: Arc<Index>,
    places: Places<T>,
    /// How many places are not empty.
    len: usize,
    /// The sum of the members' weights.
    weights: u64,
    tags: Tags,
    /// The quotas that members share with each other or with other groups. An index knows only their bits.
    pub(crate) quotas: Quotas,
}

impl<T: Attachment> Group<T> {
    pub(crate) fn new(order: Order, index: Arc<Index>) -> Self {
        Self { order, index, places: Places::new(), len: 0, weights: 0, tags: Tags::default(), quotas: Quotas::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the place of the next member.
    pub(crate) fn next_position(&self) -> Result<Position, Error> {
        Position::try_from(self.places.len()).map_err(|_| too_many())
    }

    /// Returns all places, as the index knows them.
    pub(crate) fn places(&self) -> &Members<Entry<T>> {
        &self.places.members
    }

    #[inline]
    pub(crate) fn member(&self, position: Position) -> Option<&Arc<Entry<T>>> {
        self.places.members.get(position as usize)?.as_ref()
    }

    /// Returns a member and its counters.
    #[inline]
    pub(crate) fn member_and_state<'a>(
        &'a self,
        position: Position,
        table: &'a StateTable,
    ) -> Option<(&'a Arc<Entry<T>>, &'a State)> {
        let slot = *self.places.slots.get(position as usize)?;
        Some((self.member(position)?, table.get(slot)))
    }

    /// Returns the id of a member, as a select hands it out.
    #[inline]
    pub(crate) fn id(&self, position: Position) -> Option<&T::Id> {
        self.places.ids.get(position as usize)?.as_ref()
    }

    /// Returns what the rule has beside the members for a pick.
    #[inline]
    pub(crate) fn chance<'a>(&'a self, rng: &'a Rng, request: &Request) -> Chance<'a> {
        Chance { rng, next_turn: &self.index.words.next_turn, peek: false, size: request.into() }
    }

    /// Returns the bits of the quotas that stop a request.
    #[inline]
    pub(crate) fn spent_quotas(&self, request: &Request, now: &Now<'_>) -> QuotaBits {
        self.quotas.spent(|| (request.into(), now.get()))
    }

    /// Returns the request that takes the place of one without tags, or with tags that no member has: it asks
    /// for the default tag. None if the request itself is served, or if no member has the default tag.
    pub(crate) fn stand_in(&self, request: &Request, default_tag: &str) -> Option<Request> {
        let is_served = |wishes: &Wishes| {
            let any = || self.members().any(|(_, entry)| wishes.accepts_tags(entry.deployment.labels()));
            !wishes.tags.is_empty() && self.tags.may_serve(wishes) && (wishes.tags.len() == 1 || any())
        };
        let stands_in = self.tags.has(default_tag) && !request.wishes.as_deref().is_some_and(is_served);
        stands_in.then(|| asks_for(request, default_tag))
    }

    /// Returns the members and their places, in registration order.
    #[inline]
    pub(crate) fn members(&self) -> impl Iterator<Item = (Position, &Arc<Entry<T>>)> {
        index::members(&self.places.members)
    }

    /// Returns whether so few members are in service that their health is ignored.
    pub(crate) fn panics(&self, services: &Services, now: &Now<'_>) -> bool {
        let threshold = services.rules.get().health().map_or(0.0, |rules| rules.panic_threshold);
        let stopped = || self.members().filter(|(_, entry)| entry.slot.fitness(now).is_stopped(now.get())).count();
        threshold > 0.0 && HealthRules::panics(threshold, stopped(), self.len)
    }

    /// Returns whether health checks took every member out.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.len > 0 && self.members().all(|(_, entry)| entry.slot.vitals.is_unhealthy())
    }

    /// Counts a pick of the member at `picked`, while members are in slow start.
    #[cold]
    pub(crate) fn count_pick(&self, picked: Position, forest: &mut AnyForest, now: &Now<'_>) {
        let ramp = &self.index.words.ramp;
        ramp.count(now.get());
        if let Some(entry) = self.member(picked).filter(|entry| entry.was_picked(now.get())) {
            forest.renew(picked, &**entry, now);
        }
        forest.renew_due(ramp.picks(), self.places(), now);
    }

    /// Prepares a look at the members while some are in slow start.
    #[cold]
    pub(crate) fn prepare_ramp(&self, now: &Now<'_>) {
        if self.index.words.ramp.is_out_of_date() {
            let mut forest = self.index.lock();
            if self.index.words.ramp.learn_shares() {
                forest.renew_all_paced(self.places(), now);
            }
        }
    }

    /// Follows other rules, or another strategy, from now on. `rules` are those of `Health`, if the router
    /// follows them.
    pub(crate) fn configure(&mut self, order: Order, rules: Option<&HealthRules>, clock: &Clock) {
        let words = &self.index.words;
        let mut forest = self.index.lock();
        forest.follow(rules);
        if std::mem::replace(&mut self.order, order) != order {
            *forest = AnyForest::new(order, forest.census().without_members());
            words.ramp.follow(order.strategy);
            words.ramp.set_members(self.len, self.weights);
        }
        words.pool.clear();
        for (_, entry) in self.members() {
            if let (Some(pool), Some(breaker)) = (entry.pool(), entry.slot.made_breaker()) {
                pool.take_in(breaker.outcomes());
            }
            entry.keep_slow_start();
        }
        forest.rebuild(&self.places.members, &Now::new(clock));
    }

    /// Tells the index how many members there are.
    fn note_members(&self) {
        self.index.words.ramp.set_members(self.len, self.weights);
    }

    /// Gives an entry the place it was made for.
    pub(crate) fn put(&mut self, entry: &Arc<Entry<T>>, id: T::Id, removed: &mut Removed<T>) {
        if let Some(old) = self.places.members.get(entry.home.place.position() as usize).and_then(Option::as_ref) {
            self.quotas.leave(old.metering.as_deref());
            self.weights -= u64::from(old.deployment.weight());
            self.tags.leave(&old.deployment);
        }
        self.tags.enter(&entry.deployment);
        self.quotas.enter(entry.metering.as_deref());
        self.weights += u64::from(entry.deployment.weight());
        self.len += usize::from(self.places.put(entry, id, removed));
        entry.stop_metering();
        self.note_members();
        self.index.lock().enter(entry.home.place.position(), &**entry, &Now::new(&entry.services.clock));
    }

    /// Empties the place of an entry.
    pub(crate) fn take(&mut self, entry: &Entry<T>, removed: &mut Removed<T>) {
        let position = entry.home.place.position();
        self.quotas.leave(entry.metering.as_deref());
        self.weights -= u64::from(entry.deployment.weight());
        self.tags.leave(&entry.deployment);
        self.len -= usize::from(!self.places.take(position, removed));
        self.note_members();
        let now = Now::new(&entry.services.clock);
        let mut forest = self.index.lock();
        forest.leave(position, entry, &now);
        // A walk spends time on empty places, so they may not outnumber the members by much.
        if self.places.len() > 2 * self.len + 16 {
            self.places.close_up();
            forest.rebuild(&self.places.members, &now);
        }
    }

    /// Replaces all members by others.
    pub(crate) fn replace_all(&mut self, places: Places<T>, clock: &Clock, removed: &mut Removed<T>) {
        self.len = places.len();
        (self.quotas, self.tags) = (Quotas::default(), Tags::default());
        for entry in places.members.iter().flatten() {
            self.quotas.enter(entry.metering.as_deref());
            self.tags.enter(&entry.deployment);
        }
        self.weights = places.members.iter().flatten().map(|entry| u64::from(entry.deployment.weight())).sum();
        std::mem::replace(&mut self.places, places).take_all(removed);
        self.places.members.iter().flatten().for_each(|entry| entry.stop_metering());
        self.note_members();
        self.index.lock().rebuild(&self.places.members, &Now::new(clock));
    }

    /// Empties all places.
    pub(crate) fn take_all(self, removed: &mut Removed<T>) {
        self.places.take_all(removed);
    }
}

/// What a change took out of the registry. Dropping it may run code of the application, so drop it where no
/// lock is held.
///
/// ```
/// use turnout::{Deployment, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, ())?);
/// let removed = router.remove("azure-eu")?;
/// assert!(removed.iter().all(|entry| entry.deployment().id() == "azure-eu"));
/// # Ok::<(), turnout::Error>(())
/// ```
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
    /// Returns the deployments. One may come more than once.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.iter().map(|entry| &**entry)
    }
}

/// Makes the error for one deployment too many.
pub(crate) fn too_many() -> Error {
    Error::Configuration("a router holds at most 2^32 deployments".to_owned())
}
