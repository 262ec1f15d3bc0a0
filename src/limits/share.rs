//! What this process holds of one owner's limits, where processes share them.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::demand::Demand;
use super::fixed::to_router;
use super::hand::Hand;
use super::limit::Limit;
use super::pace::Activity;
use super::store_time::StoreTime;
use super::talk::Common;
use super::unit::Unit;
use crate::base::lock::Held;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::sync::hold;
use crate::base::time::{Nanos, SECOND, seconds};
use crate::shared::Micros;

/// A mark for each limit of one owner or of several, to settle a charge.
pub(super) type Marks = SmallVec<[u64; 3]>;

/// Too little of a shared limit is held here.
///
/// It comes with [`Refusal::Shared`](crate::Refusal::Shared) and in a [`Shortfall`](crate::Shortfall).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedShortfall {
    /// The number of the limit among those of its owner, from 0: places in flight, requests a minute, tokens
    /// a minute, and then the others, as far as the owner has them.
    pub nth: u32,
    /// The units that this process may still use now.
    pub left: u64,
    /// The units that the request asks for.
    pub asked: u64,
    /// Nanoseconds until more may be there.
    pub frees_in: Nanos,
}

impl fmt::Display for SharedShortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { left, asked, frees_in, .. } = self;
        write!(f, "{left} left here, {asked} asked for, more in {:.3} s", seconds(*frees_in))
    }
}

/// What this process holds of one owner's limits.
#[derive(Debug)]
pub(crate) struct Share {
    pub(super) owner: Arc<str>,
    /// Whether the owner is a deployment, and not a quota.
    pub(super) is_deployment: bool,
    /// The most requests in flight, of all processes.
    pub(super) places: Option<u64>,
    pub(super) hands: Box<[Hand]>,
    /// How many of these are limits a minute, which come first.
    pub(super) minutes: usize,
    pub(super) limits_tokens: bool,
    pub(super) common: Arc<Common>,
    /// The use of its group.
    pub(super) activity: Arc<Activity>,
    pub(super) time: Arc<StoreTime>,
}

/// What an owner limits.
#[derive(Debug)]
pub(super) struct Limited<'a> {
    /// The most requests in flight.
    pub(super) places: Option<u32>,
    pub(super) limits: &'a [Limit],
    /// How many of these are limits a minute, which come first.
    pub(super) minutes: usize,
    pub(super) activity: Arc<Activity>,
}

impl Share {
    /// Makes the share of an owner with these limits. It goes on with what `before` holds, which had the same
    /// owner.
    pub(super) fn new(owner: &Arc<str>, limited: Limited<'_>, before: Option<&Self>, time: &Arc<StoreTime>) -> Self {
        let Limited { places, limits, minutes, activity } = limited;
        let mut hands: Vec<Hand> = Vec::with_capacity(limits.len());
        let before_hands = before.map_or(&[][..], |before| &before.hands);
        for (place, limit) in limits.iter().enumerate() {
            let is_same = |other: &&Limit| {
                let same_kind = std::mem::discriminant(&other.kind()) == std::mem::discriminant(&limit.kind());
                same_kind && (other.unit(), other.per()) == (limit.unit(), limit.per())
            };
            let nth = limits.iter().take(place).filter(is_same).count() as u64;
            hands.push(Hand::new(*limit, nth, before_hands));
        }
        Self {
            owner: Arc::clone(owner),
            is_deployment: owner.starts_with("d/"),
            places: places.map(u64::from),
            hands: hands.into(),
            minutes,
            limits_tokens: limits.iter().any(|limit| limit.unit() != Unit::Requests),
            common: before.map_or_else(Arc::default, |before| Arc::clone(&before.common)),
            activity,
            time: Arc::clone(time),
        }
    }

    pub(crate) fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// Takes its lock. It comes after those of counters and ledgers; two shares are locked in the order of
    /// their owners' ledgers, a deployment's own first.
    pub(super) fn hold(&self) -> Held<'_> {
        self.common.lock.hold()
    }

    // --- the way of a request ---

    /// Returns what this process lacks for a request; None if nothing.
    #[inline]
    pub(crate) fn shortfall(&self, demand: Demand, now: Nanos) -> Option<SharedShortfall> {
        let (time, error) = (self.time.at(now), self.time.error());
        let has_place = self.places.is_none() || self.places_left(time, error) > 0;
        let lacks = |hand: &Hand| !hand.has_room(time, error, demand.least(hand.unit()));
        if has_place && !self.hands.iter().any(lacks) {
            return None;
        }
        self.shortfall_of(demand, time, error)
    }

    #[cold]
    fn shortfall_of(&self, demand: Demand, time: Micros, error: Micros) -> Option<SharedShortfall> {
        if self.time.is_open() {
            return None;
        }
        let first = u32::from(self.places.is_some());
        if self.places.is_some() && self.places_left(time, error) == 0 {
            return Some(SharedShortfall { nth: 0, left: 0, asked: 1, frees_in: SECOND / 50 });
        }
        (first..).zip(&*self.hands).find_map(|(nth, hand)| {
            let asked = demand.least(hand.unit());
            let frees_in = || hand.frees_at(time, error).saturating_sub(time).saturating_mul(1000);
            let left = hand.room(time, error);
            (left < asked).then(|| SharedShortfall { nth, left, asked, frees_in: frees_in() })
        })
    }

    pub(super) fn places_left(&self, time: Micros, error: Micros) -> u64 {
        let common = &*self.common;
        let is_valid = time.saturating_add(error) < common.places_until.load(Ordering::Relaxed);
        let places = if is_valid { common.places.load(Ordering::Relaxed) } else { 0 };
        places.saturating_sub(common.busy.load(Ordering::Relaxed))
    }

    /// Returns the tokens that any request finds here now.
    pub(crate) fn tokens_left(&self, now: Nanos) -> u64 {
        let (time, error) = (self.time.at(now), self.time.error());
        if self.time.is_open() {
            return u64::MAX;
        }
        let hands = self.hands.iter().filter(|hand| hand.unit() != Unit::Requests);
        hands.map(|hand| hand.room(time, error)).min().unwrap_or(u64::MAX)
    }

    /// Returns whether a limit counts tokens.
    #[inline]
    pub(super) fn limits_tokens(&self) -> bool {
        self.limits_tokens
    }

    /// Returns whether a limit counts prompts or answers apart.
    pub(super) fn limits_parts(&self) -> bool {
        self.hands.iter().any(|hand| hand.unit().is_part())
    }

    /// Returns when time will change what may be used here: a window begins or ends.
    pub(super) fn changes_at(&self, now: Nanos) -> Option<Nanos> {
        let (time, error) = (self.time.at(now), self.time.error());
        let changes = self.hands.iter().filter_map(|hand| hand.changes_at(time, error));
        changes.min().map(|at| now.saturating_add(at.saturating_sub(time).saturating_mul(1000)))
    }

    /// Returns when the units may be there that a request lacks, now at the earliest.
    pub(crate) fn frees_at(&self, demand: Demand, now: Nanos) -> Nanos {
        self.shortfall(demand, now).map_or(now, |shortfall| now.saturating_add(shortfall.frees_in))
    }

    /// Counts a request, and adds a mark for each limit. Returns when the windows end that were charged, by
    /// the router's time, for each of the owner's limits beside those of a minute: 0 for limits without
    /// windows that begin with their first use. The caller holds the lock.
    pub(super) fn charge(&self, demand: Demand, now: Nanos, marks: &mut Marks) -> impl Iterator<Item = Nanos> {
        let (time, error) = (self.time.at(now), self.time.error());
        add(&self.common.requests, 1);
        self.activity.note(now, demand.tokens);
        let first = marks.len();
        marks.extend(self.hands.iter().map(|hand| hand.charge(time, error, demand.of(hand.unit()))));
        let ahead = self.time.ahead();
        let charged = self.hands.iter().zip(marks.iter().skip(first)).skip(self.minutes);
        charged.map(move |(hand, &mark)| if hand.opens_at_first_use() && mark != 0 { to_router(mark * 1000, ahead) } else { 0 })
    }

    /// Takes a place in flight. The caller holds the lock.
    pub(super) fn enter(&self) {
        self.common.busy.fetch_add(1, Ordering::Relaxed);
        self.common.needs_place_until.store(0, Ordering::Relaxed);
    }

    /// Gives back a place in flight.
    pub(crate) fn leave(&self) {
        self.common.busy.fetch_sub(1, Ordering::Relaxed);
    }

    /// Replaces what was counted. None: the request was never sent. Returns the marks of other owners. The
    /// caller holds the lock.
    pub(super) fn settle<'a>(&self, marks: &'a [u64], estimated: Demand, actual: Option<Demand>) -> &'a [u64] {
        for (hand, &mark) in self.hands.iter().zip(marks) {
            let (was, is) = (estimated.of(hand.unit()), actual.map_or(0, |actual| actual.of(hand.unit())));
            if was != is {
                hand.settle(mark, was, is);
            }
        }
        marks.get(self.hands.len()..).unwrap_or_default()
    }

    /// Notes that a request came for its group.
    pub(crate) fn note_request(&self, tokens: u64, now: Nanos) {
        self.activity.note(now, tokens);
    }

    /// Notes what a request lacks. Returns whether it lacks anything.
    pub(crate) fn note_need(&self, demand: Demand, now: Nanos) -> bool {
        let _held = self.hold();
        let (time, error) = (self.time.at(now), self.time.error());
        let needs_place_until = self.common.needs_place_until.load(Ordering::Relaxed);
        // A request that waits and asks again is still one request.
        let is_known = time < needs_place_until || self.hands.iter().any(|hand| hand.needed(time) > 0);
        let mut lacks = false;
        if self.places.is_some() && self.places_left(time, error) == 0 {
            self.common.needs_place_until.store(time.saturating_add(SECOND / 1000), Ordering::Relaxed);
            lacks = true;
        }
        for hand in &self.hands {
            let least = demand.least(hand.unit());
            if !hand.has_room(time, error, least) {
                hand.note_need(time, least);
                lacks = true;
            }
        }
        if lacks {
            self.activity.note(now, demand.tokens);
        }
        if lacks && !is_known {
            add(&self.common.requests, 1);
            for hand in &self.hands {
                hand.note_asked(demand.of(hand.unit()));
            }
        }
        lacks
    }

    /// Returns how much of a limit with a number is left here, and how much was granted to all processes by
    /// the last answer. See [`SharedShortfall::nth`].
    pub(crate) fn held(&self, nth: u32, now: Nanos) -> Option<(u64, u64)> {
        let (time, error) = (self.time.at(now), self.time.error());
        let Some(nth) = usize::try_from(nth).ok()?.checked_sub(usize::from(self.places.is_some())) else {
            return Some((self.places_left(time, error), hold(&self.common.talk).places_granted));
        };
        self.hands.get(nth).map(|hand| (hand.room(time, error), hand.granted(time).unwrap_or(0)))
    }

    /// Returns what is held of the owner's limits beside those of a minute: see [`Share::held`].
    pub(crate) fn held_of_limits(&self, now: Nanos) -> impl Iterator<Item = (u64, u64)> {
        let first = self.minutes + usize::from(self.places.is_some());
        (first..).map_while(move |nth| self.held(u32::try_from(nth).ok()?, now))
    }

    /// Returns in words why too little is left here.
    pub(crate) fn describe(&self, shortfall: &SharedShortfall, now: Nanos) -> String {
        let place = usize::try_from(shortfall.nth).ok().and_then(|nth| nth.checked_sub(usize::from(self.places.is_some())));
        let limit = place.and_then(|place| self.hands.get(place)).map(Hand::limit);
        let (name, most) = match limit {
            Some(limit) => (limit.to_string(), limit.capacity()),
            None => ("places in flight".to_owned(), self.places.unwrap_or(0)),
        };
        let granted = self.held(shortfall.nth, now).map_or(0, |(_, granted)| granted);
        let talk = hold(&self.common.talk);
        let state = if talk.is_learning {
            ", the store recovers"
        } else if talk.is_asking {
            ", asking"
        } else {
            ""
        };
        format!("{name}: {shortfall}; {granted} of {most} granted to {} processes{state}", talk.members)
    }
}

fn add(word: &AtomicU64, more: u64) {
    word.store(word.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
}
