//! Outcomes, cooldown and probation.
//!
//! A router follows one of two sets of rules: those of the minute ([`HealthRules`]), which are litellm-rs's, or those of the breaker
//! ([`BreakerRules`]), if it has health options. Both write the same few words here, which is all that a pick reads; what the breaker
//! counts besides lies in the annex of the deployment's state.

mod breaker;
mod domain;
mod pool;
mod ring;
mod rules;
mod slow_start;

use std::fmt;
use std::str::FromStr;

pub use breaker::Cause;
pub(crate) use breaker::{Breaker, Judge};
pub(crate) use domain::Domain;
pub(crate) use pool::Pool;
pub use rules::BreakerRules;

use crate::clock::{Nanos, SECOND};
use crate::error::Error;
use crate::limits::Counts;
use crate::state::Held;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// When a deployment cools down and comes back. Counts of a minute are those of the clock minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthRules {
    /// So many failures in a minute start a cooldown, once `min_requests` were made in it.
    pub allowed_fails: u64,
    /// See `allowed_fails`.
    pub min_requests: u64,
    /// How long a cooldown lasts unless the failure says otherwise.
    pub cooldown_time: Nanos,
    /// Consecutive successes that end the probation, at least 1.
    pub success_threshold: u32,
}

impl Default for HealthRules {
    fn default() -> Self {
        Self { allowed_fails: 3, min_requests: 10, cooldown_time: 5 * SECOND, success_threshold: 3 }
    }
}

/// Failures are the majority only among this many requests, so that the first failure of a minute is not.
const MAJORITY_OF: u64 = 10;

impl HealthRules {
    /// Whether a failure of this kind starts a cooldown, after the minute has counted it.
    fn trips(&self, kind: FailureKind, minute: Counts) -> bool {
        let requests = minute.requests.saturating_add(u64::from(minute.carried));
        let fails = u64::from(minute.fails);
        kind.trips_at_once()
            || (fails >= self.allowed_fails && requests >= self.min_requests)
            || (requests >= MAJORITY_OF && fails.saturating_mul(2) > requests)
    }
}

/// What went wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The deployment failed; also whatever has no kind of its own.
    Error,
    /// It could not be reached.
    Connection,
    /// It refused for its rate limit.
    RateLimit,
    /// It refused the credentials or the account.
    Auth,
    /// It does not have the model.
    NotFound,
    /// It did not answer in time.
    Timeout,
    /// The application says so.
    Manual,
    /// The request was wrong.
    BadRequest,
    /// The content was refused.
    ContentPolicy,
    /// The prompt was too long for the model.
    ContextWindow,
    /// The caller gave up.
    Cancelled,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Error,
        Self::Connection,
        Self::RateLimit,
        Self::Auth,
        Self::NotFound,
        Self::Timeout,
        Self::Manual,
        Self::BadRequest,
        Self::ContentPolicy,
        Self::ContextWindow,
        Self::Cancelled,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Connection => "connection",
            Self::RateLimit => "rate_limit",
            Self::Auth => "auth",
            Self::NotFound => "not_found",
            Self::Timeout => "timeout",
            Self::Manual => "manual",
            Self::BadRequest => "bad_request",
            Self::ContentPolicy => "content_policy",
            Self::ContextWindow => "context_window",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it is the caller's doing and says nothing about the deployment.
    #[must_use]
    pub const fn is_neutral(self) -> bool {
        matches!(self, Self::BadRequest | Self::ContentPolicy | Self::ContextWindow | Self::Cancelled)
    }

    /// Whether the deployment, or the application for it, says that it will not serve for now.
    const fn is_refusal(self) -> bool {
        matches!(self, Self::RateLimit | Self::Auth | Self::NotFound | Self::Manual)
    }

    /// Whether one of it is enough for a cooldown, by the rules of the minute.
    const fn trips_at_once(self) -> bool {
        self.is_refusal() || matches!(self, Self::Timeout)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FailureKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            Error::Configuration(format!("unknown failure kind {name:?}: must be one of {}", Self::ALL.map(Self::name).join(", ")))
        })
    }
}

/// A failure as it came in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) retry_after: Option<Nanos>,
    /// When the request was sent.
    pub(crate) sent_at: Nanos,
    /// Whether it was in flight here.
    pub(crate) has_lease: bool,
}

impl Failure {
    /// Whether the deployment says that it will not serve for now: by what it is, or by how long to wait.
    fn is_refusal(&self) -> bool {
        self.kind.is_refusal() || self.retry_after.is_some()
    }
}

/// What a deployment is.
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
    /// Its name.
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

/// A deployment's health. Read without a lock, written under that of its state.
#[derive(Debug, Default)]
#[repr(C)] // its place in a cache line counts: see `State`
pub(crate) struct Health {
    /// When the last cooldown ends or ended; 0 if there is none to think of.
    cooldown_until: AtomicU64,
    /// Integer microseconds; 0 before the first sample.
    avg_latency_us: AtomicU64,
    consecutive_successes: AtomicU32,
    degraded: AtomicBool,
    unhealthy: AtomicBool,
}

impl Health {
    /// When the last cooldown ends or ended; 0 if there is none to think of.
    #[inline]
    pub(crate) fn cooldown_until(&self) -> Nanos {
        self.cooldown_until.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.unhealthy.load(Ordering::Relaxed)
    }

    /// Whether nothing is known against it.
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
        if now < self.cooldown_until() {
            Status::CoolingDown
        } else if self.is_unhealthy() {
            Status::Unhealthy
        } else if self.degraded.load(Ordering::Relaxed) {
            Status::Degraded
        } else {
            Status::Available
        }
    }

    /// Takes in how long a success took.
    pub(crate) fn smooth_latency(&self, _: &Held<'_>, sample_us: u64) {
        self.avg_latency_us.store(smooth(self.avg_latency_us(), sample_us), Ordering::Relaxed);
    }

    /// Takes in a success by the rules of the minute.
    pub(crate) fn success(&self, held: &Held<'_>, rules: &HealthRules, now: Nanos) {
        // A request that was sent before the cooldown tells nothing about the time after it.
        if now >= self.cooldown_until() && self.count_success(held) >= rules.success_threshold {
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

    /// Counts no success any more.
    pub(crate) fn break_streak(&self, _: &Held<'_>) {
        self.consecutive_successes.store(0, Ordering::Relaxed);
    }

    /// Takes in a failure that `minute` has counted, by the rules of the minute.
    pub(crate) fn failure(
        &self,
        held: &Held<'_>,
        rules: &HealthRules,
        now: Nanos,
        kind: FailureKind,
        minute: Counts,
        retry_after: Option<Nanos>,
    ) {
        self.break_streak(held);
        self.degraded.store(true, Ordering::Relaxed);
        if rules.trips(kind, minute) {
            self.cool_down(held, now, retry_after.unwrap_or(rules.cooldown_time));
        }
    }

    /// Starts a cooldown. One that lasts longer already is not shortened.
    pub(crate) fn cool_down(&self, held: &Held<'_>, now: Nanos, length: Nanos) {
        self.break_streak(held);
        self.degraded.store(true, Ordering::Relaxed);
        self.cooldown_until.store(self.cooldown_until().max(now.saturating_add(length)), Ordering::Relaxed);
    }

    /// Takes in what a health check found. Probation begins at `probation_from`, where the rules want it to be seen; 0 if not.
    pub(crate) fn checked(&self, held: &Held<'_>, now: Nanos, healthy: bool, probation_from: Nanos) {
        // One that is in service already goes on with its probation: checks come often, and would prolong it for ever.
        if healthy && (self.is_unhealthy() || now < self.cooldown_until()) {
            self.break_streak(held);
            self.degraded.store(true, Ordering::Relaxed);
            self.cooldown_until.store(probation_from, Ordering::Relaxed);
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

/// An exponential average in which each sample weighs 1/5 and the first is taken whole.
fn smooth(average: u64, sample: u64) -> u64 {
    if average == 0 {
        return sample;
    }
    match average.checked_mul(4).and_then(|fourfold| fourfold.checked_add(sample)) {
        Some(fivefold) => fivefold / 5,
        // A mean of 64-bit numbers is one, though its sum is not.
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

    #[test]
    fn every_name_reads_back() {
        for kind in FailureKind::ALL {
            assert_eq!(kind.name().parse::<FailureKind>().unwrap(), kind);
        }
        assert!("5xx".parse::<FailureKind>().unwrap_err().to_string().contains("rate_limit"));
    }
}
