//! The counters that the rules of `Health` keep of a deployment, beside its [`Vitals`](super::Vitals).

use super::cause::Cause;
use super::health_rules::HealthRules;
use super::pool::Pool;
use super::ring::{Ring, Tally};
use super::slow_start::{self, Slice};
use super::vitals::has_come;
use crate::base::lock::Held;
use crate::base::rng::Rng;
use crate::base::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::base::time::Nanos;
use crate::base::trips::Trips;

/// The counters that the rules of `Health` keep of a deployment. Any thread reads them without a lock. They
/// are written under the lock of the deployment's state.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    window: Ring,
    penalties: Ring,
    consecutive_failures: AtomicU32,
    /// Cooldowns that are not forgotten. The next cooldown grows with their number.
    trips: Trips,
    /// Waits that the provider named and that were too short: after each the deployment failed on probation.
    short_waits: Trips,
    /// The end of the last cooldown, of any kind, whose probation was passed.
    passed: AtomicU64,
    /// A [`Cause`] by its code.
    cause: AtomicU8,
    /// Whether a lease has the place of the probation.
    is_probed: AtomicBool,
    /// When the slow start began.
    slow_since: AtomicU64,
    /// When the deployment was last picked in its slow start, in picks of its group: see `index::Ramp`.
    slow_last: AtomicU64,
}

impl Breaker {
    // --- outcomes ---

    /// Returns whether the outcome of a request that was sent at `sent_at` says something about the time
    /// since the last cooldown. `until` is when that cooldown ends or ended; 0 after probation.
    pub(crate) fn is_news(&self, sent_at: Nanos, until: Nanos) -> bool {
        has_come(until.max(self.passed.load(Ordering::Relaxed)), sent_at)
    }

    /// Counts a success.
    pub(crate) fn success(&self, _: &Held<'_>, rules: &HealthRules, now: Nanos) {
        self.window.add(rules.interval(), now, false);
        self.consecutive_failures.store(0, Ordering::Relaxed);
    }

    /// Counts a failure. Returns how many there were since the last success.
    pub(crate) fn failure(&self, _: &Held<'_>, rules: &HealthRules, now: Nanos) -> u32 {
        self.window.add(rules.interval(), now, true);
        let in_a_row = self.consecutive_failures.load(Ordering::Relaxed).saturating_add(1);
        self.consecutive_failures.store(in_a_row, Ordering::Relaxed);
        in_a_row
    }

    /// Returns the outcomes of the window.
    pub(crate) fn tally(&self, now: Nanos) -> Tally {
        self.window.tally(now)
    }

    /// Returns the outcomes, as a group adds them up.
    pub(crate) fn outcomes(&self) -> &Ring {
        &self.window
    }

    /// Goes on by these rules. If their windows have other lengths, the outcomes that count now are counted
    /// as of now.
    pub(crate) fn follow(&self, _: &Held<'_>, rules: &HealthRules, now: Nanos) {
        self.window.follow(rules.interval(), now);
        self.penalties.follow(rules.penalty_interval(), now);
    }

    // --- cooldowns ---

    /// Returns the cooldowns that are not forgotten yet.
    pub(crate) fn trips(&self, rules: &HealthRules, now: Nanos) -> u32 {
        self.trips.remembered(rules.forget_after, now)
    }

    /// Counts a cooldown after `trips` others, which ends at `until`.
    pub(crate) fn trip(&self, _: &Held<'_>, trips: u32, until: Nanos) {
        self.trips.add(trips, until);
    }

    /// Counts a failure on probation for which the provider named another wait, from `now` on. Returns how
    /// long a cooldown lasts at least: 0 for the first such failure. Then it grows as if no wait were named.
    pub(crate) fn least_wait(&self, _: &Held<'_>, rules: &HealthRules, jitter: &Rng, now: Nanos, wait: Nanos) -> Nanos {
        let short = self.short_waits.remembered(rules.forget_after, now);
        let least = short.checked_sub(1).map_or(0, |longer| rules.cooldown(longer, jitter));
        self.short_waits.add(short, now.saturating_add(least.max(wait)));
        least
    }

    /// Returns whether named waits were too short lately.
    pub(crate) fn has_short_waits(&self, rules: &HealthRules, now: Nanos) -> bool {
        self.short_waits.remembered(rules.forget_after, now) > 0
    }

    /// Forgets the outcomes before a cooldown: they say nothing about the deployment that comes back.
    pub(crate) fn forget_outcomes(&self, _: &Held<'_>, pool: Option<&Pool>) {
        if let Some(pool) = pool {
            pool.forget(&self.window);
        }
        self.window.clear();
        self.consecutive_failures.store(0, Ordering::Relaxed);
    }

    /// Notes why the deployment cools down.
    pub(crate) fn set_cause(&self, _: &Held<'_>, cause: Cause) {
        self.cause.store(cause.code(), Ordering::Relaxed);
    }

    /// Returns why the deployment cools down, if the cause was noted.
    pub(crate) fn cause(&self) -> Option<Cause> {
        Cause::from_code(self.cause.load(Ordering::Relaxed))
    }

    // --- probation ---

    /// Notes that the probation after the cooldown that ended at `until` was passed.
    pub(crate) fn pass(&self, _: &Held<'_>, until: Nanos) {
        self.passed.store(until, Ordering::Relaxed);
        self.short_waits.clear();
    }

    /// Returns whether a lease has the place of the probation.
    pub(crate) fn is_probed(&self) -> bool {
        self.is_probed.load(Ordering::Relaxed)
    }

    /// Takes the place of the probation. Returns whether it was free.
    pub(crate) fn take_probe(&self, _: &Held<'_>) -> bool {
        !self.is_probed.swap(true, Ordering::Relaxed)
    }

    /// Gives the place of the probation back.
    pub(crate) fn free_probe(&self, _: &Held<'_>) {
        self.is_probed.store(false, Ordering::Relaxed);
    }

    // --- penalties and slow start ---

    /// Lets a failure weigh on the deployment for a while.
    pub(crate) fn penalize(&self, _: &Held<'_>, rules: &HealthRules, now: Nanos) {
        self.penalties.add(rules.penalty_interval(), now, true);
    }

    /// Returns the failures that weigh on the deployment like requests in flight, and when they become fewer.
    pub(crate) fn penalty(&self, now: Nanos) -> (u32, Option<Nanos>) {
        let failures = self.penalties.tally(now).failures;
        (u32::try_from(failures).unwrap_or(u32::MAX), self.penalties.fades_at(now))
    }

    /// Begins a slow start. `picks` is the number of picks that the group has counted so far.
    pub(crate) fn start_slowly(&self, held: &Held<'_>, now: Nanos, picks: u64) {
        self.slow_since.store(now, Ordering::Relaxed);
        self.set_slow_last(held, picks);
    }

    /// Returns when its slow start began.
    pub(crate) fn slow_since(&self) -> Nanos {
        self.slow_since.load(Ordering::Relaxed)
    }

    /// Returns when it was last picked in its slow start, in the picks of its group.
    pub(crate) fn slow_last(&self) -> u64 {
        self.slow_last.load(Ordering::Relaxed)
    }

    /// Notes when it was last picked in its slow start.
    pub(crate) fn set_slow_last(&self, _: &Held<'_>, picks: u64) {
        self.slow_last.store(picks, Ordering::Relaxed);
    }

    /// Returns the slice of the slow start that it is in; None if the slow start is over.
    pub(crate) fn slow_start(&self, rules: &HealthRules, now: Nanos) -> Option<Slice> {
        slow_start::slice(self.slow_since(), rules.slow_start, now)
    }

    // --- the whole ---

    /// Returns its report, without the penalty. That counts only where a mark says so.
    pub(crate) fn stats(&self, rules: &HealthRules, now: Nanos) -> BreakerStats {
        let tally = self.tally(now);
        BreakerStats {
            consecutive_failures: self.consecutive_failures.load(Ordering::Relaxed),
            window_successes: tally.successes,
            window_failures: tally.failures,
            trips: self.trips(rules, now),
            ..BreakerStats::default()
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.window.clear();
        self.penalties.clear();
        self.trips.clear();
        self.short_waits.clear();
        self.consecutive_failures.store(0, Ordering::Relaxed);
        for time in [&self.passed, &self.slow_since, &self.slow_last] {
            time.store(0, Ordering::Relaxed);
        }
        self.cause.store(0, Ordering::Relaxed);
        self.is_probed.store(false, Ordering::Relaxed);
    }
}

/// The report of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BreakerStats {
    pub(crate) consecutive_failures: u32,
    pub(crate) window_successes: u64,
    pub(crate) window_failures: u64,
    pub(crate) trips: u32,
    pub(crate) penalty: u32,
}
