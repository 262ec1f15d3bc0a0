//! The limits that a provider has told.

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
    /// The unit that it limits.
    pub unit: Unit,
    /// The units that may be used in all, if the provider said so.
    pub limit: Option<u64>,
    /// The units that are left.
    pub remaining: u64,
    /// Nanoseconds until this is out of date. If the provider does not say, it holds for a minute.
    pub reset: Option<Nanos>,
}

/// How long an answer holds if the provider does not say how long.
pub(crate) const HOLDS: Nanos = MINUTE;

/// The units that were reserved so far, of each kind.
pub(crate) type Reserved = [u64; Unit::ALL.len()];

/// The last answers of a provider about its limits. Any thread reads them without a lock. They are written
/// under their owner's lock.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    units: [Observation; Unit::ALL.len()],
    /// The provider wants no requests before this time.
    paused_until: AtomicU64,
    /// When the provider asked for that pause.
    paused_at: AtomicU64,
}

#[derive(Debug, Default)]
struct Observation {
    /// The units that it said are left, less those that were reserved since.
    left: AtomicU64,
    until: AtomicU64,
    /// The units that it said are left.
    said: AtomicU64,
    /// The units that it said may be used in all; 0 if it did not say.
    limit: AtomicU64,
    /// When the request was sent whose answer this is.
    sent_at: AtomicU64,
    /// The units that were reserved in all when that request had reserved.
    reserved_then: AtomicU64,
    /// The units that were reserved in all, modulo 2^64.
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

    /// Replaces the units that a request had reserved, if they are subtracted from those that are left.
    /// `reserved` is what was reserved in all when the request had reserved.
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
    /// Returns whether anything that the provider said still holds.
    pub(crate) fn hold(&self, now: Nanos) -> bool {
        let mut ends = self.units.iter().map(|said| &said.until).chain([&self.paused_until]);
        ends.any(|until| now < until.load(Ordering::Relaxed))
    }

    /// Returns why a request is not let through, by what the provider said; None if it is let through.
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

    /// Returns when a request may be let through, by what the provider said.
    pub(crate) fn frees_at(&self, demand: Demand, now: Nanos) -> Nanos {
        let lacking = self.active(now).filter(|&(unit, left, _)| left < demand.least(unit));
        lacking.map(|(.., until)| until).fold(self.paused_until.load(Ordering::Relaxed).max(now), Nanos::max)
    }

    /// Returns what holds now: each unit, how much of it is left, and until when that holds.
    pub(crate) fn active(&self, now: Nanos) -> impl Iterator<Item = (Unit, u64, Nanos)> {
        Unit::ALL.into_iter().zip(&self.units).filter_map(move |(unit, said)| {
            let until = said.until.load(Ordering::Relaxed);
            (now < until).then(|| (unit, said.left.load(Ordering::Relaxed), until))
        })
    }

    /// Returns how much of a unit the provider said may be used in all; 0 if it did not say.
    pub(super) fn limit(&self, unit: Unit) -> u64 {
        self.units.get(unit.index()).map_or(0, |said| said.limit.load(Ordering::Relaxed))
    }

    /// Returns the time before which the provider wants no requests. It is in the past if requests may be
    /// sent.
    pub(crate) fn paused_until(&self) -> Nanos {
        self.paused_until.load(Ordering::Relaxed)
    }

    /// Subtracts a request from what is left. Returns what was reserved in all, this request included.
    pub(crate) fn reserve(&self, demand: Demand) -> Reserved {
        let mut reserved = Reserved::default();
        for ((unit, said), reserved) in Unit::ALL.into_iter().zip(&self.units).zip(&mut reserved) {
            *reserved = said.reserve(demand.of(unit));
        }
        reserved
    }

    /// Replaces what a request subtracted from what is left. None: it was never sent, so nothing stays
    /// subtracted.
    pub(crate) fn settle(&self, reserved: &Reserved, estimated: Demand, actual: Option<Demand>) {
        for ((unit, said), &reserved) in Unit::ALL.into_iter().zip(&self.units).zip(reserved) {
            said.settle(reserved, estimated.of(unit), actual.map_or(0, |actual| actual.of(unit)));
        }
    }

    /// Records what an answer said. `sent_at` is when its request was sent; None if it was sent just now
    /// without a lease. `then` is what was reserved in all when that request had reserved. An answer to an
    /// older request than the last answer's tells nothing while the last answer holds.
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

    /// Records that nothing may be sent for a while. `replaces`: whether a longer pause is shortened to that.
    pub(crate) fn pause(&self, now: Nanos, length: Nanos, replaces: bool) {
        let before = if replaces { 0 } else { self.paused_until() };
        self.paused_until.store(before.max(now.saturating_add(length)), Ordering::Relaxed);
        self.paused_at.store(now, Ordering::Relaxed);
    }

    /// Returns when the provider last asked for a pause; 0 if it never did.
    pub(crate) fn paused_at(&self) -> Nanos {
        self.paused_at.load(Ordering::Relaxed)
    }

    /// Returns whether a request was sent after the provider last asked for a pause. `sent_at` is when it was
    /// sent; None if it was sent just now without a lease.
    pub(crate) fn is_later(&self, sent_at: Option<Nanos>) -> bool {
        sent_at.is_none_or(|sent_at| sent_at > self.paused_at.load(Ordering::Relaxed))
    }

    /// Ends a pause if the provider has answered a request that was sent after it asked for the pause.
    pub(crate) fn came_through(&self, sent_at: Option<Nanos>) {
        if self.is_later(sent_at) {
            self.paused_until.store(0, Ordering::Relaxed);
        }
    }

    /// Ends all that the provider said.
    pub(crate) fn forget(&self) {
        let ends = self.units.iter().map(|said| &said.until).chain([&self.paused_until]);
        ends.for_each(|until| until.store(0, Ordering::Relaxed));
    }

    pub(crate) fn clear(&self) {
        let words = self.units.iter().flat_map(Observation::words).chain([&self.paused_until, &self.paused_at]);
        words.for_each(|word| word.store(0, Ordering::Relaxed));
    }
}
