//! The waiters of a model name, and their places in line.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::task::Waker;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::base::error::Unavailable;
use crate::base::gate::Gate;
use crate::base::labels::{Dialect, Labels};
use crate::base::time::Nanos;
use crate::facts::{Request, Wishes};
use crate::gates::Lacks;

/// A waiter's place in its line: by priority, and then by arrival.
pub(super) type Key = (i32, u64);

/// The wishes that all requests of one class share, sorted. Ids that no deployment has make no difference,
/// and are left out.
#[derive(Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Class {
    tags: Vec<String>,
    any_tag: bool,
    exclude: Vec<String>,
    only: Option<Vec<String>>,
    dialect: Option<Dialect>,
}

impl Class {
    pub(super) fn of(request: &Request, is_known: impl Fn(&str) -> bool) -> Self {
        let Some(wishes) = request.wishes.as_deref() else { return Self::default() };
        let Wishes { tags, any_tag, exclude, only, dialect, by_default: _ } = wishes;
        let mut tags = tags.clone();
        tags.sort_unstable();
        tags.dedup();
        let known = |ids: &FxHashSet<String>| {
            let mut known: Vec<_> = ids.iter().filter(|id| is_known(id)).cloned().collect();
            known.sort_unstable();
            known
        };
        let (exclude, only) = (known(exclude), only.as_ref().map(known));
        Self { any_tag: *any_tag && tags.len() > 1, tags, exclude, only, dialect: *dialect }
    }
}

/// The deployments that may have capacity which they had not at the last look.
#[derive(Debug)]
pub(super) enum Freed {
    /// Some of them, by their ids.
    Some(Vec<Arc<str>>),
    /// Any of them.
    Any,
}

impl Freed {
    /// The most deployments that are looked at one by one.
    const MOST: usize = 16;

    pub(super) fn nothing() -> Self {
        Self::Some(Vec::new())
    }

    fn add(&mut self, id: &Arc<str>) {
        match self {
            Self::Some(ids) if ids.contains(id) => {}
            Self::Some(ids) if ids.len() < Self::MOST => ids.push(Arc::clone(id)),
            _ => *self = Self::Any,
        }
    }
}

/// All waiters for one model name.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) classes: FxHashMap<Arc<Class>, Standing>,
    /// The class of each waiter, by its arrival.
    pub(super) class_of: FxHashMap<u64, Arc<Class>>,
    /// The first waiter of each class, in order.
    heads: BTreeMap<Key, Head>,
    /// The heads that have not tried since they are heads.
    untried: BTreeSet<Key>,
    /// The heads that lacked tokens or requests at their last try.
    lacking: BTreeSet<Key>,
    /// The quotas that heads have reserved, by their serial numbers.
    claims: BTreeMap<Key, u64>,
    /// Quotas that were reserved and are not any more: others may wait for them.
    pub(super) let_go: Vec<u64>,
    /// What was freed since the last look of a waiter that tried for all.
    pub(super) freed: Freed,
    /// Whether deployments have changed since the classes were made.
    pub(super) is_stale: bool,
    /// The quotas that stopped one of the heads, by their serial numbers.
    pub(super) quotas: BTreeSet<u64>,
    pub(super) len: usize,
    /// The time at which trying again may help; [`Nanos::MAX`] if time alone does not help.
    pub(super) alarm: Nanos,
    /// The waiter that sleeps for an alarm, and that alarm.
    pub(super) armed: (Key, Nanos),
    /// When a ring called the leader, if no waiter has tried since.
    pub(super) rung: Option<Nanos>,
}

/// The waiters of one class, in their order.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) places: BTreeMap<Key, Place>,
    /// The places of waiters that did not look when they had to. Their loops are blocked or have stopped.
    /// They get their places back when they look.
    pub(super) absent: BTreeMap<Key, Place>,
    /// Why the head failed when it last tried.
    pub(super) refused: Option<Box<Unavailable>>,
}

/// The first waiter of a class.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) class: Arc<Class>,
    pub(super) request: Arc<Request>,
    /// When it is no longer patient.
    pub(super) patient_until: Nanos,
    /// What it has reserved.
    pub(super) reserved: Option<Reserved>,
}

/// What a waiter has reserved.
#[derive(Debug, Clone)]
pub(super) struct Reserved {
    /// The deployment that will be the first to suffice.
    pub(super) id: Arc<str>,
    /// The gate that stopped the waiter there.
    pub(super) gate: Gate,
    pub(super) lacks: Lacks,
}

/// The data that others need of a waiter. A place may be dropped under the lock: the waiter owns a second
/// reference to all of its data.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) request: Arc<Request>,
    pub(super) waker: Waker,
    pub(super) deadline: Nanos,
    pub(super) patient_until: Nanos,
    /// When the waiter looks by itself at the latest.
    pub(super) due: Nanos,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            classes: FxHashMap::default(),
            class_of: FxHashMap::default(),
            heads: BTreeMap::new(),
            untried: BTreeSet::new(),
            lacking: BTreeSet::new(),
            claims: BTreeMap::new(),
            let_go: Vec::new(),
            freed: Freed::nothing(),
            is_stale: false,
            quotas: BTreeSet::new(),
            len: 0,
            alarm: Nanos::MAX,
            armed: ((0, 0), Nanos::MAX),
            rung: None,
        }
    }

    // --- heads ---

    /// Returns the first head behind a place in line, or the first of all.
    pub(super) fn next_head(&self, behind: Option<Key>) -> Option<(Key, &Head)> {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        self.heads.range((from, Bound::Unbounded)).next().map(|(&key, head)| (key, head))
    }

    /// Returns when a head looks by itself at the latest.
    pub(super) fn due(&self, key: Key) -> Option<Nanos> {
        Some(self.classes.get(&self.heads.get(&key)?.class)?.places.get(&key)?.due)
    }

    pub(super) fn head(&self, key: Key) -> Option<&Head> {
        self.heads.get(&key)
    }

    /// Returns whether the wishes of a head allow a deployment with this id and these labels.
    pub(super) fn may_use(&self, id: &str, labels: Labels<'_>) -> bool {
        let allow = |head: &Head| head.request.wishes.as_ref().is_none_or(|wishes| wishes.allows(id, labels));
        self.heads.values().any(allow)
    }

    /// Returns the first of all waiters.
    pub(super) fn leader(&self) -> Option<(Key, &Waker)> {
        let (key, head) = self.next_head(None)?;
        Some((key, &self.classes.get(&head.class)?.places.get(&key)?.waker))
    }

    /// Returns the first head that has not tried since it is a head.
    pub(super) fn first_untried(&self) -> Option<Key> {
        self.untried.first().copied()
    }

    pub(super) fn is_untried(&self, key: Key) -> bool {
        self.untried.contains(&key)
    }

    /// Notes why a head failed.
    pub(super) fn refuse(&mut self, key: Key, refused: Box<Unavailable>) {
        self.untried.remove(&key);
        if refused.reasons.iter().any(|(gate, _)| gate.is_rate_limit()) {
            self.lack(key);
        } else {
            self.lacking.remove(&key);
            self.reserve(key, None);
        }
        let Some(head) = self.heads.get(&key) else { return };
        if let Some(standing) = self.classes.get_mut(&head.class) {
            standing.refused = Some(refused);
        }
    }

    /// Returns the heads between two places in line that lacked tokens or requests and are no longer patient.
    /// The first place is among them, the last is not.
    pub(super) fn impatient(&self, from: Option<Key>, to: Key, now: Nanos) -> impl Iterator<Item = Key> {
        let lacking = self.lacking.range((from.map_or(Bound::Unbounded, Bound::Included), Bound::Excluded(to)));
        lacking.copied().filter(move |key| self.heads.get(key).is_some_and(|head| head.patient_until <= now))
    }

    /// Returns whether a head is known to lack tokens or requests.
    pub(super) fn is_lacking(&self, key: Key) -> bool {
        self.lacking.contains(&key)
    }

    /// Notes that a head lacks tokens or requests.
    pub(super) fn lack(&mut self, key: Key) {
        if self.heads.contains_key(&key) {
            self.lacking.insert(key);
        }
    }

    /// Notes what a head reserves.
    pub(super) fn reserve(&mut self, key: Key, reserved: Option<Reserved>) {
        let Some(head) = self.heads.get_mut(&key) else { return };
        let quota = reserved.as_ref().and_then(|reserved| match reserved.lacks {
            Lacks::Own => None,
            Lacks::Quota(quota) => Some(quota),
        });
        head.reserved = reserved;
        let before = match quota {
            Some(quota) => self.claims.insert(key, quota),
            None => self.claims.remove(&key),
        };
        self.let_go.extend(before.filter(|&before| quota != Some(before)));
    }

    /// Returns the quotas that heads have reserved, by their serial numbers.
    pub(super) fn claims(&self) -> impl Iterator<Item = (Key, u64)> {
        self.claims.iter().map(|(&key, &quota)| (key, quota))
    }

    /// Returns when a head may be served, as its last refusal says.
    pub(super) fn retry_at(&self, key: Key) -> Option<Nanos> {
        self.classes.get(&self.heads.get(&key)?.class)?.refused.as_ref()?.retry_at
    }

    /// Returns the smallest of the heads' requests, without its wishes. None if prompts and answers are told
    /// apart: such requests have no order.
    pub(super) fn smallest(&self) -> Option<Request> {
        let mut tokens = self.heads.values().map(|head| head.request.split.is_none().then_some(head.request.tokens));
        let least = tokens.try_fold(u64::MAX, |least, tokens| Some(least.min(tokens?)))?;
        Some(Request { tokens: least, ..Request::default() })
    }

    /// Returns when the next of the heads that lack something has no more patience; [`Nanos::MAX`] if none
    /// has any left.
    pub(super) fn patience_ends(&self, now: Nanos) -> Nanos {
        let ends = self.lacking.iter().filter_map(|key| Some(self.heads.get(key)?.patient_until)).filter(|&until| until > now);
        ends.min().unwrap_or(Nanos::MAX)
    }

    /// Changes the waiters of a class, and learns its head anew.
    fn change<R>(&mut self, class: &Arc<Class>, change: impl FnOnce(&mut Standing) -> R) -> R {
        let standing = self.classes.entry(Arc::clone(class)).or_default();
        let before = standing.places.first_key_value().map(|(&key, place)| (key, Arc::clone(&place.request)));
        let result = change(standing);
        let after = standing.places.first_key_value();
        let new = after.map(|(&key, place)| {
            let (request, patient_until) = (Arc::clone(&place.request), place.patient_until);
            (key, Head { class: Arc::clone(class), request, patient_until, reserved: None })
        });
        let is_same = new.as_ref().map(|&(key, _)| key) == before.as_ref().map(|&(key, _)| key);
        // What stopped one request stops another one that is as large, if nothing was freed since.
        let is_as_large = before
            .as_ref()
            .zip(new.as_ref())
            .is_some_and(|((before, smaller), (_, head))| !self.untried.contains(before) && head.request.is_as_large_as(smaller));
        if !is_same && !is_as_large {
            standing.refused = None;
        }
        if standing.places.is_empty() && standing.absent.is_empty() {
            self.classes.remove(class);
        }
        if is_same {
            return result;
        }
        let mut lacks = false;
        if let Some((before, _)) = before {
            self.untried.remove(&before);
            lacks = self.lacking.remove(&before);
            self.let_go.extend(self.claims.remove(&before));
            if let Some(reserved) = self.heads.remove(&before).and_then(|head| head.reserved) {
                // What it had reserved may serve others.
                match reserved.lacks {
                    Lacks::Own => self.freed.add(&reserved.id),
                    Lacks::Quota(_) => self.freed = Freed::Any,
                }
                self.rung.get_or_insert(Nanos::MAX);
            }
        }
        if let Some((key, head)) = new {
            if !is_as_large {
                self.untried.insert(key);
            } else if lacks {
                self.lacking.insert(key);
            }
            self.heads.insert(key, head);
        }
        result
    }

    // --- rings ---

    /// Rings for the leader, which then serves. `freed` is the deployment that may have capacity now; None if
    /// that may be any.
    pub(super) fn ring(&mut self, freed: Option<&Arc<str>>, now: Nanos, bells: &mut Vec<Waker>) {
        match freed {
            Some(id) => self.freed.add(id),
            None => self.freed = Freed::Any,
        }
        self.call_leader(now, bells);
    }

    fn call_leader(&mut self, now: Nanos, bells: &mut Vec<Waker>) {
        if let Some((_, waker)) = self.leader() {
            bells.push(waker.clone());
            self.rung.get_or_insert(now);
        }
    }

    /// Rings for the leader if it has to take over a ring or the alarm.
    pub(super) fn hand_on(&mut self, now: Nanos, bells: &mut Vec<Waker>) {
        let (sleeper, until) = self.armed;
        let is_armed = self.alarm == Nanos::MAX || (until <= self.alarm && self.leader().is_some_and(|(key, _)| key == sleeper));
        if self.rung.take().is_some() || !is_armed || self.first_untried().is_some() {
            self.call_leader(now, bells);
        }
    }

    // --- waiters ---

    /// Passes over the leader, unless the leader is the waiter that looks.
    pub(super) fn pass_over_leader(&mut self, looks: Key) {
        let leader = self.leader().map(|(key, _)| key);
        if let Some(key) = leader.filter(|&key| key != looks) {
            self.pass_over(key);
        }
    }

    /// Passes over a waiter that did not look when it had to.
    pub(super) fn pass_over(&mut self, key: Key) {
        let Some(class) = self.class_of.get(&key.1).cloned() else { return };
        self.change(&class, |standing| {
            if let Some(place) = standing.places.remove(&key) {
                standing.absent.insert(key, place);
            }
        });
    }

    /// Gives a waiter that looks again its place back.
    pub(super) fn is_back(&mut self, key: Key) {
        let Some(class) = self.class_of.get(&key.1).cloned() else { return };
        if self.classes.get(&class).is_some_and(|standing| standing.absent.contains_key(&key)) {
            self.change(&class, |standing| standing.places.extend(standing.absent.remove_entry(&key)));
        }
    }

    /// Gives a waiter a place in line.
    pub(super) fn insert(&mut self, class: Arc<Class>, key: Key, place: Place) {
        self.change(&class, |standing| standing.places.insert(key, place));
        self.class_of.insert(key.1, class);
        self.len += 1;
    }

    /// Makes the classes anew, if deployments have changed. `renewed` returns what a request asks for now, if
    /// that is another thing.
    pub(super) fn sort(&mut self, is_known: impl Fn(&str) -> bool, renewed: impl Fn(&Request) -> Option<Request>) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        self.heads.clear();
        self.untried.clear();
        self.lacking.clear();
        self.let_go.extend(std::mem::take(&mut self.claims).into_values());
        for (_, standing) in std::mem::take(&mut self.classes) {
            let present = standing.places.into_iter().map(|waiter| (waiter, true));
            for ((key, mut place), is_present) in present.chain(standing.absent.into_iter().map(|waiter| (waiter, false))) {
                if let Some(request) = renewed(&place.request) {
                    place.request = Arc::new(request);
                }
                let class = Arc::new(Class::of(&place.request, &is_known));
                self.class_of.insert(key.1, Arc::clone(&class));
                self.change(&class, |standing| {
                    let places = if is_present { &mut standing.places } else { &mut standing.absent };
                    places.insert(key, place);
                });
            }
        }
    }

    /// Takes a waiter out.
    pub(super) fn remove(&mut self, key: Key) -> Option<Place> {
        let class = self.class_of.remove(&key.1)?;
        let place = self.change(&class, |standing| standing.places.remove(&key).or_else(|| standing.absent.remove(&key)))?;
        self.len -= 1;
        Some(place)
    }
}
