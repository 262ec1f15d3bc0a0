//! Picks. The index answers where it can; elsewhere a walk over the members does.

mod explain;
mod walk;

use std::hint::black_box;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::base::clock::{Clock, Now};
use crate::base::error::Error;
use crate::base::gate::Gate;
use crate::base::position::Position;
use crate::base::rng::Rng;
use crate::base::time::Nanos;
use crate::facts::Request;
use crate::gates::{Lacks, Waived, available_at, check, is_wished};
use crate::group::{Attachment, Entry, Group};
use crate::index::{Filter, Places, QuotaBits};
use crate::lease::Lease;
use crate::limits::OTHERS;
use crate::registry::Registry;

use explain::Notes;
pub use explain::{Explanation, Verdict};
use walk::{Unobserved, Walk};

/// The deployments of a group that are under a quota.
pub(crate) enum Under {
    /// All of so many.
    All(usize),
    /// Some, by their ids.
    Some(Vec<Arc<str>>),
}

/// Picks from the groups of a registry.
#[derive(Debug)]
pub(crate) struct Picker<T: Attachment> {
    pub(crate) registry: Registry<T>,
    rng: Rng,
}

impl<T: Attachment> Picker<T> {
    pub(crate) fn new(registry: Registry<T>, rng: Rng) -> Self {
        Self { registry, rng }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.registry.services().clock
    }

    /// Delivers the events that were noted. No lock may be held.
    #[inline]
    pub(crate) fn deliver(&self) {
        self.registry.services().events.deliver();
    }

    /// Picks a deployment, reserves nothing, and returns what `found` makes of its id. `found` runs under a
    /// lock: it must be short and must not use the router.
    ///
    /// # Errors
    /// If no deployment serves the model, or none passes every gate.
    #[inline]
    pub(crate) fn select<R>(&self, model_name: &str, request: &Request, found: impl FnOnce(&T::Id) -> R) -> Result<R, Error> {
        let picked = self.registry.with_group(model_name, |model_name, group| {
            let (now, chance) = (Now::new(self.clock()), group.chance(&self.rng, request));
            if group.index.words.ramp.is_on() {
                group.prepare_ramp(&now);
            }
            let spent = group.spent_quotas(request, &now);
            let asks_index = spent & OTHERS == 0;
            if asks_index {
                let filter = self.filter(group, request, spent);
                // This read fetches data into the cache: see `index::AnyForest::pick`.
                let prefetch = |position| _ = black_box(group.id(position).is_some());
                let mut forest = group.index.lock();
                let picked = forest.pick(group.places(), &filter, &now, &chance, prefetch);
                if let Some(position) = picked
                    && group.index.words.ramp.is_on()
                {
                    group.count_pick(position, &mut forest, &now);
                }
                drop(forest);
                // Amid a change the index may find a member that the request rules out.
                if let Some(position) = picked
                    && (request.wishes.is_none() || group.member(position).is_some_and(|entry| is_wished(entry, request, &now)))
                    && let Some(id) = group.id(position)
                {
                    return Ok(found(id));
                }
            }
            self.select_by_walk(model_name, group, request, now, asks_index, found)
        });
        if let Err(Error::NoAvailableDeployment(_)) = &picked {
            self.note_need(model_name, request);
        }
        self.deliver();
        picked
    }

    /// Walks where the index cannot answer:
    ///
    /// - a quota is spent and has no bit of its own, or the index has no tree for such a request yet;
    /// - another thread is in the middle of a change;
    /// - the coarse clock lags, so that the index missed that a time has come.
    ///
    /// It also makes the error. If the index `found_nobody`, the walk mostly ends with that error.
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
        let mut walk = Walk::new(group, request, self.registry.services(), &self.rng, now);
        loop {
            if found_nobody && let Some(error) = self.refuse(&mut walk, model_name) {
                return Err(error);
            }
            if let Some((position, id)) = walk.choose(Unobserved).and_then(|position| Some((position, group.id(position)?))) {
                if group.index.words.ramp.is_on() {
                    group.count_pick(position, &mut group.index.lock(), &walk.now);
                }
                return Ok(found(id));
            }
            found_nobody = true;
        }
    }

    /// Picks a deployment and reserves, without a look at requests that wait. The caller delivers the events
    /// that this notes, once it holds no lock.
    ///
    /// # Errors
    /// If no deployment serves the model, or none passes every gate.
    #[inline(always)]
    #[allow(clippy::inline_always)] // its other callers are rare
    pub(crate) fn acquire(&self, model_name: &str, request: &Request) -> Result<Lease<T>, Error> {
        let mut picked = self.registry.with_group(model_name, |model_name, group| {
            self.acquire_or(group, request, |now, found_nobody| self.acquire_by_walk(model_name, group, request, now, found_nobody))
        });
        match &mut picked {
            Ok(lease) => lease.renew_moved(),
            Err(Error::NoAvailableDeployment(refused)) => refused.is_asked_for = self.note_need(model_name, request),
            Err(_) => {}
        }
        picked
    }

    /// Notes what the request lacks of limits that processes share, at the deployment that the strategy would
    /// pick if nothing lacked, so that the store is asked for it. Returns whether it lacks anything.
    #[cold]
    fn note_need(&self, model_name: &str, request: &Request) -> bool {
        let Some(desk) = &self.registry.services().desk else { return false };
        let lacks = self.registry.with_group(model_name, |_, group| {
            let mut walk = Walk::new(group, request, self.registry.services(), &self.rng, Now::new(self.clock()));
            walk.waives_shared = true;
            let first = group.members().next().and_then(|(_, entry)| entry.metering.as_ref()?.share());
            if let Some(share) = first {
                share.note_request(request.tokens, walk.now.get());
            }
            walk.chance.peek = true;
            let entry = walk.choose(Unobserved).and_then(|position| group.member(position));
            let metering = entry.and_then(|entry| entry.metering.as_ref());
            Ok(metering.is_some_and(|metering| metering.note_need(request.into(), walk.now.get())))
        });
        if lacks == Ok(true) {
            desk.ring();
        }
        lacks == Ok(true)
    }

    /// Does what [`Picker::acquire`] does, where the index can answer. None costs no walk and makes no error.
    pub(crate) fn acquire_at_once(&self, model_name: &str, request: &Request) -> Option<Lease<T>> {
        let pick = |_: &_, group: &_| Ok(self.acquire_or(group, request, |_, _| Err(())).ok());
        let lease = self.registry.with_group(model_name, pick).ok()??;
        lease.renew_moved();
        Some(lease)
    }

    /// Acquires from the member that the index picks. If there is none, calls `otherwise`, and tells whether
    /// the index was asked: where it cannot answer it is not.
    #[inline(always)]
    #[allow(clippy::inline_always)] // it is the whole of an acquire
    fn acquire_or<'a, E>(
        &'a self,
        group: &Group<T>,
        request: &Request,
        otherwise: impl FnOnce(Now<'a>, bool) -> Result<Lease<T>, E>,
    ) -> Result<Lease<T>, E> {
        let (now, chance) = (Now::new(self.clock()), group.chance(&self.rng, request));
        if group.index.words.ramp.is_on() {
            group.prepare_ramp(&now);
        }
        let spent = group.spent_quotas(request, &now);
        let asks_index = spent & OTHERS == 0;
        if asks_index {
            let filter = self.filter(group, request, spent);
            let mut forest = group.index.lock();
            let prefetch = |position| _ = black_box(group.member(position).is_some());
            let picked = forest.pick(group.places(), &filter, &now, &chance, prefetch);
            let found = picked.and_then(|position| Some((position, group.member_and_state(position, &self.registry.table)?)));
            if let Some((position, (entry, state))) = found {
                let lease = Lease::reserve(entry, state, request, Waived::default(), &now);
                forest.renew(position, &**entry, &now);
                if let Ok(lease) = lease {
                    if group.index.words.ramp.is_on() {
                        group.count_pick(position, &mut forest, &now);
                    }
                    return Ok(lease);
                }
            }
        }
        otherwise(now, asks_index)
    }

    /// Does for an acquire what [`Picker::select_by_walk`] does for a select.
    #[cold]
    fn acquire_by_walk(
        &self,
        model_name: &Arc<str>,
        group: &Group<T>,
        request: &Request,
        now: Now<'_>,
        mut found_nobody: bool,
    ) -> Result<Lease<T>, Error> {
        let mut walk = Walk::new(group, request, self.registry.services(), &self.rng, now);
        loop {
            if found_nobody && let Some(error) = self.refuse(&mut walk, model_name) {
                return Err(error);
            }
            while let Some((position, entry)) =
                walk.choose(Unobserved).and_then(|position| Some((position, group.member(position)?)))
            {
                match Lease::reserve(entry, &entry.slot, request, walk.waived, &walk.now) {
                    Ok(lease) => {
                        let mut forest = group.index.lock();
                        forest.renew(position, &**entry, &walk.now);
                        if group.index.words.ramp.is_on() {
                            group.count_pick(position, &mut forest, &walk.now);
                        }
                        return Ok(lease);
                    }
                    Err(refusal) => walk.lose(position, refusal),
                }
            }
            found_nobody = true;
        }
    }

    /// Returns why a request is refused now; None if it is not.
    pub(crate) fn refusal(&self, model_name: &str, request: &Request) -> Option<Error> {
        let refuse = |model_name: &_, group: &_| {
            let mut walk = Walk::new(group, request, self.registry.services(), &self.rng, Now::new(self.clock()));
            Ok(self.refuse(&mut walk, model_name))
        };
        self.registry.with_group(model_name, refuse).unwrap_or_else(Some)
    }

    /// Returns why no member passes; None if one does now. For most requests the index has added that up.
    #[cold]
    fn refuse(&self, walk: &mut Walk<'_, T>, model_name: &Arc<str>) -> Option<Error> {
        let by_index = self.excluded_places(walk).and_then(|skips| walk.refuse_by_index(model_name, &skips));
        // If a member passes by the index, another thread may have taken it meanwhile. A walk tells.
        by_index.or_else(|| walk.refuse(model_name))
    }

    /// Returns the places that a request excludes, in order. None if another thread is in the middle of a
    /// change.
    fn excluded_places(&self, walk: &Walk<'_, T>) -> Option<Vec<Position>> {
        let Some(wishes) = &walk.request.wishes else { return Some(Vec::new()) };
        let places = wishes.exclude.iter().filter_map(|id| Some((id, self.registry.position_in(walk.group, id)?)));
        let places =
            places.map(|(id, place)| walk.group.member(place).filter(|entry| entry.deployment().id() == *id).map(|_| place));
        let mut places: Vec<_> = places.collect::<Option<_>>()?;
        places.sort_unstable();
        Some(places)
    }

    /// Returns the deployments of a group with these ids. None if some gates are open, or are about to be, so
    /// that one deployment may let requests pass to another.
    pub(crate) fn freed(&self, model_name: &str, ids: &[Arc<str>]) -> Option<Vec<Arc<Entry<T>>>> {
        let found = self.registry.with_group(model_name, |_, group| {
            let is_shut = !group.index.words.ramp.is_on() && group.index.lock().census().heeds_health();
            let found = ids.iter().filter_map(|id| self.registry.get(id).ok());
            Ok(is_shut.then(|| found.filter(|entry| Arc::ptr_eq(&entry.home.index, &group.index)).collect()))
        });
        found.ok().flatten()
    }

    /// Returns whether a deployment lets a request pass.
    pub(crate) fn passes(&self, entry: &Entry<T>, request: &Request, now: Nanos) -> bool {
        check(entry, &entry.slot, request, Waived::default(), &Now::at(self.clock(), now)).is_ok()
    }

    /// Returns whether a deployment stops a request because of its limits.
    pub(crate) fn is_stopped_by_limits(&self, entry: &Entry<T>, request: &Request, now: Nanos) -> bool {
        let refusal = check(entry, &entry.slot, request, Waived::default(), &Now::at(self.clock(), now)).err();
        refusal.is_some_and(|refusal| refusal.gate().is_rate_limit())
    }

    /// Returns whether a deployment lets a request pass, or stops it because of its limits.
    pub(crate) fn is_lacking(&self, id: &str, request: &Request, now: Nanos) -> bool {
        let now = Now::at(self.clock(), now);
        self.registry.get(id).is_ok_and(|entry| {
            check(&entry, &entry.slot, request, Waived::default(), &now).err().is_none_or(|refusal| refusal.gate().is_rate_limit())
        })
    }

    /// Returns when a deployment may be available to any request; None if no such time is known.
    pub(crate) fn available_at(&self, entry: &Entry<T>, now: Nanos) -> Option<Nanos> {
        available_at(entry, &Request::default(), Waived::default(), &Now::at(self.clock(), now))
    }

    /// Returns the deployment whose tokens and requests suffice for a request first, the gate that stops the
    /// request there, and what it lacks. None if all it lacks comes at once. `taken` are the ids of
    /// deployments that are left out.
    pub(crate) fn first_to_suffice(
        &self,
        model_name: &str,
        request: &Request,
        taken: &FxHashSet<Arc<str>>,
        now: Nanos,
    ) -> Option<(Arc<str>, Gate, Lacks)> {
        let first = self.registry.with_group(model_name, |_, group| {
            let now = Now::at(self.clock(), now);
            let lacking = group.members().filter_map(|(position, entry)| {
                let refusal = check(entry, &entry.slot, request, Waived::default(), &now).err()?;
                let lacks = entry.lacks(&refusal).filter(|_| !taken.contains(entry.deployment().shared_id()))?;
                let at = available_at(entry, request, Waived::default(), &now)?;
                Some((at, position, refusal.gate(), lacks, entry))
            });
            Ok(lacking
                .min_by_key(|&(at, position, ..)| (at, position))
                .map(|(_, _, gate, lacks, entry)| (Arc::clone(entry.deployment().shared_id()), gate, lacks)))
        });
        first.ok().flatten()
    }

    /// Returns the deployments of a group that are under a quota.
    pub(crate) fn under_quota(&self, model_name: &str, serial: u64) -> Under {
        let found = self.registry.with_group(model_name, |_, group| {
            let is_under = |entry: &Entry<T>| {
                entry.metering.as_ref().is_some_and(|metering| metering.quotas().iter().any(|ledger| ledger.serial() == serial))
            };
            if group.members().all(|(_, entry)| is_under(entry)) {
                return Ok(Under::All(group.len()));
            }
            let under = group.members().filter(|(_, entry)| is_under(entry));
            Ok(Under::Some(under.map(|(_, entry)| Arc::clone(entry.deployment().shared_id())).collect()))
        });
        found.unwrap_or(Under::Some(Vec::new()))
    }

    /// Returns the quotas that stop a request, by their serial numbers.
    pub(crate) fn spent_quotas(&self, model_name: &str, request: &Request) -> Vec<u64> {
        let now = self.clock().now();
        self.registry
            .with_group(model_name, |_, group| Ok(group.quotas.spent_serials(request.into(), now).collect()))
            .unwrap_or_default()
    }

    /// Returns whether so few members of a group are in service that their health is ignored.
    pub(crate) fn panics(&self, model_name: &str) -> bool {
        let now = Now::new(self.clock());
        self.registry.with_group(model_name, |_, group| Ok(group.panics(self.registry.services(), &now))).unwrap_or(false)
    }

    /// Returns the places of deployments in a group, in order.
    fn places(&self, group: &Group<T>, ids: &FxHashSet<String>) -> Vec<Position> {
        let mut places: Vec<_> = ids.iter().filter_map(|id| self.registry.position_in(group, id)).collect();
        places.sort_unstable();
        places
    }

    /// Returns the filter for the index.
    #[inline]
    fn filter<'a>(&self, group: &Group<T>, request: &'a Request, spent: QuotaBits) -> Filter<'a> {
        let (tokens, lacks_part) = (request.least_tokens(), request.lacks_part());
        let mut filter = Filter { tokens, places: None, lacks_part, labels: None, spent };
        if let Some(wishes) = &request.wishes {
            let skips = self.places(group, &wishes.exclude);
            let only = wishes.only.as_ref().map(|only| self.places(group, only));
            filter.places = (!skips.is_empty() || only.is_some()).then(|| Box::new(Places { skips, only }));
            filter.labels = Some(&**wishes).filter(|wishes| wishes.asks_for_labels());
        }
        filter
    }

    /// Says what a pick would do now, and why. It has no side effect.
    ///
    /// # Errors
    /// If no deployment serves the model.
    pub(crate) fn explain(&self, model_name: &str, request: &Request) -> Result<Explanation<T>, Error> {
        self.registry.with_group(model_name, |model_name, group| {
            let now = Now::at(self.clock(), self.clock().look());
            let mut walk = Walk::new(group, request, self.registry.services(), &self.rng, now);
            walk.chance.peek = true;
            let mut notes = Notes::new(group);
            let winner = walk.choose(&mut notes).and_then(|position| group.member(position)).cloned();
            Ok(Explanation {
                model_name: Arc::clone(model_name),
                strategy: group.order.strategy,
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
}
