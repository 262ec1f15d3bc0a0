//! What other processes have told of a deployment or of its quotas.

use crate::base::clock::Now;
use crate::base::time::Nanos;
use crate::counters::mark;
use crate::group::Entry;
use crate::health::{Cause, has_come};
use crate::limits::{Heard, Observations, Observed};

impl<T> Entry<T> {
    /// Takes over what another process has told of it. The times are the router's.
    pub(crate) fn hear_of_it(&self, told: Heard, now: Nanos) {
        match told {
            Heard::Out { until, cause } => {
                if until > self.slot.vitals.cooldown_until() && !has_come(until, now) {
                    self.go_out(now, until, Cause::from_code(cause).unwrap_or(Cause::Asked));
                }
            }
            Heard::Back => self.come_back(now),
            Heard::Observed { .. } => {
                let held = self.slot.hold();
                take_in(&self.slot.annex().observed, told, now);
                self.slot.mark(&held, mark::OBSERVED, true);
                drop(held);
                self.renew(&Now::at(&self.services.clock, now));
                self.finish();
            }
        }
    }

    /// Takes over what another process has told of one of its quotas. The times are the router's.
    pub(crate) fn hear_of_quota(&self, nth: usize, told: Heard, now: Nanos) {
        let Some(ledger) = self.metering.as_ref().and_then(|metering| metering.quotas().get(nth)) else { return };
        let held = ledger.hold();
        match told {
            Heard::Out { until, .. } => ledger.observed().pause(now, until.saturating_sub(now), false),
            Heard::Back => ledger.observed().came_through(None),
            Heard::Observed { .. } => take_in(ledger.observed(), told, now),
        }
        drop(held);
        self.finish();
    }
}

fn take_in(observed: &Observations, told: Heard, now: Nanos) {
    if let Heard::Observed { unit, at, until, remaining, limit } = told {
        let limit = Some(limit).filter(|&limit| limit > 0);
        let said = Observed { unit, limit, remaining, reset: Some(until.saturating_sub(now)) };
        observed.observe(&said, Some(at), None, now);
    }
}
