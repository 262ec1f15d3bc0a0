//! The effects of the end of a request on its deployment, the group and the failure domain.
//!
//! A failure that may take a deployment out is judged under the lock of the group's index. The leaf is
//! renewed under the same lock. So if two deployments of a group fail at once, it cannot happen that each of
//! them counts on the other to stay.

use std::sync::Arc;

use super::judge::Judge;
use super::receipt::charge_unleased;
use crate::base::clock::Now;
use crate::base::events::{Event, EventKind};
use crate::base::lock::Held;
use crate::base::time::{Nanos, seconds};
use crate::counters::State;
use crate::group::Entry;
use crate::health::{Cause, Domain, Failure, FailureKind, HealthRules, Rules, Scope, Tally, has_come};
use crate::limits::{Minute, Share, to_next_minute};

/// A success as it was reported.
pub(crate) struct Success {
    pub(crate) tokens: u64,
    pub(crate) latency_us: Option<u64>,
    /// When the request was sent.
    pub(crate) sent_at: Nanos,
    /// Whether the request had a lease of this router.
    pub(crate) has_lease: bool,
}

/// A change of a deployment: a cooldown began, became longer, or is forgotten.
#[derive(Debug, Clone, Copy)]
enum Passage {
    None,
    Out { until: Nanos, cause: Option<Cause> },
    Back,
}

impl Passage {
    #[inline]
    fn between(before: Nanos, state: &State, now: Nanos, cause: Option<Cause>) -> Self {
        match state.vitals.cooldown_until() {
            0 if before != 0 => Self::Back,
            until if until > before && !has_come(until, now) => Self::Out { until, cause: state.cause().or(cause) },
            _ => Self::None,
        }
    }
}

impl<T> Entry<T> {
    fn judge(&self, now: Nanos) -> Option<Judge<'_>> {
        self.rules().health().map(|rules| self.judge_by(rules, now))
    }

    fn judge_by<'a>(&'a self, rules: &'a HealthRules, now: Nanos) -> Judge<'a> {
        let (successes, failures) = self.share().map_or((0, 0), |share| share.outcomes(now));
        Judge { rules, pool_rules: self.pool_rules(), jitter: &self.services.jitter, now, others: Tally { successes, failures } }
    }

    // --- successes ---

    /// Records a success of a request that `counted_in` counted.
    pub(super) fn succeed(&self, held: Held<'_>, counted_in: Minute, now: Nanos, success: &Success) {
        let state = &*self.slot;
        let before = state.vitals.cooldown_until();
        state.success(&held, self.services.clock.wall_at(now), counted_in, success.tokens, success.latency_us);
        let heir = self.heir();
        let judged = heir.as_deref().unwrap_or(self);
        if before != 0 && success.has_lease {
            judged.end_named_wait(&held, now, success.sent_at);
        }
        match judged.rules() {
            Rules::Minute(rules) => state.vitals.success(&held, rules, now),
            Rules::Health(rules) => {
                let judge = judged.judge_by(rules, now);
                if judge.success(state, &held, &judged.home.index.words.pool, success.sent_at) {
                    judged.start_slowly(&held, now);
                }
            }
        }
        self.came_through(&held, success.has_lease.then_some(success.sent_at));
        // While nothing fails, successes tell nobody anything.
        if judged.share().is_some_and(Share::has_failed) {
            judged.say_outcomes(now);
        }
        // A success may end a probation. It begins nothing.
        let passage = if before == 0 { Passage::None } else { Passage::between(before, state, now, None) };
        drop(held);
        self.renew(&Now::at(&self.services.clock, now));
        if let Some(domain) = &judged.domain {
            self.domain_succeeded(domain, now);
        }
        judged.announce(passage, now);
        self.finish();
    }

    /// Records that the provider has said nothing but good of its limits, to a request that was sent at
    /// `sent_at`.
    pub(super) fn hear_good_news(&self, now: Nanos, sent_at: Nanos) {
        let (heir, state) = (self.heir(), &*self.slot);
        let entry = heir.as_deref().unwrap_or(self);
        let held = state.hold();
        let before = state.vitals.cooldown_until();
        entry.end_named_wait(&held, now, sent_at);
        let passage = Passage::between(before, state, now, None);
        drop(held);
        entry.announce(passage, now);
    }

    /// Ends a cooldown whose length the provider named, if it has answered a request that was sent later. A
    /// cooldown that began for another reason stays.
    fn end_named_wait(&self, held: &Held<'_>, now: Nanos, sent_at: Nanos) {
        let (vitals, until) = (&self.slot.vitals, self.slot.vitals.cooldown_until());
        let Some(annex) = self.slot.made_annex().filter(|annex| !has_come(until, now) && annex.named_wait.is_older(until, sent_at))
        else {
            return;
        };
        let other = annex.named_wait.other_until();
        annex.named_wait.clear();
        vitals.end_cooldown(held, if has_come(other, now) { self.probation_from(now) } else { other });
    }

    /// Returns when a probation begins that begins now; 0 if the rules keep no such time.
    fn probation_from(&self, now: Nanos) -> Nanos {
        if self.rules().health().is_some() { now.max(1) } else { 0 }
    }

    /// Records a success of a request that was sent without a lease.
    pub(crate) fn record_success(&self, now: Nanos, tokens: u64, latency_us: Option<u64>) {
        let held = self.slot.hold();
        let counted_in = charge_unleased(self, &held, tokens, now);
        self.succeed(held, counted_in, now, &Success { tokens, latency_us, sent_at: now, has_lease: false });
    }

    /// Tells its failure domain that it was reached.
    #[cold]
    fn domain_succeeded(&self, domain: &Domain<Self>, now: Nanos) {
        if let Some(rules) = self.services.rules.get().health() {
            domain.success(rules, now);
        }
    }

    // --- failures ---

    /// Records a failure. `count` takes the lock of the counters and says which minute counted the request;
    /// None if the request has already ended. Returns whether this call ended it.
    pub(super) fn fail<'a>(&'a self, now: Nanos, failure: &Failure, count: impl FnOnce() -> Option<(Held<'a>, Minute)>) -> bool {
        let state = &*self.slot;
        let moment = Now::at(&self.services.clock, now);
        let heir = self.heir();
        let judged = heir.as_deref().unwrap_or(self);
        match judged.rules() {
            Rules::Minute(rules) => {
                let Some((held, counted_in)) = count() else { return false };
                let before = state.vitals.cooldown_until();
                if !failure.kind.is_neutral() && !self.was_refused(&held, failure, now) {
                    let mut minute = state.failure(&held, moment.wall(), counted_in);
                    judged.say_outcomes(now);
                    let (successes, failures) = judged.share().map_or((0, 0), |share| share.outcomes(now));
                    minute.requests = minute.requests.saturating_add(successes).saturating_add(failures);
                    minute.fails = minute.fails.saturating_add(u32::try_from(failures).unwrap_or(u32::MAX));
                    let trips = state.vitals.failure(&held, rules, now, failure.kind, minute, failure.wait);
                    if let Some(wait) = failure.wait {
                        state.annex().named_wait.note(&held, now, wait);
                    } else if trips {
                        state.annex().named_wait.note_other(&held, now.saturating_add(rules.cooldown_time));
                    }
                }
                let passage = Passage::between(before, state, now, Some(Cause::Failure(failure.kind)));
                drop(held);
                self.renew(&moment);
                judged.announce(passage, now);
            }
            Rules::Health(rules) => {
                let judge = judged.judge_by(rules, now);
                let outcome = self.change(&moment, |peers| {
                    let (held, counted_in) = count()?;
                    if failure.kind.is_neutral() || self.was_refused(&held, failure, now) {
                        return Some((false, Passage::None));
                    }
                    let before = state.vitals.cooldown_until();
                    state.failure(&held, moment.wall(), counted_in);
                    let is_news = judge.failure(state, &held, peers, failure);
                    judged.say_outcomes(now);
                    Some((is_news, Passage::between(before, state, now, None)))
                });
                let Some((is_news, passage)) = outcome else { return false };
                judged.announce(passage, now);
                if is_news && failure.kind == FailureKind::Connection && judged.is_registered() {
                    judged.tell_domain(now);
                }
            }
        }
        self.finish();
        true
    }

    /// Records a failure of a request that was sent without a lease.
    pub(crate) fn record_failure(&self, now: Nanos, kind: FailureKind, retry_after: Option<Nanos>, scope: Option<Scope>) {
        let heard = self.hear(&[], retry_after);
        let failure = heard.failure(self, kind, scope, now, false);
        self.fail(now, &failure, || {
            let held = self.slot.hold();
            let counted_in = charge_unleased(self, &held, 0, now);
            Some((held, counted_in))
        });
    }

    /// Tells its failure domain that it could not be reached.
    fn tell_domain(&self, now: Nanos) {
        if let (Some(domain), Some(rules)) = (&self.domain, self.services.rules.get().health())
            && domain.failure(rules, now, self.deployment().shared_id())
        {
            for member in domain.members() {
                member.domain_failed(now);
            }
        }
    }

    /// Returns whether a failure is only a refusal for the rate of a quota. If so, the quota is paused.
    fn was_refused(&self, held: &Held<'_>, failure: &Failure, now: Nanos) -> bool {
        if failure.kind != FailureKind::RateLimit {
            return false;
        }
        let is_quotas = failure.quota.is_some_and(|nth| self.pause_quota(nth, failure, now));
        if is_quotas {
            self.slot.failed_elsewhere(held);
        } else if failure.has_lease {
            self.learn_concurrency(held, failure.sent_at, now);
        }
        is_quotas
    }

    /// Cools down with its failure domain, if its rules know domains.
    fn domain_failed(&self, now: Nanos) {
        let Some(judge) = self.judge(now) else { return };
        let state = &*self.slot;
        let passage = self.change(&Now::at(&self.services.clock, now), |peers| {
            let held = state.hold();
            let before = state.vitals.cooldown_until();
            if self.is_registered() {
                judge.domain_failed(state, &held, peers);
            }
            Passage::between(before, state, now, None)
        });
        self.announce(passage, now);
        // This wakes waiters too: a group that panics lets more requests through than one that does not.
        self.finish();
    }

    // --- what the application says ---

    /// Takes it out for a while.
    pub(crate) fn cool_down(&self, now: Nanos, length: Nanos) {
        self.change_health(now, |state, held, judge| {
            match judge {
                None => state.vitals.cool_down(held, now, length),
                Some(judge) => judge.cool_down(state, held, &self.home.index.words.pool, length, Cause::Asked),
            }
            state.annex().named_wait.note_other(held, now.saturating_add(length));
        });
    }

    /// Records what a health check of the application's own found. A check that passes ends all that the
    /// provider has said before.
    pub(crate) fn report_health(&self, now: Nanos, healthy: bool) {
        self.change_health(now, |state, held, _| {
            state.vitals.report_health(held, now, healthy, self.probation_from(now));
            if healthy {
                self.forget_what_was_said();
            }
        });
        if let Some(share) = self.share().filter(|_| healthy) {
            share.say_back(now);
        }
    }

    fn share(&self) -> Option<&Share> {
        self.metering.as_ref()?.share()
    }

    /// Tells other processes how its requests ended lately.
    fn say_outcomes(&self, now: Nanos) {
        let Some(share) = self.share() else { return };
        match self.rules() {
            Rules::Minute(_) => {
                let wall = self.services.clock.wall_at(now);
                let minute = self.slot.window.counts(wall);
                let fails = u64::from(minute.fails);
                share.say_outcomes(minute.requests.saturating_sub(fails), fails, now.saturating_add(to_next_minute(wall)));
            }
            Rules::Health(rules) => {
                if let Some(breaker) = self.slot.made_breaker() {
                    let tally = breaker.tally(now);
                    share.say_outcomes(tally.successes, tally.failures, now.saturating_add(rules.window));
                }
            }
        }
    }

    /// Takes it out until a time, since another process did.
    pub(super) fn go_out(&self, now: Nanos, until: Nanos, cause: Cause) {
        let length = until.saturating_sub(now);
        self.change_health(now, |state, held, judge| {
            match judge {
                None => state.vitals.cool_down(held, now, length),
                Some(judge) => judge.cool_down(state, held, &self.home.index.words.pool, length, cause),
            }
            state.annex().named_wait.note_other(held, until);
        });
    }

    /// Ends its probation, since it passed that of another process.
    pub(super) fn come_back(&self, now: Nanos) {
        let until = self.slot.vitals.cooldown_until();
        if until == 0 {
            return;
        }
        self.change_health(now, |state, held, _| {
            state.vitals.restore(held);
            if let Some(breaker) = state.made_breaker() {
                breaker.pass(held, until);
            }
            self.start_slowly(held, now);
        });
    }

    fn change_health(&self, now: Nanos, change: impl FnOnce(&State, &Held<'_>, Option<Judge<'_>>)) {
        let state = &*self.slot;
        let held = state.hold();
        let before = state.vitals.cooldown_until();
        change(state, &held, self.judge(now));
        let passage = Passage::between(before, state, now, Some(Cause::Asked));
        drop(held);
        self.renew(&Now::at(&self.services.clock, now));
        self.announce(passage, now);
        self.finish();
    }

    // --- events ---

    /// Notes an event about a change, if there was one.
    #[inline]
    fn announce(&self, passage: Passage, now: Nanos) {
        if !matches!(passage, Passage::None) && self.is_registered() {
            self.announce_passage(passage, now);
        }
    }

    #[cold]
    fn announce_passage(&self, passage: Passage, now: Nanos) {
        let (kind, detail) = match passage {
            Passage::None => return,
            Passage::Out { until, cause } => (EventKind::Cooldown, Some((until, cause))),
            Passage::Back => (EventKind::Recovery, None),
        };
        if let Some(share) = self.share() {
            match detail {
                Some((until, cause)) => share.say_out(now, until, cause.map_or(0, Cause::code)),
                None => share.say_back(now),
            }
        }
        self.services.events.note(|| Event {
            kind,
            deployment_id: Some(Arc::clone(self.deployment().shared_id())),
            model_name: Arc::clone(self.deployment().shared_model_name()),
            at: now,
            detail: detail.map_or_else(
                || "back in service".to_owned(),
                |(until, cause)| {
                    let cause = cause.map(|cause| format!("{cause}, ")).unwrap_or_default();
                    format!("{cause}out for {:.3} s", seconds(until.saturating_sub(now)))
                },
            ),
        });
    }
}
