//! What this process holds of one owner's limits, where processes share them.

use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::bell::Bell;
use super::demand::Demand;
use super::fixed::to_router;
use super::hand::{Hand, Outlook, digest};
use super::limit::Limit;
use super::pace::{Activity, Pace};
use super::signals::{Heard, Signals};
use super::unit::Unit;
use crate::base::clock::Clock;
use crate::base::lock::{Held, Lock};
use crate::base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::base::sync::{Mutex, hold};
use crate::base::time::{Nanos, SECOND, seconds};
use crate::shared::{Ask, Kind, Message, Micros, Reply, Row};

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

/// The store's time, as this process knows it, and what it does without the store.
#[derive(Debug, Default)]
pub(crate) struct StoreTime {
    pub(crate) clock: Clock,
    /// By how many microseconds the time may be wrong.
    error: AtomicU64,
    /// Whether the store has told its time.
    is_known: AtomicU64,
    /// Whether the limits are open to all: the store is lost, and the user wants that then.
    is_open: AtomicU64,
    /// Whether a strategy compares what is in flight.
    compares: AtomicBool,
    /// Wakes the carrier of the talk.
    pub(super) bell: Bell,
}

impl StoreTime {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// Returns the store's time when the router's is `now`.
    #[inline]
    pub(crate) fn at(&self, now: Nanos) -> Micros {
        self.clock.wall_at(now) / 1000
    }

    /// Returns how far the store's time is ahead of the router's. If it is behind, this is a number below zero,
    /// wrapped.
    fn ahead(&self) -> Nanos {
        self.clock.wall().map_or(0, |wall| wall.known_ahead())
    }

    #[inline]
    pub(crate) fn error(&self) -> Micros {
        self.error.load(Ordering::Relaxed)
    }

    pub(crate) fn set_error(&self, error: Micros) {
        self.error.store(error, Ordering::Relaxed);
        self.is_known.store(1, Ordering::Relaxed);
    }

    /// Returns whether the time is the store's. Before its first reply it is this machine's, which may be off
    /// by anything. A clock that is moved by hand is the store's too.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed) != 0 || self.clock.wall().is_none()
    }

    pub(crate) fn set_compares(&self, compares: bool) {
        self.compares.store(compares, Ordering::Relaxed);
    }

    fn compares(&self) -> bool {
        self.compares.load(Ordering::Relaxed)
    }

    pub(crate) fn set_open(&self, is_open: bool) {
        self.is_open.store(u64::from(is_open), Ordering::Relaxed);
    }

    #[inline]
    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed) != 0
    }
}

/// How a process holds pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// How long the store keeps what a process holds that does not speak.
    pub(crate) ttl: Nanos,
    /// How long its places in flight stay taken after that.
    pub(crate) busy_for: Nanos,
    /// For this time ahead a process holds what it will need.
    pub(crate) horizon: Nanos,
}

/// What this process holds of one owner's limits.
#[derive(Debug)]
pub(crate) struct Share {
    owner: Arc<str>,
    /// The most requests in flight, of all processes.
    places: Option<u64>,
    hands: Box<[Hand]>,
    /// How many of these are limits a minute, which come first.
    minutes: usize,
    limits_tokens: bool,
    common: Arc<Common>,
    /// The use of its group.
    activity: Arc<Activity>,
    time: Arc<StoreTime>,
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

/// What stays when an owner's limits are replaced.
#[derive(Debug, Default)]
struct Common {
    lock: Lock,
    /// The places that this process may use, those that it uses, and until when it may.
    places: AtomicU64,
    busy: AtomicU64,
    places_until: AtomicU64,
    /// Until when a request needs a place.
    needs_place_until: AtomicU64,
    /// Requests that came, in all: those that were admitted, and those that lacked something.
    requests: AtomicU64,
    talk: Mutex<Talk>,
    signals: Signals,
}

fn common_in_flight(common: &Common) -> u64 {
    common.busy.load(Ordering::Relaxed)
}

/// The talk with the store about an owner.
#[derive(Debug, Default)]
struct Talk {
    /// The number of the last message.
    number: u64,
    /// The owner's life by the last reply.
    life: u64,
    members: u64,
    is_learning: bool,
    /// Whether the store began a new life, which has to hear everything at once.
    tells_all: bool,
    /// Whether a message is on its way.
    is_asking: bool,
    /// When the last message was made.
    asked_at: Micros,
    /// Whether another process lacks something of this owner's.
    is_wanted: bool,
    /// What a request needs and was refused is not asked for again before this time. The pause is longer each
    /// time.
    repeats_at: Micros,
    pause: Micros,
    /// What is wanted ahead of need is not asked for before this time.
    restocks_at: Micros,
    paces: FxHashMap<u64, Pace>,
    places_granted: u64,
}

/// The first pause after an answer that gave nothing, and the longest.
const FIRST_PAUSE: Micros = 5_000;
const LONGEST_PAUSE: Micros = 500_000;

/// The pause after an answer that gave nothing which no request waits for.
const RESTOCKS_AFTER: Micros = 50_000;

/// The number under which places in flight are known.
fn places_meter() -> u64 {
    digest("places")
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

    fn places_left(&self, time: Micros, error: Micros) -> u64 {
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

    /// Counts a request, and adds a mark for each limit. Returns when the windows end that were charged, by the
    /// router's time, for each of the owner's limits beside those of a minute: 0 for limits without windows
    /// that begin with their first use. The caller holds the lock.
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
            self.hands.iter().for_each(|hand| hand.note_asked(demand.of(hand.unit())));
        }
        lacks
    }

    // --- what processes tell each other ---

    /// Returns how many requests of other processes are in flight, and until when that counts, by the router's
    /// time.
    #[inline]
    pub(crate) fn others(&self, now: Nanos) -> (u32, Option<Nanos>) {
        let (time, signals) = (self.time.at(now), &self.common.signals);
        let until = signals.others_until(time).map(|until| self.router_time(until));
        (u32::try_from(signals.others(time)).unwrap_or(u32::MAX), until)
    }

    /// Returns the successes and failures of other processes.
    pub(crate) fn outcomes(&self, now: Nanos) -> (u64, u64) {
        self.common.signals.outcomes(self.time.at(now))
    }

    /// Tells how requests ended lately, which counts until then.
    pub(crate) fn say_outcomes(&self, successes: u64, failures: u64, until: Nanos) {
        self.common.signals.say_outcomes(successes, failures, self.time.at(until));
    }

    /// Tells that no requests are to be sent before a time. `cause` is a number of `health::Cause`.
    pub(crate) fn say_out(&self, now: Nanos, until: Nanos, cause: u8) {
        if self.common.signals.say_out(self.time.at(now), self.time.at(until), cause) {
            self.time.bell.ring();
        }
    }

    /// Tells that the owner is back in service.
    pub(crate) fn say_back(&self, now: Nanos) {
        if self.common.signals.say_back(self.time.at(now)) {
            self.time.bell.ring();
        }
    }

    /// Tells what the provider said is left of a unit, and until when that holds.
    pub(crate) fn say_observed(&self, now: Nanos, until: Nanos, unit: Unit, remaining: u64, limit: u64) {
        self.common.signals.say_observed(self.time.at(now), self.time.at(until), unit, remaining, limit);
    }

    /// Returns whether another process may be trying the deployment, which is on probation. If so, asks the
    /// store for its place.
    pub(crate) fn lacks_probe(&self, now: Nanos) -> bool {
        let lacks = self.common.signals.lacks_probe(self.time.at(now), self.time.error());
        if lacks {
            self.time.bell.ring();
        }
        lacks
    }

    /// Notes that a request has the place of the probation, or has it no more.
    pub(crate) fn use_probe(&self, is_used: bool) {
        self.common.signals.use_probe(is_used);
    }

    /// Returns what another process has told, with times by the router's clock.
    pub(crate) fn in_router_time(&self, heard: Heard) -> Heard {
        match heard {
            Heard::Out { until, cause } => Heard::Out { until: self.router_time(until), cause },
            Heard::Back => Heard::Back,
            Heard::Observed { unit, at, until, remaining, limit } => {
                Heard::Observed { unit, at: self.router_time(at), until: self.router_time(until), remaining, limit }
            }
        }
    }

    /// Returns the router's time when the store's is `time`.
    fn router_time(&self, time: Micros) -> Nanos {
        to_router(time.saturating_mul(1000), self.time.ahead())
    }

    // --- the talk with the store ---

    /// Returns a message if the store should hear one now, or if it `must`. No other is made until its reply
    /// has come or was lost.
    pub(super) fn message(&self, process: &Arc<str>, terms: &Terms, answer: Nanos, now: Nanos, must: bool) -> Option<Message> {
        let held = self.hold();
        let mut talk = hold(&self.common.talk);
        if talk.is_asking {
            return None;
        }
        let time = self.time.at(now);
        let outlook = Outlook {
            now: time,
            error: self.time.error(),
            time: now,
            horizon: terms.horizon,
            answer,
            may_repeat: time >= talk.repeats_at,
            may_restock: time >= talk.restocks_at,
            is_wanted: talk.is_wanted,
        };
        let requests = self.common.requests.load(Ordering::Relaxed);
        let mut is_due = must || talk.tells_all;
        let plans: Vec<_> = self
            .hands
            .iter()
            .map(|hand| {
                let pace = talk.paces.entry(hand.meter()).or_default();
                pace.look(now, requests, hand.asked());
                let plan = hand.plan(pace, &self.activity, &outlook);
                is_due |= plan.is_due;
                plan
            })
            .collect();
        let places = self.places.map(|limit| {
            let pace = talk.paces.entry(places_meter()).or_default();
            pace.look(now, requests, requests);
            (limit, self.places_row(&outlook, terms, *pace, talk.places_granted < limit / 2, &mut is_due))
        });
        let is_old = time.saturating_sub(talk.asked_at) > terms.ttl / 5000;
        let has_places = places.as_ref().is_some_and(|(_, row)| row.have > 0);
        let is_member = has_places || self.hands.iter().any(|hand| hand.is_engaged(time) || hand.remembers(time));
        let in_flight = common_in_flight(&self.common);
        is_due |= self.common.signals.is_due(time, in_flight, self.time.compares(), outlook.may_repeat);
        if !is_due && !(is_old && is_member) {
            return None;
        }
        let everything = talk.is_learning;
        let mut asks: Vec<_> = Vec::with_capacity(plans.len() + 1);
        // Windows have their names by the store's time. So the first message asks for nothing but the time.
        if self.time.is_known() {
            if let Some((limit, row)) = places {
                self.common.places.store(row.have, Ordering::Relaxed);
                asks.push(Ask { meter: places_meter(), kind: Kind::Places, limit, rows: vec![row] });
            }
            asks.extend(self.hands.iter().zip(plans).map(|(hand, plan)| hand.ask(plan, &outlook, everything)));
            asks.extend(self.common.signals.asks(time, in_flight));
        }
        talk.number += 1;
        talk.is_asking = true;
        talk.asked_at = time;
        drop(held);
        Some(Message {
            owner: Arc::clone(&self.owner),
            process: Arc::clone(process),
            number: talk.number,
            life: talk.life,
            lease: terms.ttl / 1000,
            busy_for: terms.busy_for / 1000,
            asks,
        })
    }

    fn places_row(&self, outlook: &Outlook, terms: &Terms, pace: Pace, spares: bool, is_due: &mut bool) -> Row {
        let common = &*self.common;
        let (time, error) = (outlook.now, outlook.error);
        let (held, busy) = (common.places.load(Ordering::Relaxed), common.busy.load(Ordering::Relaxed));
        let left = self.places_left(time, error);
        let is_needed = time < common.needs_place_until.load(Ordering::Relaxed);
        // What was granted for a request stays here until that asks again.
        let (needs, kept) = (is_needed && left == 0, u64::from(is_needed));
        let stock = pace.stock(terms.horizon, spares, &self.activity, Unit::Requests, outlook.time).max(kept);
        let runs_low = left == 0 && stock > 0;
        let surplus = left > kept && (outlook.is_wanted || left > stock.saturating_mul(2).max(1));
        *is_due |= (needs && outlook.may_repeat) || ((runs_low || surplus) && outlook.may_restock);
        let keeps = left > stock && !surplus;
        let target = busy.saturating_add(if needs { stock.max(1) } else if keeps { left } else { stock });
        let target = if outlook.is_wanted && !needs { busy.saturating_add(kept) } else { target };
        let is_valid = time.saturating_add(error) < common.places_until.load(Ordering::Relaxed);
        let have = if is_valid { held } else { busy };
        let least = if needs { busy.saturating_add(1) } else { 0 };
        Row { have: have.min(target.max(busy)), least, target, used: busy, ..Row::default() }
    }

    /// Takes a reply to a message. Returns whether there may be more room than before, and what others have
    /// told.
    pub(super) fn apply(&self, message: &Message, reply: &Reply, asked_at: Micros) -> (bool, Vec<Heard>) {
        let _held = self.hold();
        let mut talk = hold(&self.common.talk);
        let mut heard = Vec::new();
        if talk.number != message.number {
            return (false, heard);
        }
        let (mut gained, mut lacks, mut is_wanted, mut is_freed) = (false, false, false, false);
        let (asks, answers) = (&message.asks, &reply.answers);
        // The lease counts from the sending: the store has taken the message later.
        let held_until = asked_at.saturating_add(message.lease);
        for (ask, answer) in asks.iter().zip(answers) {
            let mut rows = ask.rows.iter().zip(&answer.rows);
            let hand = self.hands.iter().find(|hand| hand.meter() == ask.meter);
            if hand.is_none() && ask.meter != places_meter() {
                is_freed |= self.common.signals.apply(ask, answer, held_until, reply.now, &mut heard);
                continue;
            }
            is_wanted |= answer.wanted;
            lacks |= rows.any(|(row, piece)| row.least > 0 && piece.held < row.least && piece.window == row.window);
            if ask.kind == Kind::Places {
                if let Some(piece) = answer.rows.first() {
                    let places = &self.common.places;
                    gained |= piece.held > places.swap(piece.held, Ordering::Relaxed);
                    talk.places_granted = piece.granted;
                }
            } else if let Some(hand) = hand {
                gained |= hand.apply(ask, answer, held_until);
            }
        }
        self.common.places_until.store(held_until, Ordering::Relaxed);
        let knew_life = talk.life == reply.life;
        talk.life = reply.life;
        talk.members = reply.members.max(1);
        talk.is_learning = reply.learning > 0;
        talk.tells_all = talk.is_learning && !knew_life;
        talk.is_asking = false;
        talk.is_wanted = is_wanted;
        talk.pause = if lacks && knew_life { talk.pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE) } else { 0 };
        talk.repeats_at = if lacks { reply.now.saturating_add(talk.pause) } else { 0 };
        talk.restocks_at = if gained { 0 } else { reply.now.saturating_add(RESTOCKS_AFTER) };
        (gained || is_freed, heard)
    }

    /// Notes that the reply to a message will not come.
    pub(super) fn lose(&self, message: &Message) {
        let mut talk = hold(&self.common.talk);
        if talk.number == message.number {
            talk.is_asking = false;
        }
    }

    /// Asks again at once for what was refused: something may have come back.
    pub(super) fn hear_news(&self, now: Nanos) {
        let mut talk = hold(&self.common.talk);
        (talk.repeats_at, talk.restocks_at, talk.pause) = (0, 0, 0);
        if self.activity.is_in_use(now) || self.is_engaged(now) {
            self.common.signals.hear_news();
        }
    }

    /// Returns whether other processes may want what it holds, so that it looks for news.
    pub(super) fn is_engaged(&self, now: Nanos) -> bool {
        let time = self.time.at(now);
        self.common.places.load(Ordering::Relaxed) > 0 || self.hands.iter().any(|hand| hand.is_engaged(time))
    }

    /// Forgets what it took without the store, in windows that had their names by another clock.
    pub(super) fn forget_guesses(&self) {
        let _held = self.hold();
        self.hands.iter().for_each(Hand::forget_pieces);
    }

    /// Returns whether it has used units that still count: see [`Hand::remembers`].
    pub(super) fn remembers(&self, now: Nanos) -> bool {
        let time = self.time.at(now);
        self.hands.iter().any(|hand| hand.remembers(time))
    }

    /// Gives everything up, and returns the message that says so, with which the process leaves.
    pub(super) fn farewell(&self, process: &Arc<str>, now: Nanos) -> Option<Message> {
        let _held = self.hold();
        let mut talk = hold(&self.common.talk);
        if talk.life == 0 {
            return None;
        }
        let outlook = Outlook { now: self.time.at(now), time: now, error: 0, horizon: 0, answer: 0, may_repeat: true, may_restock: true, is_wanted: true };
        self.hands.iter().for_each(Hand::drop_all);
        let mut asks: Vec<_> = self.hands.iter().map(|hand| hand.ask(super::hand::Plan::default(), &outlook, true)).collect();
        self.common.places.store(0, Ordering::Relaxed);
        if let Some(limit) = self.places {
            asks.push(Ask { meter: places_meter(), kind: Kind::Places, limit, rows: vec![Row::default()] });
        }
        talk.number += 1;
        let (number, life) = (talk.number, talk.life);
        talk.life = 0;
        Some(Message { owner: Arc::clone(&self.owner), process: Arc::clone(process), number, life, lease: 0, busy_for: 0, asks })
    }

    /// Takes a part without the store, which is lost.
    pub(super) fn fend(&self, now: Nanos) {
        let _held = self.hold();
        let members = hold(&self.common.talk).members.max(1);
        let time = self.time.at(now);
        self.hands.iter().for_each(|hand| hand.fend(time, members));
        if let Some(limit) = self.places {
            let common = &*self.common;
            let valid = common.places_until.load(Ordering::Relaxed) > time;
            let held = if valid { common.places.load(Ordering::Relaxed) } else { 0 };
            common.places.store(held.max(limit / members), Ordering::Relaxed);
            common.places_until.store(time.saturating_add(SECOND / 1000), Ordering::Relaxed);
        }
    }

    /// Forgets everything, in a forked child: it is the parent's. No other thread runs.
    pub(super) fn after_fork(&self) {
        self.hands.iter().for_each(Hand::clear);
        let common = &*self.common;
        for word in [&common.places, &common.busy, &common.places_until, &common.needs_place_until] {
            word.store(0, Ordering::Relaxed);
        }
        common.signals.clear();
        *hold(&common.talk) = Talk::default();
    }

    /// Returns whether the store learns what it has lost.
    pub(super) fn is_learning(&self) -> bool {
        hold(&self.common.talk).is_learning
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
        let state = if talk.is_learning { ", the store recovers" } else if talk.is_asking { ", asking" } else { "" };
        format!("{name}: {shortfall}; {granted} of {most} granted to {} processes{state}", talk.members)
    }
}

fn add(word: &AtomicU64, more: u64) {
    word.store(word.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
}
