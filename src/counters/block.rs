//! The counters of one deployment.

use std::sync::OnceLock;

use crate::base::clock::Now;
use crate::base::lock::{Held, Lock};
use crate::base::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::base::time::Nanos;
use crate::health::{Breaker, BreakerStats, Cause, Fitness, HealthRules, NamedWait, Slice, Vitals, has_come, smooth};
use crate::limits::{Cap, Counts, Minute, MinuteWindow, Observations};

/// The counters of one deployment.
#[derive(Debug, Default)]
// No two deployments share a cache line or its neighbour. A pick and a reservation need only the first line
// of a block.
#[repr(C, align(128))]
pub(crate) struct State {
    lock: Lock,
    in_flight: AtomicU32,
    /// Which of the checks that few deployments need a pick must make for this one: the bits of [`mark`].
    marks: AtomicU32,
    pub(crate) vitals: Vitals,
    pub(crate) window: MinuteWindow,
    total_successes: AtomicU64,
    total_failures: AtomicU64,
    total_tokens: AtomicU64,
    /// The smoothed time to the first token, in integer microseconds; 0 before the first sample.
    avg_first_token_us: AtomicU32,
    /// The number of slots that point to this block.
    pub(super) owners: AtomicU32,
    /// Counters that few deployments need. They are made when they are first needed.
    annex: OnceLock<Box<Annex>>,
}

/// The bits of a block's marks.
pub(crate) mod mark {
    /// The provider said what is left, and until when: see `lease::learn`.
    pub(crate) const OBSERVED: u32 = 1 << 0;
    /// A cap on requests in flight was learnt: see `lease::learn`.
    pub(crate) const CAPPED: u32 = 1 << 1;
    /// The deployment returned or joined, and its share grows: see `health`.
    pub(crate) const SLOW_START: u32 = 1 << 2;
    /// The deployment's recent failures weigh on it as if they were in flight: see `health`.
    pub(crate) const PENALIZED: u32 = 1 << 3;
    /// The deployment has limits beside the minute's, or is under quotas: see `limits`.
    pub(crate) const METERED: u32 = 1 << 4;
}

/// Counters that few deployments need, beside their block. They are written under the block's lock.
#[derive(Debug, Default)]
pub(crate) struct Annex {
    pub(crate) observed: Observations,
    pub(crate) cap: Cap,
    pub(crate) named_wait: NamedWait,
    pub(crate) breaker: Breaker,
}

impl State {
    /// Takes the lock.
    #[inline]
    pub(crate) fn hold(&self) -> Held<'_> {
        self.lock.hold()
    }

    /// Returns the number of leases that have not ended.
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the marks; 0 for most deployments.
    #[inline]
    pub(crate) fn marks(&self) -> u32 {
        self.marks.load(Ordering::Relaxed)
    }

    /// Sets or takes away a mark.
    pub(crate) fn mark(&self, _: &Held<'_>, mark: u32, is_on: bool) {
        let others = self.marks() & !mark;
        self.marks.store(if is_on { others | mark } else { others }, Ordering::Relaxed);
    }

    /// Returns the counters that few deployments need, if there are any.
    #[inline]
    pub(crate) fn made_annex(&self) -> Option<&Annex> {
        self.annex.get().map(|annex| &**annex)
    }

    /// Returns the counters that few deployments need. Makes empty ones if there were none so far.
    pub(crate) fn annex(&self) -> &Annex {
        self.annex.get_or_init(Box::default)
    }

    /// Takes a place in flight, a request and its tokens. The caller has checked, under the same lock, that
    /// there is room.
    #[inline]
    pub(crate) fn reserve(&self, held: &Held<'_>, wall: Nanos, tokens: u64) -> Minute {
        self.in_flight.store(self.in_flight().saturating_add(1), Ordering::Relaxed);
        self.window.charge(held, wall, tokens)
    }

    /// Gives back a place in flight.
    #[inline]
    pub(crate) fn leave(&self, _: &Held<'_>) {
        self.in_flight.store(self.in_flight().saturating_sub(1), Ordering::Relaxed);
    }

    /// Forgets what is in flight, in a forked child.
    pub(crate) fn after_fork(&self, held: &Held<'_>) {
        self.in_flight.store(0, Ordering::Relaxed);
        if let Some(breaker) = self.made_breaker() {
            breaker.free_probe(held);
        }
    }

    /// Counts the success of a request that `counted_in` counted.
    #[inline]
    pub(crate) fn success(&self, held: &Held<'_>, wall: Nanos, counted_in: Minute, tokens: u64, latency_us: Option<u64>) {
        add(&self.total_successes, 1);
        add(&self.total_tokens, tokens);
        self.window.outcome(held, wall, counted_in);
        if let Some(sample) = latency_us {
            self.vitals.smooth_latency(held, sample);
        }
    }

    /// Returns the smoothed time to the first token in microseconds; 0 for unknown.
    #[inline]
    pub(crate) fn avg_first_token_us(&self) -> u64 {
        u64::from(self.avg_first_token_us.load(Ordering::Relaxed))
    }

    /// Records how long a first token took.
    pub(crate) fn first_token(&self, _: &Held<'_>, sample_us: u64) {
        // Over an hour is as slow as an hour.
        let average = u32::try_from(smooth(self.avg_first_token_us(), sample_us)).unwrap_or(u32::MAX);
        self.avg_first_token_us.store(average, Ordering::Relaxed);
    }

    /// Counts the failure of a request that `counted_in` counted, and returns what this minute has counted.
    pub(crate) fn failure(&self, held: &Held<'_>, wall: Nanos, counted_in: Minute) -> Counts {
        add(&self.total_failures, 1);
        self.window.failure(held, wall, counted_in)
    }

    /// Counts a failure that says nothing about the deployment's health, but about something that it shares.
    pub(crate) fn failed_elsewhere(&self, _: &Held<'_>) {
        add(&self.total_failures, 1);
    }

    /// Returns the totals since the deployment was added.
    pub(crate) fn totals(&self, held: &Held<'_>) -> Totals {
        Totals {
            requests: self.window.total_requests(held),
            successes: self.total_successes.load(Ordering::Relaxed),
            failures: self.total_failures.load(Ordering::Relaxed),
            tokens: self.total_tokens.load(Ordering::Relaxed),
        }
    }

    // --- health ---

    /// Returns what the deployment is by its health: in service, on probation, or out.
    #[inline]
    pub(crate) fn fitness(&self, now: &Now<'_>) -> Fitness {
        let until = self.vitals.cooldown_until();
        if self.vitals.is_unhealthy() {
            Fitness::Out { until: None }
        } else if until == 0 {
            Fitness::Well
        } else if !has_come(until, now.get()) {
            Fitness::Out { until: Some(until) }
        } else {
            Fitness::Probation { probed: self.is_probed() }
        }
    }

    /// Returns what the rules of `Health` have counted, if there is anything.
    pub(crate) fn made_breaker(&self) -> Option<&Breaker> {
        self.made_annex().map(|annex| &annex.breaker)
    }

    /// Returns whether a lease has the place of the probation.
    pub(crate) fn is_probed(&self) -> bool {
        self.made_breaker().is_some_and(Breaker::is_probed)
    }

    /// Returns why the deployment cools down, if the cause was noted.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.made_breaker().and_then(Breaker::cause)
    }

    /// Returns the failures that weigh on the deployment like requests in flight, and when they become fewer.
    pub(crate) fn penalty(&self, now: Nanos) -> (u32, Option<Nanos>) {
        let breaker = self.made_breaker().filter(|_| self.marks() & mark::PENALIZED != 0);
        breaker.map_or((0, None), |breaker| breaker.penalty(now))
    }

    /// Begins a slow start. `picks` is the number of picks that the group has counted so far.
    pub(crate) fn start_slowly(&self, held: &Held<'_>, now: Nanos, picks: u64) {
        self.annex().breaker.start_slowly(held, now, picks);
        self.mark(held, mark::SLOW_START, true);
    }

    /// Returns the slice of the slow start that the deployment is in; None if it is in no slow start.
    pub(crate) fn slow_start(&self, rules: &HealthRules, now: Nanos) -> Option<Slice> {
        let breaker = self.made_breaker().filter(|_| self.marks() & mark::SLOW_START != 0);
        breaker.and_then(|breaker| breaker.slow_start(rules, now))
    }

    /// Returns what the breaker has to tell.
    pub(crate) fn breaker_stats(&self, rules: &HealthRules, now: Nanos) -> BreakerStats {
        let Some(breaker) = self.made_breaker() else { return BreakerStats::default() };
        BreakerStats { penalty: self.penalty(now).0, ..breaker.stats(rules, now) }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.in_flight.store(0, Ordering::Relaxed);
        self.marks.store(0, Ordering::Relaxed);
        if let Some(annex) = self.made_annex() {
            annex.observed.clear();
            annex.cap.clear();
            annex.named_wait.clear();
            annex.breaker.clear();
        }
        self.window.clear();
        self.vitals.clear();
        self.avg_first_token_us.store(0, Ordering::Relaxed);
        for total in [&self.total_successes, &self.total_failures, &self.total_tokens] {
            total.store(0, Ordering::Relaxed);
        }
    }
}

/// Totals since a deployment was added.
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) successes: u64,
    pub(crate) failures: u64,
    pub(crate) tokens: u64,
}

/// Adds to a counter that only the holder of the lock writes.
#[inline]
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).saturating_add(by), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_needs_one_cache_line() {
        assert!(std::mem::offset_of!(State, window) + MinuteWindow::RESERVED <= 64);
        assert_eq!(std::mem::size_of::<State>(), 128);
    }
}
