//! What providers tell about their limits: by headers, and by refusing.

use std::sync::Arc;

use super::receipt::Receipt;
use crate::base::clock::Now;
use crate::base::events::{Event, EventKind};
use crate::base::lock::Held;
use crate::base::time::{Nanos, seconds};
use crate::counters::mark;
use crate::group::Entry;
use crate::limits::Observed;

impl<T> Entry<T> {
    /// Records what the answer to a request said, and how long the provider wants not to be asked. `sent_at`
    /// is when the request was sent.
    pub(crate) fn observe(
        &self,
        said: &[Observed],
        retry_after: Option<Nanos>,
        sent_at: Nanos,
        receipt: Option<&Receipt>,
        now: Nanos,
    ) {
        self.learn(said, sent_at, receipt, now);
        if let Some(length) = retry_after {
            let held = self.slot.hold();
            self.slot.annex().observed.pause(now, length);
            self.slot.mark(&held, mark::OBSERVED, true);
        }
        self.renew(&Now::at(&self.services.clock, now));
        // A newer answer may leave more than an older one.
        self.finish();
    }

    /// Records what an answer said, and leaves its leaf for the caller to renew.
    ///
    /// Where the deployment is under quotas that limit the same unit, the answer is about the quota nearest
    /// to its limit: providers tell what comes first.
    pub(super) fn learn(&self, said: &[Observed], sent_at: Nanos, receipt: Option<&Receipt>, now: Nanos) {
        for observed in said {
            let quota = self.metering.as_ref().and_then(|metering| metering.nearest_quota(Some(observed.unit), now));
            if let Some((nth, ledger)) = quota {
                let _held = ledger.hold();
                ledger.observed().observe(observed, sent_at, receipt.and_then(|receipt| receipt.reserved(Some(nth))), now);
            } else {
                let held = self.slot.hold();
                let then = receipt.and_then(|receipt| receipt.reserved(None));
                self.slot.annex().observed.observe(observed, sent_at, then, now);
                self.slot.mark(&held, mark::OBSERVED, true);
            }
        }
    }

    /// Records that the provider refused a request for its rate. `sent_at` is when the request was sent, if
    /// it had a lease.
    ///
    /// Returns whether that is about a quota. The quota is paused then for all that are under it, and the
    /// deployment has no part in it.
    pub(super) fn refused(&self, held: &Held<'_>, sent_at: Option<Nanos>, pause: Nanos, now: Nanos) -> bool {
        if let Some((_, ledger)) = self.metering.as_ref().and_then(|metering| metering.nearest_quota(None, now)) {
            let _held = ledger.hold();
            ledger.observed().pause(now, pause);
            let id = ledger.quota().id();
            self.announce_limit(now, || format!("refused under the quota {id:?}, paused for {:.3} s", seconds(pause)));
            return true;
        }
        let state = &*self.slot;
        // The lease has left already, and counts here.
        if let Some(sent_at) = sent_at
            && self.services.learning.concurrency
            && !self.deployment().is_limited()
            && state.annex().cap.refused(sent_at, state.in_flight().saturating_add(1), now)
        {
            state.mark(held, mark::CAPPED, true);
            self.announce_limit(now, || format!("refused, at most {} in flight from now on", state.annex().cap.most()));
        }
        false
    }

    /// Notes an event about a limit that was learnt.
    fn announce_limit(&self, now: Nanos, detail: impl FnOnce() -> String) {
        self.services.events.note(|| Event {
            kind: EventKind::LimitLearnt,
            deployment_id: Some(Arc::clone(self.deployment().shared_id())),
            model_name: Arc::clone(self.deployment().shared_model_name()),
            at: now,
            detail: detail(),
        });
    }
}
