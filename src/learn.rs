//! What providers tell about their limits: by headers, and by refusing.

use std::fmt;
use std::sync::Arc;

use crate::clock::{MINUTE, Nanos, Now, seconds};
use crate::events::{Event, EventKind};
use crate::index;
use crate::lease::Receipt;
use crate::limits::{Demand, Metering, Unit};
use crate::registry::Entry;
use crate::state::{Held, mark};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a router learns from providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learning {
    /// Take limits from the headers of exceptions.
    pub headers: bool,
    /// Learn a cap on what is in flight from refusals, where nothing is configured.
    pub concurrency: bool,
}

impl Default for Learning {
    fn default() -> Self {
        Self { headers: true, concurrency: true }
    }
}

/// What a provider says about one of its limits.
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

/// A provider said that too little is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lack {
    /// Of what.
    pub unit: Unit,
    /// What it said, less what was reserved since.
    pub left: u64,
    /// What was asked for.
    pub asked: u64,
    /// Nanoseconds until that is out of date.
    pub ends_in: Nanos,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, left, asked, ends_in } = self;
        write!(f, "the provider left {left} {unit}, {asked} asked for, resets in {:.1} s", seconds(*ends_in))
    }
}

/// What was reserved of each unit so far.
pub(crate) type Reserved = [u64; Unit::ALL.len()];

/// Takes in what the answer to a request said that was sent at a time. Where a deployment is under quotas that limit the same it is about
/// the nearest to its limit: providers tell what comes first.
pub(crate) fn observe<T>(
    entry: &Entry<T>,
    said: &[Observed],
    retry_after: Option<Nanos>,
    sent_at: Nanos,
    receipt: Option<&Receipt>,
    now: Nanos,
) {
    for observed in said {
        let quota = entry.metering.as_ref().and_then(|metering| metering.nearest_quota(Some(observed.unit), now));
        if let Some((nth, ledger)) = quota {
            let _held = ledger.hold();
            ledger.observed().observe(observed, sent_at, receipt.and_then(|receipt| receipt.reserved(Some(nth))), now);
        } else {
            let held = entry.slot.hold();
            let then = receipt.and_then(|receipt| receipt.reserved(None));
            entry.slot.annex().observed.observe(observed, sent_at, then, now);
            entry.slot.mark(&held, mark::OBSERVED, true);
        }
    }
    if let Some(length) = retry_after {
        let held = entry.slot.hold();
        entry.slot.annex().observed.pause(now, length);
        entry.slot.mark(&held, mark::OBSERVED, true);
    }
    index::renew(entry, &Now::at(&entry.common.clock, now));
    // A newer answer may leave more than an older one.
    entry.through();
}

/// Takes in that a provider refused a request for its rate, sent at a time if by a lease. Returns whether that is about a quota: it is
/// paused then, for all that are under it, and the deployment has no part in it.
pub(crate) fn refused<T>(entry: &Entry<T>, held: &Held<'_>, sent_at: Option<Nanos>, pause: Nanos, now: Nanos) -> bool {
    if let Some((_, ledger)) = entry.metering.as_ref().and_then(|metering| metering.nearest_quota(None, now)) {
        let _held = ledger.hold();
        ledger.observed().pause(now, pause);
        tell(entry, now, || format!("refused under the quota {:?}, paused for {:.3} s", ledger.quota().id(), seconds(pause)));
        return true;
    }
    let state = &*entry.slot;
    // The lease has left already, and counts here.
    if let Some(sent_at) = sent_at
        && entry.common.learning.concurrency
        && !entry.deployment().is_limited()
        && state.annex().cap.refused(sent_at, state.in_flight().saturating_add(1), now)
    {
        state.mark(held, mark::CAPPED, true);
        tell(entry, now, || format!("refused, at most {} in flight from now on", state.annex().cap.most()));
    }
    false
}

fn tell<T>(entry: &Entry<T>, now: Nanos, detail: impl FnOnce() -> String) {
    entry.common.events.note(|| Event {
        kind: EventKind::LimitLearnt,
        deployment_id: Some(Arc::clone(entry.deployment().shared_id())),
        model_name: Arc::clone(entry.deployment().shared_model_name()),
        at: now,
        detail: detail(),
    });
}

/// What a provider said last. Read without a lock, written under its owner's.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    units: [Observation; Unit::ALL.len()],
    /// Nothing before this time, it said.
    paused_until: AtomicU64,
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

    /// Replaces what a request had reserved, if that is taken off what is left; `reserved` was reserved in all then.
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
    /// Whether anything that was said still holds.
    pub(crate) fn hold(&self, now: Nanos) -> bool {
        let mut ends = self.units.iter().map(|said| &said.until).chain([&self.paused_until]);
        ends.any(|until| now < until.load(Ordering::Relaxed))
    }

    /// Why what was said does not let a request through; None if it does.
    pub(crate) fn lacks(&self, demand: Demand, now: Nanos) -> Option<Lack> {
        let paused_until = self.paused_until.load(Ordering::Relaxed);
        if now < paused_until {
            return Some(Lack { unit: Unit::Requests, left: 0, asked: 1, ends_in: paused_until - now });
        }
        self.active(now).find_map(|(unit, left, until)| {
            let asked = demand.least(unit);
            (left < asked).then_some(Lack { unit, left, asked, ends_in: until - now })
        })
    }

    /// When what was said may let a request through.
    pub(crate) fn frees_at(&self, demand: Demand, now: Nanos) -> Nanos {
        let lacking = self.active(now).filter(|&(unit, left, _)| left < demand.least(unit));
        lacking.map(|(.., until)| until).fold(self.paused_until.load(Ordering::Relaxed).max(now), Nanos::max)
    }

    /// What holds now: the unit, what is left of it, and until when.
    pub(crate) fn active(&self, now: Nanos) -> impl Iterator<Item = (Unit, u64, Nanos)> {
        Unit::ALL.into_iter().zip(&self.units).filter_map(move |(unit, said)| {
            let until = said.until.load(Ordering::Relaxed);
            (now < until).then(|| (unit, said.left.load(Ordering::Relaxed), until))
        })
    }

    /// As `active`; no requests are left while the provider wants not to be asked.
    fn stats(&self, quota: Option<&Arc<str>>, now: Nanos) -> Vec<ObservedStats> {
        let stats = |unit, limit, remaining, until: Nanos| {
            let limit = Some(limit).filter(|&limit| limit > 0);
            ObservedStats { unit, quota: quota.cloned(), limit, remaining, resets_in: seconds(until - now) }
        };
        let paused_until = self.paused_until.load(Ordering::Relaxed);
        let pause = (now < paused_until).then(|| stats(Unit::Requests, 0, 0, paused_until));
        let limit = |unit: Unit| self.units.get(unit.index()).map_or(0, |said| said.limit.load(Ordering::Relaxed));
        pause.into_iter().chain(self.active(now).map(|(unit, left, until)| stats(unit, limit(unit), left, until))).collect()
    }

    /// Takes a request off what is left, and returns what was reserved in all.
    pub(crate) fn reserve(&self, demand: Demand) -> Reserved {
        let mut reserved = Reserved::default();
        for ((unit, said), reserved) in Unit::ALL.into_iter().zip(&self.units).zip(&mut reserved) {
            *reserved = said.reserve(demand.of(unit));
        }
        reserved
    }

    /// Replaces what a request took off what is left; by nothing, if it was never sent.
    pub(crate) fn settle(&self, reserved: &Reserved, estimated: Demand, actual: Option<Demand>) {
        for ((unit, said), &reserved) in Unit::ALL.into_iter().zip(&self.units).zip(reserved) {
            said.settle(reserved, estimated.of(unit), actual.map_or(0, |actual| actual.of(unit)));
        }
    }

    /// Takes in what the answer to a request said that was sent at a time, when so much had been reserved. An older answer than the last
    /// one tells nothing while that holds.
    pub(crate) fn observe(&self, observed: &Observed, sent_at: Nanos, then: Option<&Reserved>, now: Nanos) {
        let nth = observed.unit.index();
        let Some(said) = self.units.get(nth) else { return };
        if sent_at < said.sent_at.load(Ordering::Relaxed) && now < said.until.load(Ordering::Relaxed) {
            return;
        }
        let then = then.and_then(|then| then.get(nth)).copied().unwrap_or(said.reserved.load(Ordering::Relaxed));
        said.reserved_then.store(then, Ordering::Relaxed);
        said.said.store(observed.remaining, Ordering::Relaxed);
        said.limit.store(observed.limit.unwrap_or(0), Ordering::Relaxed);
        said.count();
        said.sent_at.store(sent_at, Ordering::Relaxed);
        said.until.store(now.saturating_add(observed.reset.unwrap_or(MINUTE)), Ordering::Relaxed);
    }

    /// Takes in that nothing may be sent for a while. A longer pause is not shortened.
    pub(crate) fn pause(&self, now: Nanos, length: Nanos) {
        let until = self.paused_until.load(Ordering::Relaxed).max(now.saturating_add(length));
        self.paused_until.store(until, Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        let words = self.units.iter().flat_map(Observation::words).chain([&self.paused_until]);
        words.for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

/// What a provider said, for people to read.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedStats {
    /// What it limits.
    pub unit: Unit,
    /// The quota that this is about; None for the deployment itself.
    pub quota: Option<Arc<str>>,
    /// What it said may be used in all, if it did.
    pub limit: Option<u64>,
    /// What it said is left, less what was reserved since.
    pub remaining: u64,
    /// Seconds until that is out of date.
    pub resets_in: f64,
}

impl ObservedStats {
    /// All that holds for a deployment.
    pub(crate) fn all(own: Option<&Observations>, metering: Option<&Metering>, now: Nanos) -> Vec<Self> {
        let quotas = metering.into_iter().flat_map(Metering::quotas);
        let quotas = quotas.map(|ledger| (Some(ledger.quota().shared_id()), ledger.observed()));
        let all = own.into_iter().map(|own| (None, own)).chain(quotas);
        all.flat_map(|(quota, observed)| observed.stats(quota, now)).collect()
    }
}

/// A cap on what is in flight, found by additive increase and multiplicative decrease (Chiu and Jain, 1989): a refusal lowers it to seven
/// tenths of what was in flight, once for all that was sent up to the last one; as many successes as the cap raise it by one, as long as
/// it is what holds requests back.
#[derive(Debug, Default)]
pub(crate) struct Cap {
    /// 0 for none.
    most: AtomicU32,
    /// Successes since it was last changed.
    successes: AtomicU32,
    cut_at: AtomicU64,
}

impl Cap {
    /// The most there may be in flight; 0 if nothing was learnt.
    pub(crate) fn most(&self) -> u32 {
        self.most.load(Ordering::Relaxed)
    }

    /// Takes in that a request was refused for its rate, sent at a time, with so many in flight. Returns whether that lowers the cap.
    pub(crate) fn refused(&self, sent_at: Nanos, in_flight: u32, now: Nanos) -> bool {
        // A clock may be coarse: what was sent at the very time of the refusal did not know of it.
        if self.most() != 0 && sent_at <= self.cut_at.load(Ordering::Relaxed) {
            return false;
        }
        let kept = u32::try_from(u64::from(in_flight) * 7 / 10).unwrap_or(u32::MAX);
        self.most.store(kept.max(1), Ordering::Relaxed);
        self.successes.store(0, Ordering::Relaxed);
        self.cut_at.store(now, Ordering::Relaxed);
        true
    }

    /// Takes in a success, with so many in flight.
    pub(crate) fn served(&self, in_flight: u32) {
        let most = self.most();
        if in_flight < most {
            return;
        }
        let successes = self.successes.load(Ordering::Relaxed).saturating_add(1);
        let is_round = successes >= most;
        self.successes.store(if is_round { 0 } else { successes }, Ordering::Relaxed);
        if is_round {
            self.most.store(most.saturating_add(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn clear(&self) {
        self.most.store(0, Ordering::Relaxed);
        self.successes.store(0, Ordering::Relaxed);
        self.cut_at.store(0, Ordering::Relaxed);
    }
}
