//! The few words of a deployment's health that every pick reads.

use super::failure::FailureKind;
use super::minute_rules::MinuteRules;
use crate::base::lock::Held;
use crate::base::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::base::time::Nanos;
use crate::limits::Counts;

/// The status of a deployment.
///
/// ```
/// assert_eq!(turnout::Status::CoolingDown.name(), "cooling_down");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// In service.
    Available,
    /// In service on probation.
    Degraded,
    /// Out of service until a time.
    CoolingDown,
    /// Out of service until a health check reports it well.
    Unhealthy,
}

impl Status {
    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Degraded => "degraded",
            Self::CoolingDown => "cooling_down",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The few words of a deployment's health. Any thread reads them without a lock. They are written under the
/// lock of the deployment's state.
#[derive(Debug, Default)]
#[repr(C)] // its place in a cache line counts: see `State`
pub(crate) struct Vitals {
    /// When the last cooldown ends or ended; 0 if no cooldown is remembered.
    cooldown_until: AtomicU64,
    /// Integer microseconds; 0 before the first sample.
    avg_latency_us: AtomicU64,
    consecutive_successes: AtomicU32,
    degraded: AtomicBool,
    unhealthy: AtomicBool,
}

/// Returns whether a cooldown that ends at `until` is over. An `until` of 0 means that there is none. So a
/// probation that begins at the time 0, where manual clocks begin, is written as 1.
#[inline]
pub(crate) fn has_come(until: Nanos, now: Nanos) -> bool {
    until <= now.max(1)
}

impl Vitals {
    /// Returns when the last cooldown ends or ended; 0 if no cooldown is remembered.
    #[inline]
    pub(crate) fn cooldown_until(&self) -> Nanos {
        self.cooldown_until.load(Ordering::Relaxed)
    }

    /// Returns the nanoseconds until the cooldown ends; 0 if there is none.
    pub(crate) fn cooldown_left(&self, now: Nanos) -> Nanos {
        let until = self.cooldown_until();
        if has_come(until, now) { 0 } else { until - now }
    }

    #[inline]
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.unhealthy.load(Ordering::Relaxed)
    }

    /// Returns whether no cooldown is remembered and no health check took the deployment out.
    #[inline]
    pub(crate) fn is_well(&self) -> bool {
        self.cooldown_until() == 0 && !self.is_unhealthy()
    }

    #[inline]
    pub(crate) fn avg_latency_us(&self) -> u64 {
        self.avg_latency_us.load(Ordering::Relaxed)
    }

    pub(crate) fn consecutive_successes(&self) -> u32 {
        self.consecutive_successes.load(Ordering::Relaxed)
    }

    pub(crate) fn status(&self, now: Nanos) -> Status {
        if !has_come(self.cooldown_until(), now) {
            Status::CoolingDown
        } else if self.is_unhealthy() {
            Status::Unhealthy
        } else if self.degraded.load(Ordering::Relaxed) {
            Status::Degraded
        } else {
            Status::Available
        }
    }

    /// Records how long a success took.
    pub(crate) fn smooth_latency(&self, _: &Held<'_>, sample_us: u64) {
        self.avg_latency_us.store(smooth(self.avg_latency_us(), sample_us), Ordering::Relaxed);
    }

    /// Records a success by the rules of the minute.
    pub(crate) fn success(&self, held: &Held<'_>, rules: &MinuteRules, now: Nanos) {
        // A success that comes amid a cooldown says nothing about the time after it: its request was sent
        // before.
        if has_come(self.cooldown_until(), now) && self.count_success(held) >= rules.success_threshold {
            self.restore(held);
        }
    }

    /// Counts a success, and returns how many there were since the last failure.
    pub(crate) fn count_success(&self, _: &Held<'_>) -> u32 {
        let successes = self.consecutive_successes().saturating_add(1);
        self.consecutive_successes.store(successes, Ordering::Relaxed);
        successes
    }

    /// Ends the probation.
    pub(crate) fn restore(&self, _: &Held<'_>) {
        self.degraded.store(false, Ordering::Relaxed);
        self.cooldown_until.store(0, Ordering::Relaxed);
    }

    /// Forgets the successes in a row.
    pub(crate) fn break_streak(&self, _: &Held<'_>) {
        self.consecutive_successes.store(0, Ordering::Relaxed);
    }

    /// Records a failure that `minute` has counted, by the rules of the minute. If the provider names a wait,
    /// a cooldown of that length always starts. Returns whether one of another length started.
    pub(crate) fn failure(
        &self,
        held: &Held<'_>,
        rules: &MinuteRules,
        now: Nanos,
        kind: FailureKind,
        minute: Counts,
        wait: Option<Nanos>,
    ) -> bool {
        self.break_streak(held);
        self.degraded.store(true, Ordering::Relaxed);
        let trips = wait.is_none() && rules.trips(kind, minute);
        if wait.is_some() || trips {
            self.cool_down(held, now, wait.unwrap_or(rules.cooldown_time));
        }
        trips
    }

    /// Starts a cooldown. A cooldown that already lasts longer is not shortened.
    pub(crate) fn cool_down(&self, held: &Held<'_>, now: Nanos, length: Nanos) {
        self.break_streak(held);
        self.degraded.store(true, Ordering::Relaxed);
        self.cooldown_until.store(self.cooldown_until().max(now.saturating_add(length)), Ordering::Relaxed);
    }

    /// Ends a cooldown before its time. The probation begins at `probation_from`; 0 if the rules keep no such
    /// time.
    pub(crate) fn end_cooldown(&self, held: &Held<'_>, probation_from: Nanos) {
        self.break_streak(held);
        self.degraded.store(true, Ordering::Relaxed);
        self.cooldown_until.store(probation_from, Ordering::Relaxed);
    }

    /// Takes back what a failure without a cooldown left. The rules of `Health` know no such state.
    pub(crate) fn forget_failures(&self, _: &Held<'_>) {
        if self.cooldown_until() == 0 && !self.is_unhealthy() {
            self.degraded.store(false, Ordering::Relaxed);
        }
    }

    /// Records what a health check found. If the deployment comes back, its probation begins at
    /// `probation_from`; 0 if the rules keep no such time.
    pub(crate) fn report_health(&self, held: &Held<'_>, now: Nanos, healthy: bool, probation_from: Nanos) {
        // A deployment that is in service already goes on with its probation. Checks come often, and would
        // prolong it for ever.
        if healthy && (self.is_unhealthy() || !has_come(self.cooldown_until(), now)) {
            self.end_cooldown(held, probation_from);
        }
        self.unhealthy.store(!healthy, Ordering::Relaxed);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.cooldown_until.store(0, Ordering::Relaxed);
        self.avg_latency_us.store(0, Ordering::Relaxed);
        self.consecutive_successes.store(0, Ordering::Relaxed);
        self.degraded.store(false, Ordering::Relaxed);
        self.unhealthy.store(false, Ordering::Relaxed);
    }
}

/// Returns an exponential average in which each sample weighs 1/5. The first sample is taken whole.
pub(crate) fn smooth(average: u64, sample: u64) -> u64 {
    if average == 0 {
        return sample;
    }
    match average.checked_mul(4).and_then(|fourfold| fourfold.checked_add(sample)) {
        Some(fivefold) => fivefold / 5,
        // The mean of 64-bit numbers has 64 bits, even if their sum has more.
        None => u64::try_from((u128::from(average) * 4 + u128::from(sample)) / 5).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_smoothed_in_whole_microseconds() {
        assert_eq!(smooth(0, 1000), 1000);
        assert_eq!(smooth(1000, 2000), 1200);
        assert_eq!(smooth(1200, 3), 960);
        assert_eq!(smooth(u64::MAX, u64::MAX), u64::MAX);
    }
}
