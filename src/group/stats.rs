//! Reports on deployments, for people to read.

use std::sync::Arc;

use super::entry::Entry;
use crate::base::time::{Nanos, seconds};
use crate::health::Status;
use crate::limits::{LimitStats, ObservedStats, SharingStats};

/// A deployment's state at one moment.
///
/// ```
/// use turnout::{Deployment, Request, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, ())?);
/// let lease = router.acquire("gpt-4o", &Request { tokens: 900, ..Request::default() })?;
/// let stats = router.stats("azure-eu")?;
/// assert_eq!((stats.in_flight, stats.tpm_current), (1, 900));
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Its id.
    pub deployment_id: Arc<str>,
    /// The model name whose group it is in.
    pub model_name: Arc<str>,
    /// Its status.
    pub status: Status,
    /// Leases that have not ended.
    pub in_flight: u32,
    /// The most leases in flight at once.
    pub max_parallel_requests: Option<u32>,
    /// Requests counted in the current minute.
    pub rpm_current: u64,
    /// The most requests in a minute.
    pub rpm_limit: Option<u64>,
    /// Tokens counted in the current minute, reserved ones included.
    pub tpm_current: u64,
    /// The most tokens in a minute.
    pub tpm_limit: Option<u64>,
    /// Failures in the current minute that count towards a cooldown.
    pub fails_this_minute: u32,
    /// Seconds until its cooldown ends; 0 if it is not cooling down.
    pub cooldown_remaining: f64,
    /// Smoothed latency in microseconds; 0 before the first sample.
    pub avg_latency_us: u64,
    /// Smoothed time to the first token in microseconds; 0 before the first one.
    pub avg_first_token_us: u64,
    /// Successes since the last failure.
    pub consecutive_successes: u32,
    /// Requests counted since it was added.
    pub total_requests: u64,
    /// Successes since it was added.
    pub total_successes: u64,
    /// Failures since it was added, neutral ones left out.
    pub total_failures: u64,
    /// Tokens of successes since it was added. Where no tokens were reported, the estimate counts.
    pub total_tokens: u64,
    /// Its limits beside requests and tokens a minute, those of its quotas included.
    pub limits: Vec<LimitStats>,
    /// What the provider said is left of its limits and its quotas, as far as that still holds.
    pub observed: Vec<ObservedStats>,
    /// The most requests in flight, as learnt from refusals; None if nothing was learnt.
    pub learnt_parallel_requests: Option<u32>,
    /// Its failure domain.
    pub domain: Option<Arc<str>>,
    /// Failures since the last success. Only the rules of `Health` count this field and the fields below.
    pub consecutive_failures: u32,
    /// Successes in the window.
    pub window_successes: u64,
    /// Failures in the window.
    pub window_failures: u64,
    /// Cooldowns that are not forgotten. The next cooldown grows with their number.
    pub trips: u32,
    /// Failures that weigh on it like requests in flight.
    pub penalty: u32,
    /// The part of its fair share of requests that slow start lets it have.
    pub slow_start_share: f64,
    /// Leases that have not ended, those of other processes included that share the deployment.
    pub in_flight_all: u64,
}

impl<T> Entry<T> {
    /// Returns its state now.
    pub(crate) fn stats(&self, now: Nanos) -> Stats {
        let (deployment, state, metering) = (self.deployment(), &*self.slot, self.metering.as_deref());
        let held = state.hold();
        let breaker = self.rules().health().map(|rules| state.breaker_stats(rules, now)).unwrap_or_default();
        let (minute, totals) = (state.window.counts(self.services.clock.wall_at(now)), state.totals(&held));
        let annex = state.made_annex();
        Stats {
            deployment_id: Arc::clone(deployment.shared_id()),
            model_name: Arc::clone(deployment.shared_model_name()),
            status: state.vitals.status(now),
            in_flight: state.in_flight(),
            in_flight_all: u64::from(state.in_flight())
                + metering.and_then(|metering| metering.share()).map_or(0, |share| u64::from(share.others(now).0)),
            max_parallel_requests: deployment.max_parallel_requests(),
            rpm_current: minute.requests,
            rpm_limit: deployment.rpm_limit(),
            tpm_current: minute.tokens,
            tpm_limit: deployment.tpm_limit(),
            fails_this_minute: minute.fails,
            cooldown_remaining: seconds(state.vitals.cooldown_left(now)),
            avg_latency_us: state.vitals.avg_latency_us(),
            avg_first_token_us: state.avg_first_token_us(),
            consecutive_successes: state.vitals.consecutive_successes(),
            total_requests: totals.requests,
            total_successes: totals.successes,
            total_failures: totals.failures,
            total_tokens: totals.tokens,
            limits: LimitStats::all(metering, now),
            observed: ObservedStats::all(annex.map(|annex| &annex.observed), metering, now),
            learnt_parallel_requests: annex.map(|annex| annex.cap.most()).filter(|&most| most > 0 && !deployment.is_limited()),
            domain: deployment.shared_domain().cloned(),
            consecutive_failures: breaker.consecutive_failures,
            window_successes: breaker.window_successes,
            window_failures: breaker.window_failures,
            trips: breaker.trips,
            penalty: breaker.penalty,
            #[allow(clippy::cast_precision_loss)] // at most 100
            slow_start_share: self.pace(state, now).map_or(1.0, |(slice, _)| slice.percent as f64 / 100.0),
        }
    }
}

/// Totals over deployments.
///
/// ```
/// use turnout::{Deployment, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, ())?);
/// assert_eq!((router.metrics().deployments, router.metrics().available), (1, 1));
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)] // the words are those of `Stats` and `Status`
pub struct Metrics {
    pub models: usize,
    pub deployments: u64,
    pub available: u64,
    pub degraded: u64,
    pub cooling_down: u64,
    pub unhealthy: u64,
    pub in_flight: u64,
    pub waiting: u64,
    pub total_requests: u64,
    pub total_successes: u64,
    pub total_failures: u64,
    pub total_tokens: u64,
    /// The model names whose groups panic.
    pub panicking: Vec<Arc<str>>,
    /// How many events were dropped because too many waited to be told.
    pub events_dropped: u64,
    /// The talk with a shared store; None if limits are not shared.
    pub sharing: Option<SharingStats>,
}

impl Metrics {
    pub(crate) fn add(&mut self, stats: &Stats) {
        self.deployments += 1;
        *match stats.status {
            Status::Available => &mut self.available,
            Status::Degraded => &mut self.degraded,
            Status::CoolingDown => &mut self.cooling_down,
            Status::Unhealthy => &mut self.unhealthy,
        } += 1;
        self.in_flight += u64::from(stats.in_flight);
        self.total_requests = self.total_requests.saturating_add(stats.total_requests);
        self.total_successes = self.total_successes.saturating_add(stats.total_successes);
        self.total_failures = self.total_failures.saturating_add(stats.total_failures);
        self.total_tokens = self.total_tokens.saturating_add(stats.total_tokens);
    }
}
