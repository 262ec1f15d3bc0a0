//! What processes tell each other of an owner, by the router's time.

use super::fixed::to_router;
use super::share::Share;
use super::signals::Heard;
use super::unit::Unit;
use crate::base::time::Nanos;
use crate::shared::Micros;

impl Share {
    /// Returns how many requests of other processes are in flight, and until when that counts, by the
    /// router's time.
    #[inline]
    pub(crate) fn others(&self, now: Nanos) -> (u32, Option<Nanos>) {
        let (time, signals) = (self.time.at(now), &self.common.signals);
        let until = signals.others_until(time).map(|until| self.router_time(until));
        (u32::try_from(signals.others(time)).unwrap_or(u32::MAX), until)
    }

    /// Returns the successes and failures of other processes.
    pub(crate) fn outcomes(&self, now: Nanos) -> (u64, u64) {
        self.common.signals.outcomes(self.time.at(now))
    }

    /// Returns whether requests of this process failed lately, by what it last told.
    #[inline]
    pub(crate) fn has_failed(&self) -> bool {
        self.common.signals.has_failed()
    }

    /// Tells how requests ended lately, which counts until then.
    pub(crate) fn say_outcomes(&self, successes: u64, failures: u64, until: Nanos) {
        self.common.signals.say_outcomes(successes, failures, self.time.at(until));
    }

    /// Tells that no requests are to be sent before a time. `cause` is a number of `health::Cause`.
    pub(crate) fn say_out(&self, now: Nanos, until: Nanos, cause: u8) {
        if self.common.signals.say_out(self.time.at(now), self.time.at(until), cause) {
            self.time.bell.ring();
        }
    }

    /// Tells that the owner is back in service.
    pub(crate) fn say_back(&self, now: Nanos) {
        if self.common.signals.say_back(self.time.at(now)) {
            self.time.bell.ring();
        }
    }

    /// Tells what the provider said is left of a unit, and until when that holds.
    pub(crate) fn say_observed(&self, now: Nanos, until: Nanos, unit: Unit, remaining: u64, limit: u64) {
        self.common.signals.say_observed(self.time.at(now), self.time.at(until), unit, remaining, limit);
    }

    /// Returns whether another process may be trying the deployment, which is on probation. If so, asks the
    /// store for its place. While the store is lost each process tries for itself: no deployment stays out
    /// because nobody can ask.
    pub(crate) fn lacks_probe(&self, now: Nanos) -> bool {
        let (time, signals) = (self.time.at(now), &self.common.signals);
        if self.time.is_lost() || signals.has_probe(time, self.time.error()) {
            return false;
        }
        if signals.asks_for_probe(time) {
            self.time.bell.ring();
        }
        true
    }

    /// Notes that a request has the place of the probation, or has it no more.
    pub(crate) fn use_probe(&self, is_used: bool) {
        self.common.signals.use_probe(is_used);
    }

    /// Returns what another process has told, with times by the router's clock.
    pub(crate) fn in_router_time(&self, heard: Heard) -> Heard {
        match heard {
            Heard::Out { until, cause } => Heard::Out { until: self.router_time(until), cause },
            Heard::Back => Heard::Back,
            Heard::Observed { unit, at, until, remaining, limit } => {
                Heard::Observed { unit, at: self.router_time(at), until: self.router_time(until), remaining, limit }
            }
        }
    }

    /// Returns the router's time when the store's is `time`.
    fn router_time(&self, time: Micros) -> Nanos {
        to_router(time.saturating_mul(1000), self.time.ahead())
    }
}
