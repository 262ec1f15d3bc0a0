//! The breaker of a deployment: what trips it, how long it is out, and how it comes back.
//!
//! What was sent before the end of the last cooldown says nothing of the time after it: such a late outcome changes nothing here, so that
//! the many requests that were in flight when a deployment broke are one reason for a cooldown and not many. Only a wait that the provider
//! names is honoured whenever it comes.

use std::fmt;

use super::pool::Pool;
use super::ring::Ring;
use super::rules::BreakerRules;
use super::slow_start::{self, Slice};
use super::{Failure, FailureKind};
use crate::clock::Nanos;
use crate::index::Peers;
use crate::rng::Rng;
use crate::state::{Held, State, mark};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Why a deployment cools down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The application asked for it.
    Asked,
    /// Too many failures in a row.
    Consecutive,
    /// Too large a share of failures.
    Rate,
    /// So much larger a share of failures than its peers have.
    Outlier,
    /// It failed on probation.
    Probation,
    /// Its failure domain could not be reached.
    Domain,
    /// One failure of this kind is enough.
    Failure(FailureKind),
}

impl Cause {
    const PLAIN: [Self; 6] = [Self::Asked, Self::Consecutive, Self::Rate, Self::Outlier, Self::Probation, Self::Domain];

    /// A number from 1 on.
    fn code(self) -> u8 {
        let all = Self::PLAIN.into_iter().chain(FailureKind::ALL.map(Self::Failure));
        (1..).zip(all).find(|&(_, cause)| cause == self).map_or(0, |(code, _)| code)
    }

    fn from_code(code: u8) -> Option<Self> {
        let mut all = Self::PLAIN.into_iter().chain(FailureKind::ALL.map(Self::Failure));
        all.nth(usize::from(code).checked_sub(1)?)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "asked for",
            Self::Consecutive => "failures in a row",
            Self::Rate => "failure rate",
            Self::Outlier => "failure rate beside its peers'",
            Self::Probation => "failed on probation",
            Self::Domain => "its domain could not be reached",
            Self::Failure(kind) => kind.name(),
        })
    }
}

/// What is counted of a deployment. Read without a lock, written under that of its state.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    window: Ring,
    penalties: Ring,
    consecutive_failures: AtomicU32,
    /// Cooldowns that are not forgotten; the next one grows by them.
    trips: AtomicU32,
    /// The end of the last of them.
    last_trip: AtomicU64,
    /// The end of the last cooldown of any kind that probation was passed after.
    passed: AtomicU64,
    /// A [`Cause`] by its code.
    cause: AtomicU8,
    /// Whether a lease has the place of the probation.
    is_probed: AtomicBool,
    /// When the slow start began.
    slow_since: AtomicU64,
}

/// What there is to tell of a breaker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BreakerStats {
    pub(crate) consecutive_failures: u32,
    pub(crate) window_successes: u64,
    pub(crate) window_failures: u64,
    pub(crate) trips: u32,
    pub(crate) penalty: u32,
    pub(crate) slow_start_share: f64,
}

impl Default for BreakerStats {
    fn default() -> Self {
        Self { consecutive_failures: 0, window_successes: 0, window_failures: 0, trips: 0, penalty: 0, slow_start_share: 1.0 }
    }
}

impl Breaker {
    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.window.clear();
        self.penalties.clear();
        for count in [&self.consecutive_failures, &self.trips] {
            count.store(0, Ordering::Relaxed);
        }
        for time in [&self.last_trip, &self.passed, &self.slow_since] {
            time.store(0, Ordering::Relaxed);
        }
        self.cause.store(0, Ordering::Relaxed);
        self.is_probed.store(false, Ordering::Relaxed);
    }

    /// Whether what was sent at a time says something of now. `until` is when the last cooldown ends or ended, 0 after probation.
    fn is_news(&self, sent_at: Nanos, until: Nanos) -> bool {
        sent_at >= until.max(self.passed.load(Ordering::Relaxed))
    }

    /// The cooldowns that are not forgotten yet.
    fn trips(&self, rules: &BreakerRules, now: Nanos) -> u32 {
        let forgotten = now.saturating_sub(self.last_trip.load(Ordering::Relaxed)) / rules.forget_after.max(1);
        self.trips.load(Ordering::Relaxed).saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }
}

/// What judges a deployment's outcomes.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    pub(crate) rules: &'a BreakerRules,
    pub(crate) jitter: &'a Rng,
    pub(crate) now: Nanos,
}

impl Judge<'_> {
    /// Takes in a success of a request that was sent at some time.
    pub(crate) fn success(&self, state: &State, held: &Held<'_>, pool: &Pool, sent_at: Nanos) {
        let until = state.health.cooldown_until();
        let breaker = &state.annex().breaker;
        if !breaker.is_news(sent_at, until) {
            return;
        }
        breaker.window.add(self.rules.bucket(), self.now, false);
        pool.add(self.rules, self.now, false);
        breaker.consecutive_failures.store(0, Ordering::Relaxed);
        if state.health.count_success(held) >= self.rules.success_threshold && until != 0 {
            state.health.restore(held);
            breaker.passed.store(until, Ordering::Relaxed);
            self.start_slowly(state, held);
        }
        self.tidy(state, held);
    }

    /// Takes in a failure that is not neutral; returns whether it says anything of the time since the last cooldown.
    pub(crate) fn failure(&self, state: &State, held: &Held<'_>, peers: &Peers<'_>, failure: &Failure) -> bool {
        let until = state.health.cooldown_until();
        let breaker = &state.annex().breaker;
        let cause = Cause::Failure(failure.kind);
        let is_news = breaker.is_news(failure.sent_at, until);
        // A panic lets requests through to a deployment that is out, and nothing else keeps them from one that fails fast.
        if self.rules.failure_penalty > 0 && (is_news || peers.panic()) {
            breaker.penalties.add(self.rules.penalty_bucket(), self.now, true);
            state.mark(held, mark::PENALIZED, true);
        }
        if !is_news {
            if let Some(wait) = failure.retry_after {
                self.cool_down(state, held, peers.pool, wait, cause);
            }
            return false;
        }
        breaker.window.add(self.rules.bucket(), self.now, true);
        peers.pool.add(self.rules, self.now, true);
        let in_a_row = breaker.consecutive_failures.load(Ordering::Relaxed).saturating_add(1);
        breaker.consecutive_failures.store(in_a_row, Ordering::Relaxed);
        state.health.break_streak(held);
        if failure.is_refusal() {
            self.trip(state, held, peers, cause, failure.retry_after);
        } else if let Some(cause) = self.verdict(breaker, peers, in_a_row, until != 0)
            && self.may_trip(peers, until != 0)
        {
            self.trip(state, held, peers, cause, failure.retry_after);
        }
        true
    }

    /// Cools down a deployment whose failure domain could not be reached. One that is out already stays out for as long as it is.
    pub(crate) fn domain_failed(&self, state: &State, held: &Held<'_>, peers: &Peers<'_>) {
        let until = state.health.cooldown_until();
        if self.now >= until && self.may_trip(peers, until != 0) {
            self.trip(state, held, peers, Cause::Domain, None);
        }
    }

    /// Takes a deployment out for as long as somebody says, who may say it for reasons of their own: nothing grows by that.
    pub(crate) fn cool_down(&self, state: &State, held: &Held<'_>, pool: &Pool, length: Nanos, cause: Cause) {
        let breaker = &state.annex().breaker;
        let until = state.health.cooldown_until();
        state.health.cool_down(held, self.now, length);
        if state.health.cooldown_until() > until {
            breaker.cause.store(cause.code(), Ordering::Relaxed);
        }
        // The deployment that comes back is another.
        pool.forget(self.rules, &breaker.window);
        breaker.window.clear();
        breaker.consecutive_failures.store(0, Ordering::Relaxed);
        state.mark(held, mark::SLOW_START, false);
    }

    /// Begins a slow start, if the rules want it.
    pub(crate) fn start_slowly(&self, state: &State, held: &Held<'_>) {
        if self.rules.slow_start > 0 {
            state.annex().breaker.slow_since.store(self.now, Ordering::Relaxed);
            state.mark(held, mark::SLOW_START, true);
        }
    }

    fn verdict(&self, breaker: &Breaker, peers: &Peers<'_>, in_a_row: u32, on_probation: bool) -> Option<Cause> {
        let own = breaker.window.tally(self.rules.bucket(), self.now);
        if on_probation {
            Some(Cause::Probation)
        } else if self.rules.is_too_many_in_a_row(in_a_row) {
            Some(Cause::Consecutive)
        } else if self.rules.is_too_large_a_share(own) {
            Some(Cause::Rate)
        } else if self.rules.outlier_factor.is_some() && self.rules.is_outlier(own, peers.pool.without(own, self.rules, self.now)) {
            Some(Cause::Outlier)
        } else {
            None
        }
    }

    /// Whether another deployment of the group is in as good a state, so that this one can be spared.
    fn may_trip(&self, peers: &Peers<'_>, on_probation: bool) -> bool {
        self.rules.cool_last || peers.has_as_fit(on_probation, self.now)
    }

    fn trip(&self, state: &State, held: &Held<'_>, peers: &Peers<'_>, cause: Cause, wait: Option<Nanos>) {
        let length = wait.unwrap_or_else(|| {
            let breaker = &state.annex().breaker;
            let trips = breaker.trips(self.rules, self.now);
            let length = self.rules.cooldown(trips, self.jitter);
            breaker.trips.store(trips.saturating_add(1), Ordering::Relaxed);
            breaker.last_trip.store(self.now.saturating_add(length), Ordering::Relaxed);
            length
        });
        self.cool_down(state, held, peers.pool, length, cause);
    }

    /// Takes away the marks of what is over.
    fn tidy(&self, state: &State, held: &Held<'_>) {
        let has = |mark| state.marks() & mark != 0;
        if has(mark::PENALIZED) && state.penalty(self.rules, self.now).0 == 0 {
            state.mark(held, mark::PENALIZED, false);
        }
        if has(mark::SLOW_START) && state.slow_start(self.rules, self.now).is_none() {
            state.mark(held, mark::SLOW_START, false);
        }
    }
}

impl State {
    /// Takes the outcomes of a deployment that goes to another group, or away, out of what its group has counted.
    pub(crate) fn move_outcomes(&self, _: &Held<'_>, rules: &BreakerRules, from: &Pool, to: Option<&Pool>) {
        if let Some(breaker) = self.breaker() {
            from.forget(rules, &breaker.window);
            if let Some(to) = to {
                to.take_in(rules, &breaker.window);
            }
        }
    }

    fn breaker(&self) -> Option<&Breaker> {
        self.made_annex().map(|annex| &annex.breaker)
    }

    /// Whether a lease has the place of the probation.
    pub(crate) fn is_probed(&self) -> bool {
        self.breaker().is_some_and(|breaker| breaker.is_probed.load(Ordering::Relaxed))
    }

    /// Takes the place of the probation; returns whether it was free.
    pub(crate) fn take_probe(&self, _: &Held<'_>) -> bool {
        !self.annex().breaker.is_probed.swap(true, Ordering::Relaxed)
    }

    /// Gives the place of the probation back. Its lease alone may.
    pub(crate) fn free_probe(&self, _: &Held<'_>) {
        self.annex().breaker.is_probed.store(false, Ordering::Relaxed);
    }

    /// Why it cools down, where that was noted.
    pub(crate) fn cause(&self) -> Option<Cause> {
        Cause::from_code(self.breaker()?.cause.load(Ordering::Relaxed))
    }

    /// The failures that weigh on it like requests in flight, and when they become fewer. Only a state with the mark has any.
    pub(crate) fn penalty(&self, rules: &BreakerRules, now: Nanos) -> (u32, Option<Nanos>) {
        let Some(breaker) = self.breaker() else { return (0, None) };
        let bucket = rules.penalty_bucket();
        let failures = breaker.penalties.tally(bucket, now).failures;
        (u32::try_from(failures).unwrap_or(u32::MAX), breaker.penalties.fades_at(bucket, now))
    }

    /// The slice of its slow start, if it is in one. Only a state with the mark is.
    pub(crate) fn slow_start(&self, rules: &BreakerRules, now: Nanos) -> Option<Slice> {
        slow_start::slice(self.breaker()?.slow_since.load(Ordering::Relaxed), rules.slow_start, now)
    }

    pub(crate) fn breaker_stats(&self, rules: &BreakerRules, now: Nanos) -> BreakerStats {
        let Some(breaker) = self.breaker() else { return BreakerStats::default() };
        let tally = breaker.window.tally(rules.bucket(), now);
        let slice = if self.marks() & mark::SLOW_START == 0 { None } else { self.slow_start(rules, now) };
        BreakerStats {
            consecutive_failures: breaker.consecutive_failures.load(Ordering::Relaxed),
            window_successes: tally.successes,
            window_failures: tally.failures,
            trips: breaker.trips(rules, now),
            penalty: if self.marks() & mark::PENALIZED == 0 { 0 } else { self.penalty(rules, now).0 },
            #[allow(clippy::cast_precision_loss)] // at most 100
            slow_start_share: slice.map_or(1.0, |slice| slice.percent as f64 / 100.0),
        }
    }
}
