//! A deployment's live counters, as a strategy sees them.

use super::check::minute_ends_in;
use crate::base::clock::Now;
use crate::counters::{State, mark};
use crate::facts::Price;
use crate::group::Entry;
use crate::limits::{Counts, Unit, Usage};
use crate::strategy::{Candidate, RoutingContext};

/// A candidate's live counters, as a strategy sees them.
pub(crate) struct Live<'a, 'c, T> {
    pub(crate) entry: &'a Entry<T>,
    pub(crate) state: &'a State,
    pub(crate) now: &'a Now<'c>,
}

impl<T> Live<'_, '_, T> {
    /// Returns the requests in flight plus the recent failures, which weigh like requests in flight.
    #[cold]
    fn penalized(&self) -> u32 {
        let penalty = self.entry.rules().health().map(|_| self.state.penalty(self.now.get()));
        let (failures, fades_at) = penalty.unwrap_or_default();
        if let Some(at) = fades_at {
            self.now.note_change(at);
        }
        self.state.in_flight().saturating_add(failures)
    }

    /// Returns the requests of other processes in flight, if they share the deployment.
    #[inline(never)]
    fn others(&self) -> u32 {
        let Some(share) = self.entry.metering.as_ref().and_then(|metering| metering.share()) else { return 0 };
        let (others, until) = share.others(self.now.get());
        if let Some(until) = until {
            self.now.note_change(until);
        }
        others
    }

    /// Returns the usage of this minute. A count of 0 is 0 in any minute, so it needs no look at the clock.
    #[inline]
    fn usage(&self, limit: Option<u64>, at_most: u64, current: impl FnOnce(Counts) -> u64) -> Usage {
        if at_most == 0 || limit.is_none() {
            return Usage { current: at_most, limit };
        }
        minute_ends_in(self.now);
        Usage { current: current(self.state.window.counts(self.now.wall())), limit }
    }

    /// Returns the fuller of two usages: the minute's, and that of the deployment's other limits on some
    /// units. Quotas are left out: they do not tell one deployment from another.
    #[inline]
    pub(crate) fn fullest(&self, minute: Usage, counts: impl Fn(Unit) -> bool) -> Usage {
        let Some(metering) = &self.entry.metering else { return minute };
        match metering.usage(counts, self.now.get()) {
            Some((usage, until)) => {
                if let Some(until) = until {
                    self.now.note_change(until);
                }
                if usage.is_fuller_than(&minute) || minute.limit.is_none() { usage } else { minute }
            }
            None => minute,
        }
    }
}

impl<T> Candidate for Live<'_, '_, T> {
    #[inline]
    fn weight(&self) -> u32 {
        self.entry.deployment().weight()
    }

    #[inline]
    fn priority(&self) -> u32 {
        self.entry.deployment().priority()
    }

    #[inline]
    fn active_requests(&self) -> u32 {
        let own = if self.state.marks() & mark::PENALIZED == 0 { self.state.in_flight() } else { self.penalized() };
        if self.state.marks() & mark::METERED == 0 { own } else { own.saturating_add(self.others()) }
    }

    #[inline]
    fn tpm(&self) -> Usage {
        let window = &self.state.window;
        let minute = self.usage(self.entry.deployment().tpm_limit(), window.tokens_at_most(), |counts| counts.tokens);
        self.fullest(minute, |unit| unit != Unit::Requests)
    }

    #[inline]
    fn rpm(&self) -> Usage {
        let window = &self.state.window;
        let minute = self.usage(self.entry.deployment().rpm_limit(), window.requests_at_most(), |counts| counts.requests);
        self.fullest(minute, |unit| unit == Unit::Requests)
    }

    #[inline]
    fn avg_latency_us(&self) -> u64 {
        self.state.vitals.avg_latency_us()
    }

    #[inline]
    fn avg_first_token_us(&self) -> u64 {
        self.state.avg_first_token_us()
    }

    #[inline]
    fn price(&self) -> Option<Price> {
        self.entry.deployment().price()
    }
}

/// Takes a snapshot of what a strategy sees of a deployment.
pub(crate) fn routing_context<T>(entry: &Entry<T>, now: &Now<'_>) -> RoutingContext {
    let (deployment, stats) = (entry.deployment(), entry.stats(now.get()));
    let live = Live { entry, state: &entry.slot, now };
    let tpm = live.fullest(Usage { current: stats.tpm_current, limit: stats.tpm_limit }, |unit| unit != Unit::Requests);
    let rpm = live.fullest(Usage { current: stats.rpm_current, limit: stats.rpm_limit }, |unit| unit == Unit::Requests);
    RoutingContext {
        deployment_id: stats.deployment_id,
        weight: deployment.weight(),
        priority: deployment.priority(),
        active_requests: stats.in_flight.saturating_add(stats.penalty).saturating_add(live.others()),
        tpm_current: tpm.current,
        tpm_limit: tpm.limit,
        rpm_current: rpm.current,
        rpm_limit: rpm.limit,
        avg_latency_us: stats.avg_latency_us,
        price: deployment.price(),
    }
}
