//! The limits that providers tell: by headers, and by refusals.

use std::sync::Arc;

use super::receipt::Receipt;
use crate::base::clock::Now;
use crate::base::events::{Event, EventKind};
use crate::base::lock::Held;
use crate::base::time::{Nanos, seconds};
use crate::counters::mark;
use crate::group::Entry;
use crate::health::{Failure, FailureKind, Rules, Scope, has_come};
use crate::limits::{HOLDS, Ledger, Limit, Observed, Share, Unit};

/// The parts of an answer about limits, as far as the options accept them.
///
/// - A wait of 0 is no wait. No wait is longer than the options allow.
/// - A wait names the next chance. A limit that the answer says is spent holds no longer than that wait: the
///   reset of a limit may be the time when all of it is back.
#[derive(Debug)]
pub(super) struct Heard {
    /// Each limit, with the time that this holds.
    pub(super) said: Vec<Observed>,
    wait: Option<Nanos>,
    /// The longest reset of a spent limit. A limit without a reset has none.
    refills_in: Option<Nanos>,
}

impl Heard {
    fn new(said: &[Observed], wait: Option<Nanos>, longest: Nanos) -> Self {
        let wait = wait.map(|wait| wait.min(longest)).filter(|&wait| wait > 0);
        let spent = said.iter().filter(|observed| is_spent(observed));
        let refills_in = spent.filter_map(|observed| observed.reset).max().map(|reset| reset.min(longest));
        let said = said.iter().map(|&observed| {
            let most = if is_spent(&observed) { wait.unwrap_or(longest) } else { longest };
            Observed { reset: Some(observed.reset.unwrap_or(HOLDS).min(most)), ..observed }
        });
        Self { said: said.collect(), wait, refills_in: refills_in.filter(|&reset| reset > 0) }
    }

    /// Returns whether it is news that every limit it speaks of has something left.
    fn is_good(&self) -> bool {
        self.wait.is_none() && !self.said.is_empty() && !self.said.iter().any(is_spent)
    }

    /// Returns the failure of a request that got this answer. If the request was refused for its rate and the
    /// answer names no wait, the longest reset of a spent limit is the wait.
    pub(super) fn failure<T>(
        &self,
        entry: &Entry<T>,
        kind: FailureKind,
        scope: Option<Scope>,
        sent_at: Nanos,
        has_lease: bool,
    ) -> Failure {
        let is_refused = kind == FailureKind::RateLimit;
        let wait = self.wait.or(self.refills_in.filter(|_| is_refused));
        Failure { kind, wait, quota: if is_refused { entry.quota_meant(scope, &self.said) } else { None }, sent_at, has_lease }
    }
}

/// Tells other processes what an answer said.
fn say(share: Option<&Share>, observed: &Observed, now: Nanos) {
    if let Some(share) = share {
        let until = now.saturating_add(observed.reset.unwrap_or(HOLDS));
        share.say_observed(now, until, observed.unit, observed.remaining, observed.limit.unwrap_or(0));
    }
}

fn is_spent(observed: &Observed) -> bool {
    observed.remaining == 0
}

impl<T> Entry<T> {
    /// Bounds what an answer said by the options.
    pub(super) fn hear(&self, said: &[Observed], wait: Option<Nanos>) -> Heard {
        Heard::new(said, wait, self.services.learning.get().longest_wait)
    }

    /// Records what the answer to a request said, and how long the provider wants no requests. `sent_at` is
    /// when the request was sent, if it had a lease.
    pub(crate) fn observe(
        &self,
        said: &[Observed],
        retry_after: Option<Nanos>,
        sent_at: Option<Nanos>,
        receipt: Option<&Receipt>,
        now: Nanos,
    ) {
        let heard = self.hear(said, retry_after);
        self.learn(&heard.said, sent_at, receipt, now);
        if let Some(length) = heard.wait {
            let held = self.slot.hold();
            let observed = &self.slot.annex().observed;
            observed.pause(now, length, observed.is_later(sent_at));
            self.slot.mark(&held, mark::OBSERVED, true);
        } else if heard.is_good() {
            self.hear_good_news(now, sent_at.unwrap_or(Nanos::MAX));
        }
        self.renew(&Now::at(&self.services.clock, now));
        // A newer answer may leave more than an older one.
        self.finish();
    }

    /// Records what an answer said. The caller renews the leaf afterwards.
    pub(super) fn learn(&self, said: &[Observed], sent_at: Option<Nanos>, receipt: Option<&Receipt>, now: Nanos) {
        for observed in said {
            if let Some((nth, ledger)) = self.quota_of(observed) {
                let _held = ledger.hold();
                ledger.observed().observe(observed, sent_at, receipt.and_then(|receipt| receipt.reserved(Some(nth))), now);
                say(ledger.share(), observed, now);
            } else {
                let held = self.slot.hold();
                let then = receipt.and_then(|receipt| receipt.reserved(None));
                self.slot.annex().observed.observe(observed, sent_at, then, now);
                say(self.metering.as_ref().and_then(|metering| metering.share()), observed, now);
                self.slot.mark(&held, mark::OBSERVED, true);
            }
        }
    }

    /// Returns the quota that an answer speaks of: the first one with a limit of this unit and amount. None
    /// if it speaks of a limit of the deployment's own, or if that is not known.
    fn quota_of(&self, observed: &Observed) -> Option<(usize, &Ledger)> {
        let (metering, amount) = (self.metering.as_ref()?, observed.limit?);
        let minute = match observed.unit {
            Unit::Requests => self.deployment().rpm_limit(),
            Unit::Tokens => self.deployment().tpm_limit(),
            Unit::InputTokens | Unit::OutputTokens => None,
        };
        let is_it = |limit: &Limit| limit.unit() == observed.unit && limit.amount() == amount;
        if minute == Some(amount) || self.deployment().limits().iter().any(is_it) {
            return None;
        }
        metering.quota_with(is_it)
    }

    /// Returns the quota that a refusal is about; None if it is about the deployment, or if that is not
    /// known.
    fn quota_meant(&self, scope: Option<Scope>, said: &[Observed]) -> Option<usize> {
        match scope {
            Some(Scope::Deployment) => None,
            Some(Scope::Account) => {
                let metering = self.metering.as_ref()?;
                metering.nearest_quota(self.services.clock.now())
            }
            None => {
                let mut meant = said.iter().filter(|observed| is_spent(observed)).map(|spent| Some(self.quota_of(spent)?.0));
                let first = meant.next().flatten()?;
                // Another spent limit may be the deployment's own.
                meant.all(|other| other.is_some()).then_some(first)
            }
        }
    }

    /// Pauses one of its quotas for all deployments that share it, since the quota refused a request for its
    /// rate. If the provider named no wait, the pause grows as a cooldown does. Returns whether there is such
    /// a quota.
    pub(super) fn pause_quota(&self, nth: usize, failure: &Failure, now: Nanos) -> bool {
        let Some(ledger) = self.metering.as_ref().and_then(|metering| metering.quotas().get(nth)) else { return false };
        let (heir, held) = (self.heir(), ledger.hold());
        let observed = ledger.observed();
        let sent_at = failure.has_lease.then_some(failure.sent_at);
        let length = match (failure.wait, heir.as_deref().unwrap_or(self).rules()) {
            (Some(wait), _) => wait,
            (None, Rules::Minute(rules)) => rules.cooldown_time,
            (None, Rules::Health(rules)) => {
                let trips = ledger.trips();
                // A request that was sent before the last pause ended says nothing of the time after it. News
                // may have ended that pause before its time.
                if failure.sent_at < observed.paused_at() || !has_come(observed.paused_until(), failure.sent_at) {
                    return true;
                }
                let remembered = trips.remembered(rules.forget_after, now);
                let length = rules.cooldown(remembered, &self.services.jitter);
                trips.add(remembered, now.saturating_add(length));
                length
            }
        };
        let is_newer = failure.wait.is_some() && failure.has_lease && observed.is_later(sent_at);
        observed.pause(now, length, is_newer);
        drop(held);
        if let Some(share) = ledger.share() {
            share.say_out(now, now.saturating_add(length), 0);
        }
        let id = ledger.quota().id();
        self.announce_limit(now, || format!("refused under the quota {id:?}, paused for {:.3} s", seconds(length)));
        true
    }

    /// Learns from a refusal for the rate how many requests may be in flight. It does so only where no limit
    /// is configured.
    pub(super) fn learn_concurrency(&self, held: &Held<'_>, sent_at: Nanos, now: Nanos) {
        let state = &*self.slot;
        // The refused request has left already, and still counts here.
        if self.services.learning.get().concurrency
            && !self.deployment().is_limited()
            && state.annex().cap.refused(sent_at, state.in_flight().saturating_add(1), now)
        {
            state.mark(held, mark::CAPPED, true);
            self.announce_limit(now, || format!("refused, at most {} in flight from now on", state.annex().cap.most()));
        }
    }

    /// Ends the pauses that the provider asked for before it served a request. `sent_at` is when that request
    /// was sent, if it had a lease.
    #[inline]
    pub(super) fn came_through(&self, _: &Held<'_>, sent_at: Option<Nanos>) {
        if self.slot.marks() & mark::OBSERVED != 0 {
            self.slot.annex().observed.came_through(sent_at);
        }
        if let Some(metering) = &self.metering {
            for ledger in metering.quotas().iter().filter(|ledger| ledger.observed().paused_until() != 0) {
                let _held = ledger.hold();
                ledger.observed().came_through(sent_at);
                if let Some(share) = ledger.share().filter(|_| ledger.observed().paused_until() == 0) {
                    share.say_back(self.services.clock.now());
                }
            }
        }
    }

    /// Forgets all that the provider has said of the deployment and of its quotas. The caller holds the lock
    /// of the deployment's counters.
    pub(super) fn forget_what_was_said(&self) {
        if let Some(annex) = self.slot.made_annex() {
            annex.observed.forget();
            annex.named_wait.clear();
        }
        for ledger in self.metering.iter().flat_map(|metering| metering.quotas()) {
            let _held = ledger.hold();
            ledger.observed().forget();
        }
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
