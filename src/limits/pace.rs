//! How fast a process uses a limit, and so how much of it to hold.

use super::unit::Unit;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::time::{Nanos, SECOND, seconds};

/// Over this time the rate is averaged.
const AVERAGED_OVER: Nanos = SECOND / 4;

/// Two looks that are nearer are one.
const LEAST_STEP: Nanos = SECOND / 500;

/// The requests for which units are held where fewer come than one in the horizon.
const CRUMBS: f64 = 4.0;

/// How long after its last request a group is still in use.
const IN_USE_FOR: Nanos = SECOND;

/// The use of a group of deployments by this process. Strategies choose among those that hold something. So
/// all members of a group that is in use hold crumbs, also those that were not picked lately.
#[derive(Debug, Default)]
pub(super) struct Activity {
    at: AtomicU64,
    tokens: AtomicU64,
}

impl Activity {
    /// Notes a request.
    pub(super) fn note(&self, now: Nanos, tokens: u64) {
        self.at.store(now, Ordering::Relaxed);
        self.tokens.store(tokens, Ordering::Relaxed);
    }

    pub(super) fn is_in_use(&self, now: Nanos) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        at != 0 && now.saturating_sub(at) < IN_USE_FOR
    }

    /// Returns the units of the last request.
    fn size(&self, unit: Unit) -> u64 {
        if unit == Unit::Requests { 1 } else { self.tokens.load(Ordering::Relaxed).max(1) }
    }
}

/// How fast a process uses a limit: an exponentially weighted moving average of the rate and of the size of
/// its requests.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    looked_at: Nanos,
    /// Requests and units at that look, in all.
    requests: u64,
    units: u64,
    /// Requests a second.
    rate: f64,
    /// Units a request.
    size: f64,
}

impl Pace {
    /// Learns how many requests asked for units so far, and how many units they asked for.
    pub(super) fn look(&mut self, now: Nanos, requests: u64, units: u64) {
        let passed = now.saturating_sub(self.looked_at);
        if passed < LEAST_STEP {
            return;
        }
        #[allow(clippy::cast_precision_loss)] // estimates
        let (came, took) = (requests.saturating_sub(self.requests) as f64, units.saturating_sub(self.units) as f64);
        if self.looked_at == 0 || passed > 20 * AVERAGED_OVER {
            // Nothing is known, or no longer.
            self.rate = 0.0;
        }
        let weight = 1.0 - (-seconds(passed.min(20 * AVERAGED_OVER)) / seconds(AVERAGED_OVER)).exp();
        self.rate += (came / seconds(passed.min(20 * AVERAGED_OVER)) - self.rate) * weight;
        if came > 0.0 {
            let size = took / came;
            self.size = if self.size == 0.0 { size } else { self.size + (size - self.size) / 4.0 };
        }
        (self.looked_at, self.requests, self.units) = (now, requests, units);
    }

    /// Returns the units that the next so many nanoseconds will need.
    pub(super) fn need_in(&self, length: Nanos) -> f64 {
        self.rate * self.size * seconds(length)
    }

    /// Returns whether at least one request is expected in a time.
    pub(super) fn is_brisk(&self, horizon: Nanos) -> bool {
        self.rate * seconds(horizon) >= 1.0
    }

    /// Returns the units to hold. `spares`: so much is left that a process may hold units for requests that
    /// are not expected soon. Such crumbs make slow requests wait seldom.
    pub(super) fn stock(&self, horizon: Nanos, spares: bool, activity: &Activity, unit: Unit, now: Nanos) -> u64 {
        let expected = (self.rate * seconds(horizon)).ceil();
        let crumbs = if spares && activity.is_in_use(now) { CRUMBS } else { 0.0 };
        let requests = if self.is_brisk(horizon) { expected.max(crumbs) } else { crumbs };
        #[allow(clippy::cast_precision_loss)] // an estimate
        let size = if self.size == 0.0 { activity.size(unit) as f64 } else { self.size };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it saturates, and is not negative
        let stock = (requests * size).ceil() as u64;
        stock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_learnt_in_a_second() {
        let mut pace = Pace::default();
        for step in 1..=100_u64 {
            pace.look(step * SECOND / 100, step, 30 * step);
        }
        assert!((95.0..105.0).contains(&pace.need_in(SECOND / 30)), "{pace:?}");
        assert_eq!(pace.stock(SECOND / 4, false, &Activity::default(), Unit::Tokens, SECOND).div_ceil(30), 25);
    }

    #[test]
    fn who_uses_little_holds_crumbs_while_much_is_left() {
        let (mut pace, activity) = (Pace::default(), Activity::default());
        let stock = |pace: &Pace, spares, at| pace.stock(SECOND / 4, spares, &activity, Unit::Tokens, at * SECOND);
        activity.note(3 * SECOND, 9);
        assert_eq!(stock(&pace, true, 3), 36, "the size of another member's request");
        pace.look(SECOND, 0, 0);
        pace.look(3 * SECOND, 1, 7);
        assert_eq!((stock(&pace, true, 3), stock(&pace, false, 3)), (28, 0));
        assert_eq!(stock(&pace, true, 5), 0, "the group is not in use any more");
    }
}
