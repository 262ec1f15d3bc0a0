//! What a provider said about its limits.

use super::demand::Demand;
use super::shortfall::ObservedShortfall;
use super::unit::Unit;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::time::{MINUTE, Nanos};

/// What a provider says about one of its limits.
///
/// ```
/// use turnout::{Deployment, Observed, Request, Router, Settings, Unit};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, ())?);
/// let nothing_left = Observed { unit: Unit::Requests, limit: Some(600), remaining: 0, reset: Some(5_000_000_000) };
/// router.observe("azure-eu", &[nothing_left], None)?;
/// assert!(router.acquire("gpt-4o", &Request::default()).is_err());
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// What it limits.
    pub unit: Unit,
    /// What may be used in all.
    pub limit: Option<u64>,
    /// What is left.
    pub remaining: u64,
    /// Nanoseconds until that is out of date; a minute if it does not say.
    pub reset: Option<Nanos>,
}

/// How long holds what a provider said without saying how long.
pub(crate) const HOLDS: Nanos = MINUTE;

/// What was reserved of each unit so far.
pub(crate) type Reserved = [u64; Unit::ALL.len()];

/// What a provider said last. Read without a lock, written under its owner's.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    units: [Observation; Unit::ALL.len()],
    /// Nothing before this time, it said, and when it said so.
    paused_until: AtomicU64,
    paused_at: AtomicU64,
}

#[derive(Debug, Default)]
struct Observation {
    /// What it said is left, less what was reserved since.
    left: AtomicU64,
    until: AtomicU64,
    /// What it said.
    said: AtomicU64,
    /// What it said may be used in all; 0 if it did not.
    limit: AtomicU64,
    /// When the request was sent whose answer said so, and what had been reserved in all by then.
    sent_at: AtomicU64,
    reserved_then: AtomicU64,
    /// What was reserved in all, modulo 2^64.
    reserved: AtomicU64,
}

impl Observation {
    fn since(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed).wrapping_sub(self.reserved_then.load(Ordering::Relaxed))
    }

    fn count(&self) {
        self.left.store(self.said.load(Ordering::Relaxed).saturating_sub(self.since()), Ordering::Relaxed);
    }

    fn reserve(&self, units: u64) -> u64 {
        let reserved = self.reserved.load(Ordering::Relaxed).wrapping_add(units);
        self.reserved.store(reserved, Ordering::Relaxed);
        self.count();
        reserved
    }

    /// Replaces what a request had reserved, if that is subtracted from what is left. `reserved` is what was
    /// reserved in all when it had reserved.
    fn settle(&self, reserved: u64, was: u64, is: u64) {
        let nth = reserved.wrapping_sub(self.reserved_then.load(Ordering::Relaxed));
        if (1..=self.since()).contains(&nth) {
            let said = self.said.load(Ordering::Relaxed);
            self.said.store(said.saturating_add(was).saturating_sub(is), Ordering::Relaxed);
            self.count();
        }
    }

    fn words(&self) -> [&AtomicU64; 7] {
        [&self.left, &self.until, &self.said, &self.limit, &self.sent_at, &self.reserved_then, &self.reserved]
    }
}

impl Observations {
    /// Returns whether anything that was said still holds.
    pub(crate) fn hold(&self, now: Nanos) -> bool {
        let mut ends = self.units.iter().map(|said| &said.until).chain([&self.paused_until]);
        ends.any(|until| now < until.load(Ordering::Relaxed))
    }

    /// Returns why what was said does not let a request through; None if it does.
    pub(crate) fn shortfall(&self, demand: Demand, now: Nanos) -> Option<ObservedShortfall> {
        let paused_until = self.paused_until.load(Ordering::Relaxed);
        if now < paused_until {
            return Some(ObservedShortfall { unit: Unit::Requests, left: 0, asked: 1, ends_in: paused_until - now });
        }
        self.active(now).find_map(|(unit, left, until)| {
            let asked = demand.least(unit);
            (left < asked).then_some(ObservedShortfall { unit, left, asked, ends_in: until - now })
        })
    }

    /// Returns when what was said may let a request through.
    pub(crate) fn frees_at(&self, demand: Demand, now: Nanos) -> Nanos {
        let lacking = self.active(now).filter(|&(unit, left, _)| left < demand.least(unit));
        lacking.map(|(.., until)| until).fold(self.paused_until.load(Ordering::Relaxed).max(now), Nanos::max)
    }

    /// Returns what holds now: the unit, what is left of it, and until when.
    pub(crate) fn active(&self, now: Nanos) -> impl Iterator<Item = (Unit, u64, Nanos)> {
        Unit::ALL.into_iter().zip(&self.units).filter_map(move |(unit, said)| {
            let until = said.until.load(Ordering::Relaxed);
            (now < until).then(|| (unit, said.left.load(Ordering::Relaxed), until))
        })
    }

    /// Returns what the provider said may be used of a unit in all; 0 if it did not say.
    pub(super) fn limit(&self, unit: Unit) -> u64 {
        self.units.get(unit.index()).map_or(0, |said| said.limit.load(Ordering::Relaxed))
    }

    /// Returns until when the provider wants not to be asked; in the past if it may be asked.
    pub(crate) fn paused_until(&self) -> Nanos {
        self.paused_until.load(Ordering::Relaxed)
    }

    /// Subtracts a request from what is left. Returns what was reserved in all.
    pub(crate) fn reserve(&self, demand: Demand) -> Reserved {
        let mut reserved = Reserved::default();
        for ((unit, said), reserved) in Unit::ALL.into_iter().zip(&self.units).zip(&mut reserved) {
            *reserved = said.reserve(demand.of(unit));
        }
        reserved
    }

    /// Replaces what a request subtracted from what is left; by nothing, if it was never sent.
    pub(crate) fn settle(&self, reserved: &Reserved, estimated: Demand, actual: Option<Demand>) {
        for ((unit, said), &reserved) in Unit::ALL.into_iter().zip(&self.units).zip(reserved) {
            said.settle(reserved, estimated.of(unit), actual.map_or(0, |actual| actual.of(unit)));
        }
    }

    /// Records what an answer said. `sent_at` is when its request was sent, None if just now without a lease;
    /// `then` is what had been reserved in all by then. An answer that is older than the last one tells
    /// nothing while the last one holds.
    pub(crate) fn observe(&self, observed: &Observed, sent_at: Option<Nanos>, then: Option<&Reserved>, now: Nanos) {
        let nth = observed.unit.index();
        let Some(said) = self.units.get(nth) else { return };
        if observed.remaining > 0 {
            self.came_through(sent_at);
        }
        let sent_at = sent_at.unwrap_or(now);
        if sent_at < said.sent_at.load(Ordering::Relaxed) && now < said.until.load(Ordering::Relaxed) {
            return;
        }
        let then = then.and_then(|then| then.get(nth)).copied().unwrap_or(said.reserved.load(Ordering::Relaxed));
        said.reserved_then.store(then, Ordering::Relaxed);
        said.said.store(observed.remaining, Ordering::Relaxed);
        said.limit.store(observed.limit.unwrap_or(0), Ordering::Relaxed);
        said.count();
        said.sent_at.store(sent_at, Ordering::Relaxed);
        said.until.store(now.saturating_add(observed.reset.unwrap_or(HOLDS)), Ordering::Relaxed);
    }

    /// Records that nothing may be sent for a while. A longer pause is shortened only by an answer to a
    /// request that was sent after it was asked for.
    pub(crate) fn pause(&self, now: Nanos, length: Nanos, sent_at: Option<Nanos>) {
        self.came_through(sent_at);
        let until = self.paused_until.load(Ordering::Relaxed).max(now.saturating_add(length));
        self.paused_until.store(until, Ordering::Relaxed);
        self.paused_at.store(now, Ordering::Relaxed);
    }

    /// Ends a pause that was asked for before a request was sent which was answered since. `sent_at` is when
    /// that was sent, None if just now without a lease.
    pub(crate) fn came_through(&self, sent_at: Option<Nanos>) {
        if sent_at.is_none_or(|sent_at| sent_at > self.paused_at.load(Ordering::Relaxed)) {
            self.paused_until.store(0, Ordering::Relaxed);
        }
    }

    /// Ends all that was said.
    pub(crate) fn forget(&self) {
        let ends = self.units.iter().map(|said| &said.until).chain([&self.paused_until]);
        ends.for_each(|until| until.store(0, Ordering::Relaxed));
    }

    pub(crate) fn clear(&self) {
        let words = self.units.iter().flat_map(Observation::words).chain([&self.paused_until, &self.paused_at]);
        words.for_each(|word| word.store(0, Ordering::Relaxed));
    }
}
