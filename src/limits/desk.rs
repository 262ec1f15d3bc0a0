//! The desk of a router, where its talk with a shared store is kept.
//!
//! Nothing here calls a store. A carrier, which may be a thread of Python, takes the [batch](Desk::batch) of
//! messages that are due, lets the store answer, and hands the replies [in](Desk::take).

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
#[cfg(feature = "python")]
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::limit::Limit;
use super::pace::Activity;
use super::share::{Limited, Share};
use super::signals::Heard;
use super::store_time::StoreTime;
use super::talk::Terms;
use crate::base::clock::Clock;
use crate::base::fork::{self, Forks};
use crate::base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::base::sync::{Mutex, hold};
use crate::base::time::{Nanos, SECOND};
use crate::shared::{Message, Micros, Reply};

/// How many round trips are compared to find the store's time.
const TRIPS: usize = 50;

/// Clocks of two machines drift apart by less than this: 100 parts in a million.
const DRIFT: u64 = 10_000;

/// What a router does when its store is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnLoss {
    /// It admits what it holds, and nothing more.
    Closed,
    /// It takes its equal part of each limit.
    Share,
    /// It heeds its own counts alone.
    Open,
}

/// The desk of a router.
pub(crate) struct Desk {
    terms: Terms,
    on_loss: OnLoss,
    /// The name of this process: see [`Desk::after_fork`].
    process: Mutex<Arc<str>>,
    name: fn() -> String,
    time: Arc<StoreTime>,
    shares: Mutex<FxHashMap<Arc<str>, Arc<Share>>>,
    /// The use of each group, by its model name.
    activities: Mutex<FxHashMap<Arc<str>, Arc<Activity>>>,
    state: Mutex<State>,
    counts: Counts,
    is_closed: AtomicBool,
    /// How many processes share, this one included.
    members: Arc<AtomicU64>,
    hears: OnceLock<Weak<dyn Hears>>,
}

#[derive(Debug, Default)]
struct Counts {
    syncs: AtomicU64,
    errors: AtomicU64,
    /// The router's time when the store last answered; 0 for never.
    heard_at: AtomicU64,
}

/// A round trip: its length, the router's time at its middle, and the store's time.
type Trip = (Nanos, Nanos, Micros);

#[derive(Debug, Default)]
struct State {
    /// The last round trips.
    trips: Vec<Trip>,
    /// How long answers take.
    answer: Nanos,
}

/// Hears what the talk with a store has brought.
pub(crate) trait Hears: Send + Sync {
    /// Of the limits of these owners this process may use more than before, or others have more or less in
    /// flight. Renews what depends on it, and wakes requests that wait. The caller holds no lock. `at` is the
    /// time.
    fn freed(&self, owners: &[Arc<str>], at: Nanos);

    /// Takes over what another process has told of an owner. The caller holds no lock.
    fn heard(&self, share: &Share, heard: Heard, at: Nanos);

    /// The store does not answer any more, or it answers again. The caller holds no lock.
    fn store(&self, is_lost: bool, at: Nanos);
}

/// Messages on their way, and when they were sent, by the router's time.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) messages: Vec<Message>,
    shares: Vec<Arc<Share>>,
    sent_at: Nanos,
}

/// The talk of a router with its shared store, for people to read.
///
/// ```
/// use std::sync::Arc;
/// use turnout::{Memory, Router, Settings, Sharing};
///
/// let shared = Some(Sharing::through(Arc::new(Memory::default())));
/// let router: Router<()> = Router::new(Settings { shared, ..Settings::default() })?;
/// assert_eq!(router.metrics().sharing.map(|sharing| sharing.syncs), Some(0));
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SharingStats {
    /// The processes that share, this one included.
    pub processes: u64,
    /// The messages that the store has answered.
    pub syncs: u64,
    /// How often the store did not answer.
    pub errors: u64,
    /// Nanoseconds since the store last answered; None if it never did.
    pub age: Option<Nanos>,
    /// Whether the store has lost what it knew and learns it from the processes, so that it grants nothing.
    pub recovering: bool,
    /// Whether the store does not answer.
    pub lost: bool,
}

impl Desk {
    /// Makes a desk. `name` makes a name for this process.
    pub(crate) fn new(clock: Clock, terms: Terms, on_loss: OnLoss, name: fn() -> String) -> Arc<Self> {
        let desk = Arc::new(Self {
            terms,
            on_loss,
            process: Mutex::new(name().into()),
            name,
            time: Arc::new(StoreTime::new(clock)),
            shares: Mutex::default(),
            activities: Mutex::default(),
            state: Mutex::default(),
            counts: Counts::default(),
            is_closed: AtomicBool::new(false),
            members: Arc::new(AtomicU64::new(1)),
            hears: OnceLock::new(),
        });
        let forks: Weak<Self> = Arc::downgrade(&desk);
        fork::tell(forks);
        desk
    }

    /// Returns the share of a deployment with these limits. It goes on with what was held before.
    /// `minutes` are its limits a minute.
    pub(crate) fn of_deployment(
        &self,
        (id, model_name): (&str, &Arc<str>),
        places: Option<u32>,
        minutes: &[Limit],
        limits: &[Limit],
    ) -> Arc<Share> {
        let activity = Arc::clone(hold(&self.activities).entry(Arc::clone(model_name)).or_default());
        let all: Vec<_> = minutes.iter().chain(limits).copied().collect();
        self.share(&format!("d/{id}").into(), Limited { places, limits: &all, minutes: minutes.len(), activity })
    }

    /// Returns the share of a quota with these limits. It goes on with what was held before.
    pub(crate) fn of_quota(&self, id: &str, limits: &[Limit]) -> Arc<Share> {
        self.share(&format!("q/{id}").into(), Limited { places: None, limits, minutes: 0, activity: Arc::default() })
    }

    fn share(&self, owner: &Arc<str>, limited: Limited<'_>) -> Arc<Share> {
        let mut shares = hold(&self.shares);
        let share = Arc::new(Share::new(owner, limited, shares.get(owner).map(|before| &**before), &self.time));
        shares.insert(Arc::clone(owner), Arc::clone(&share));
        share
    }

    /// Returns the messages that are due; None if there are none.
    pub(crate) fn batch(&self, now: Nanos) -> Option<Batch> {
        let process = Arc::clone(&hold(&self.process));
        let answer = hold(&self.state).answer;
        let mut batch = Batch { messages: Vec::new(), shares: Vec::new(), sent_at: now };
        let shares: Vec<_> = hold(&self.shares).values().cloned().collect();
        for share in shares {
            // Two: this list's, and that of the desk. Its owner is gone.
            let is_orphan = Arc::strong_count(&share) <= 2;
            let message = if is_orphan {
                hold(&self.shares).remove(share.owner());
                share.farewell(&process, &self.terms, now)
            } else {
                share.message(&process, &self.terms, answer, now)
            };
            if let Some(message) = message {
                batch.messages.push(message);
                batch.shares.push(share);
            }
        }
        (!batch.messages.is_empty()).then_some(batch)
    }

    /// Returns the messages by which the process gives back everything and leaves.
    pub(crate) fn farewell(&self, now: Nanos) -> Option<Batch> {
        let process = Arc::clone(&hold(&self.process));
        let shares: Vec<_> = hold(&self.shares).values().cloned().collect();
        let (mut messages, mut left) = (Vec::new(), Vec::new());
        for share in shares {
            if let Some(message) = share.farewell(&process, &self.terms, now) {
                messages.push(message);
                left.push(share);
            }
        }
        (!messages.is_empty()).then_some(Batch { messages, shares: left, sent_at: now })
    }

    /// Lets somebody hear of what is freed.
    pub(crate) fn connect(&self, hears: Weak<dyn Hears>) {
        // A router has one registry, which is connected when the router is made.
        let _ = self.hears.set(hears);
    }

    fn tell_store(&self, is_lost: bool, at: Nanos) {
        if let Some(hears) = self.hears.get().and_then(Weak::upgrade) {
            hears.store(is_lost, at);
        }
    }

    fn tell_freed(&self, owners: &[Arc<str>], at: Nanos) {
        if let Some(hears) = self.hears.get().and_then(Weak::upgrade)
            && !owners.is_empty()
        {
            hears.freed(owners, at);
        }
    }

    /// Takes the replies to a batch, one for each message, in the same order; None where this one was lost.
    /// The caller holds no lock.
    pub(crate) fn take(&self, batch: &Batch, replies: &[Option<Reply>], now: Nanos) {
        self.counts.syncs.fetch_add(batch.messages.len() as u64, Ordering::Relaxed);
        self.counts.heard_at.store(now, Ordering::Relaxed);
        let knew_time = self.time.is_known();
        if let Some(reply) = replies.iter().flatten().next() {
            hold(&self.state).trip(&self.time, batch.sent_at, now, reply.now);
        }
        if self.time.set_lost(false) {
            self.time.set_open(false);
            self.tell_store(false, now);
        }
        if !knew_time {
            hold(&self.shares).values().for_each(|share| share.forget_guesses());
        }
        let sent_at = self.time.at(batch.sent_at);
        if let Some(members) = replies.iter().flatten().map(|reply| reply.members).max() {
            self.members.store(members.max(1), Ordering::Relaxed);
        }
        let (mut freed, mut told) = (Vec::new(), Vec::new());
        for ((share, message), reply) in batch.shares.iter().zip(&batch.messages).zip(replies) {
            let Some(reply) = reply else {
                share.lose(message);
                continue;
            };
            let (is_freed, heard) = share.apply(message, reply, sent_at);
            if is_freed {
                freed.push(Arc::clone(share.owner()));
            }
            told.extend(heard.into_iter().map(|heard| (Arc::clone(share), heard)));
        }
        if let Some(hears) = self.hears.get().and_then(Weak::upgrade) {
            for (share, heard) in told {
                hears.heard(&share, heard, now);
            }
        }
        self.tell_freed(&freed, now);
    }

    /// Notes that the store did not answer a batch. The caller holds no lock.
    pub(crate) fn lose(&self, batch: &Batch, now: Nanos) {
        self.counts.errors.fetch_add(1, Ordering::Relaxed);
        for (share, message) in batch.shares.iter().zip(&batch.messages) {
            share.lose(message);
        }
        let was_lost = self.time.set_lost(true);
        if self.on_loss == OnLoss::Open {
            self.time.set_open(true);
        }
        if !was_lost {
            self.tell_store(true, now);
            // What nobody can ask for any more is no obstacle: see `Share::lacks_probe`.
            self.tell_freed(&self.owners(), now);
        }
    }

    /// Does what is wanted while the store is lost. The caller holds no lock.
    pub(crate) fn fend(&self, now: Nanos) {
        if self.on_loss == OnLoss::Closed || !self.time.is_lost() {
            return;
        }
        if self.on_loss == OnLoss::Share {
            let shares: Vec<_> = hold(&self.shares).values().cloned().collect();
            for share in &shares {
                share.fend(now);
            }
        }
        self.tell_freed(&self.owners(), now);
    }

    fn owners(&self) -> Vec<Arc<str>> {
        hold(&self.shares).keys().cloned().collect()
    }

    /// Lets all that were refused something ask again: something may have come back.
    pub(crate) fn hear_news(&self) {
        let shares: Vec<_> = hold(&self.shares).values().cloned().collect();
        let now = self.now();
        for share in &shares {
            share.hear_news(now);
        }
    }

    /// Returns how long the carrier may sleep if nobody rings. While requests come, others may want something
    /// back, and more may be needed soon. `news`: the store has to be asked for news.
    pub(crate) fn rest(&self, now: Nanos, news: bool) -> Nanos {
        let is_in_use = hold(&self.activities).values().any(|activity| activity.is_in_use(now));
        if is_in_use {
            if news { SECOND / 200 } else { SECOND / 50 }
        } else if hold(&self.shares).values().any(|share| share.is_engaged(now)) {
            // It is about to give back what it holds.
            SECOND / 10
        } else if hold(&self.shares).values().any(|share| share.remembers(now)) {
            // It speaks now and then, so that it hears early that the store has lost something.
            (self.terms.ttl / 20).min(SECOND)
        } else {
            SECOND
        }
    }

    /// Returns how many processes share, this one included.
    #[cfg(feature = "python")]
    pub(crate) fn members(&self) -> &Arc<AtomicU64> {
        &self.members
    }

    /// Wakes the carrier.
    pub(crate) fn ring(&self) {
        self.time.bell.ring();
    }

    /// Returns whether somebody has rung since the last look.
    pub(crate) fn take_ring(&self) -> bool {
        self.time.bell.take_ring()
    }

    /// Ends the talk: the carrier gives everything back, and then looks no more.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.ring();
    }

    /// Begins the talk again.
    #[cfg(feature = "python")]
    pub(crate) fn open(&self) {
        self.is_closed.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Returns the router's time.
    pub(crate) fn now(&self) -> Nanos {
        self.time.clock.now()
    }

    /// Returns the store's time when the router's is `now`.
    pub(crate) fn store_time(&self, now: Nanos) -> Micros {
        self.time.at(now)
    }

    /// Sleeps until somebody rings, at most for this long. Returns whether somebody rang.
    #[cfg(feature = "python")]
    pub(crate) fn sleep(&self, at_most: Duration) -> bool {
        self.time.bell.sleep(at_most)
    }

    /// Says whether a strategy compares what is in flight.
    pub(crate) fn set_compares(&self, compares: bool) {
        self.time.set_compares(compares);
    }

    pub(crate) fn stats(&self, now: Nanos) -> SharingStats {
        let heard_at = self.counts.heard_at.load(Ordering::Relaxed);
        SharingStats {
            processes: self.members.load(Ordering::Relaxed),
            syncs: self.counts.syncs.load(Ordering::Relaxed),
            errors: self.counts.errors.load(Ordering::Relaxed),
            age: Some(now.saturating_sub(heard_at)).filter(|_| heard_at != 0),
            recovering: hold(&self.shares).values().any(|share| share.is_learning()),
            lost: self.time.is_lost(),
        }
    }
}

impl State {
    /// Learns the store's time from a round trip. Of the last, the shortest tells most.
    fn trip(&mut self, time: &StoreTime, sent_at: Nanos, now: Nanos, said: Micros) {
        let length = now.saturating_sub(sent_at);
        self.answer = if self.answer == 0 { length } else { (self.answer * 7 + length) / 8 };
        let Some(wall) = time.clock.wall() else { return };
        let worth = |&(length, at, _): &Trip| length / 2 + now.saturating_sub(at) / DRIFT;
        let ahead = |&(_, at, said): &Trip| said.saturating_mul(1000).wrapping_sub(at);
        let latest = (length, sent_at + length / 2, said);
        // Two trips that cannot both be right: the store's clock was set, or another server is the store now.
        let agrees = |trip: &Trip| {
            let apart = ahead(trip).wrapping_sub(ahead(&latest)).cast_signed().unsigned_abs();
            apart <= worth(trip).saturating_add(worth(&latest)).saturating_add(1000)
        };
        self.trips.retain(agrees);
        if self.trips.len() >= TRIPS {
            self.trips.remove(0);
        }
        self.trips.push(latest);
        let best = self.trips.iter().min_by_key(|trip| worth(trip)).copied().unwrap_or(latest);
        wall.follow(ahead(&best));
        // What the store says in microseconds was true up to one later.
        time.set_error(worth(&best) / 1000 + 1);
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("terms", &self.terms).field("on_loss", &self.on_loss).finish_non_exhaustive()
    }
}

impl Forks for Desk {
    fn after_fork(&self) {
        *hold(&self.process) = (self.name)().into();
        self.time.bell.renew();
        *hold(&self.state) = State::default();
        self.time.set_open(false);
        self.time.set_lost(false);
        hold(&self.shares).values().for_each(|share| share.after_fork());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_store_whose_clock_is_set_is_learnt_from_the_next_answer() {
        let (time, mut state) = (StoreTime::new(Clock::system()), State::default());
        let mut at = time.clock.now();
        // The first trips are the shortest: without the step the others would tell less.
        for (ahead, length) in [(0, 1_000), (0, 1_000), (3_600 * SECOND, 5_000_000), (3_600 * SECOND, 5_000_000)] {
            state.trip(&time, at, at + length, (at + length / 2 + ahead) / 1000);
            at += SECOND;
            let apart = time.ahead().wrapping_sub(ahead).cast_signed().unsigned_abs();
            assert!(apart <= 1_000, "{apart} {:?}", state.trips);
        }
        assert!(time.error() < 3_000);
    }
}
