//! Who stands where in the line of a model name.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::task::Waker;

use rustc_hash::FxHashMap;

use crate::base::error::Unavailable;
use crate::base::time::Nanos;
use crate::facts::Request;

/// Where a waiter stands in its line: by priority, and then by arrival.
pub(super) type Key = (i32, u64);

/// What requests of one class have in common, in one order. Ids that no deployment has make no difference,
/// and are left out.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Class {
    tags: Vec<String>,
    any_tag: bool,
    exclude: Vec<String>,
}

impl Class {
    pub(super) fn of(request: &Request, is_known: impl Fn(&str) -> bool) -> Self {
        let Some(wishes) = &request.wishes else { return Self { tags: Vec::new(), any_tag: false, exclude: Vec::new() } };
        let mut tags = wishes.tags.clone();
        tags.sort_unstable();
        tags.dedup();
        let mut exclude: Vec<_> = wishes.exclude.iter().filter(|id| is_known(id)).cloned().collect();
        exclude.sort_unstable();
        Self { any_tag: wishes.any_tag && tags.len() > 1, tags, exclude }
    }
}

/// All that wait for one model name.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) classes: FxHashMap<Arc<Class>, Standing>,
    /// The class of each waiter, by its arrival.
    pub(super) class_of: FxHashMap<u64, Arc<Class>>,
    /// Whether deployments have changed since the classes were made.
    pub(super) is_stale: bool,
    /// Whether a quota stopped one of the heads.
    pub(super) waits_for_quota: bool,
    pub(super) len: usize,
    /// When trying again may help; [`Nanos::MAX`] if time does not.
    pub(super) alarm: Nanos,
    /// The waiter that sleeps for an alarm, and that alarm.
    pub(super) armed: (Key, Nanos),
    /// When the leader was rung for, if no waiter has tried since.
    pub(super) rung: Option<Nanos>,
}

/// Those of one class, who stand in a line.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) places: BTreeMap<Key, Place>,
    /// The places of those that did not look when they had to. Their loops are blocked or have stopped. They
    /// get their places back when they look.
    pub(super) absent: BTreeMap<Key, Place>,
    /// Why the head failed when it last tried.
    pub(super) refused: Option<Box<Unavailable>>,
}

/// What others need of a waiter. It may be dropped under the lock: the waiter owns a second reference to all
/// of it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) request: Arc<Request>,
    pub(super) waker: Waker,
    pub(super) deadline: Nanos,
    /// When it looks by itself at the latest.
    pub(super) due: Nanos,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            classes: FxHashMap::default(),
            class_of: FxHashMap::default(),
            is_stale: false,
            waits_for_quota: false,
            len: 0,
            alarm: Nanos::MAX,
            armed: ((0, 0), Nanos::MAX),
            rung: None,
        }
    }

    pub(super) fn heads(&self) -> impl Iterator<Item = (Key, &Arc<Class>, &Place)> {
        self.classes.iter().filter_map(|(class, standing)| {
            let (&key, place) = standing.places.first_key_value()?;
            Some((key, class, place))
        })
    }

    pub(super) fn all_heads(&self) -> BinaryHeap<Reverse<(Key, Arc<Class>)>> {
        self.heads().map(|(key, class, _)| Reverse((key, Arc::clone(class)))).collect()
    }

    pub(super) fn leader(&self) -> Option<(Key, &Waker)> {
        self.heads().map(|(key, _, place)| (key, &place.waker)).min_by_key(|&(key, _)| key)
    }

    /// Rings for the leader: it is to serve.
    pub(super) fn ring(&mut self, now: Nanos, bells: &mut Vec<Waker>) {
        if let Some((_, waker)) = self.leader() {
            bells.push(waker.clone());
            self.rung.get_or_insert(now);
        }
    }

    /// Rings for the leader if it has to take over a ring or the alarm.
    pub(super) fn hand_on(&mut self, now: Nanos, bells: &mut Vec<Waker>) {
        let (sleeper, until) = self.armed;
        let is_armed = self.alarm == Nanos::MAX || (until <= self.alarm && self.leader().is_some_and(|(key, _)| key == sleeper));
        if self.rung.take().is_some() || !is_armed {
            self.ring(now, bells);
        }
    }

    /// Returns the first of a class.
    pub(super) fn head_of(&self, class: &Class) -> Option<Key> {
        self.classes.get(class)?.places.first_key_value().map(|(&key, _)| key)
    }

    /// Passes over the leader, unless it is the waiter that looks.
    pub(super) fn pass_over_leader(&mut self, looks: Key) {
        let leader = self.leader().map(|(key, _)| key);
        if let Some(key) = leader.filter(|&key| key != looks) {
            self.pass_over(key);
        }
    }

    /// Passes over a waiter that did not look when it had to.
    pub(super) fn pass_over(&mut self, key: Key) {
        if let Some(standing) = self.class_of.get(&key.1).and_then(|class| self.classes.get_mut(class))
            && let Some(place) = standing.places.remove(&key)
        {
            standing.absent.insert(key, place);
        }
    }

    /// Lets a waiter stand in line.
    pub(super) fn insert(&mut self, class: Arc<Class>, key: Key, place: Place) {
        self.class_of.insert(key.1, Arc::clone(&class));
        self.classes.entry(class).or_default().places.insert(key, place);
        self.len += 1;
    }

    /// Makes the classes anew, if deployments have changed.
    pub(super) fn sort(&mut self, is_known: impl Fn(&str) -> bool) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        for (_, standing) in std::mem::take(&mut self.classes) {
            for (key, place) in standing.places {
                let class = Arc::new(Class::of(&place.request, &is_known));
                self.class_of.insert(key.1, Arc::clone(&class));
                self.classes.entry(class).or_default().places.insert(key, place);
            }
            for (key, place) in standing.absent {
                let class = Arc::new(Class::of(&place.request, &is_known));
                self.class_of.insert(key.1, Arc::clone(&class));
                self.classes.entry(class).or_default().absent.insert(key, place);
            }
        }
    }

    /// Takes a waiter out.
    pub(super) fn remove(&mut self, key: Key) -> Option<Place> {
        let class = self.class_of.remove(&key.1)?;
        let standing = self.classes.get_mut(&class)?;
        let place = standing.places.remove(&key).or_else(|| standing.absent.remove(&key))?;
        self.len -= 1;
        if standing.places.is_empty() && standing.absent.is_empty() {
            self.classes.remove(&class);
        }
        Some(place)
    }
}
