//! What the end of a request means for its deployment, the group and the failure domain.
//!
//! A failure that may take a deployment out is judged under the lock of the group's index, and the leaf is renewed under it too: so no
//! two deployments of a group, failing at once, each take the other for the one that stays.

use std::sync::Arc;

use crate::clock::{Nanos, Now, seconds};
use crate::events::{Event, EventKind};
use crate::health::{Cause, Domain, Failure, FailureKind, Judge};
use crate::index;
use crate::learn;
use crate::limits::Minute;
use crate::registry::{Common, Entry};
use crate::state::{Held, State};
use crate::wait;

/// A success as it came in.
pub(crate) struct Success {
    pub(crate) tokens: u64,
    pub(crate) latency_us: Option<u64>,
    /// When the request was sent.
    pub(crate) sent_at: Nanos,
}

/// A cooldown that began, was prolonged, or is thought of no more.
#[derive(Debug, Clone, Copy)]
enum Turn {
    None,
    Out { until: Nanos, cause: Option<Cause> },
    Back,
}

impl Turn {
    #[inline]
    fn between(before: Nanos, state: &State, now: Nanos, cause: Option<Cause>) -> Self {
        match state.health.cooldown_until() {
            0 if before != 0 => Self::Back,
            until if until > before.max(now) => Self::Out { until, cause: state.cause().or(cause) },
            _ => Self::None,
        }
    }
}

impl<T> Common<T> {
    fn judge(&self, now: Nanos) -> Option<Judge<'_>> {
        self.breaker.as_ref().map(|rules| Judge { rules, jitter: &self.jitter, now })
    }
}

impl<T> Entry<T> {
    /// Takes in a success. `count` takes the lock of the counters and says which minute counted the request; None if it was taken in before.
    pub(crate) fn succeed<'a>(
        &'a self,
        now: Nanos,
        success: &Success,
        count: impl FnOnce(&'a State) -> Option<(Held<'a>, Minute)>,
    ) -> bool {
        let (common, state) = (&self.common, &*self.slot);
        let Some((held, counted_in)) = count(state) else { return false };
        let before = state.health.cooldown_until();
        state.success(&held, now, counted_in, success.tokens, success.latency_us);
        match common.judge(now) {
            None => state.health.success(&held, &common.rules, now),
            Some(judge) => judge.success(state, &held, self.home.index.pool(), success.sent_at),
        }
        // A success ends a cooldown's probation, and begins nothing.
        let turn = if before == 0 { Turn::None } else { Turn::between(before, state, now, None) };
        drop(held);
        index::renew(self, &Now::at(&common.clock, now));
        if let Some(domain) = &self.domain {
            self.domain_succeeded(domain, now);
        }
        self.tell(turn, now);
        true
    }

    /// One of a failure domain, which there is only by the rules of the breaker, was reached.
    #[cold]
    fn domain_succeeded(&self, domain: &Domain<T>, now: Nanos) {
        if let Some(rules) = &self.common.breaker {
            domain.success(rules, now);
        }
    }

    /// Takes in a failure. For `count` see [`Entry::succeed`].
    pub(crate) fn fail<'a>(
        &'a self,
        now: Nanos,
        failure: &Failure,
        count: impl FnOnce(&'a State) -> Option<(Held<'a>, Minute)>,
    ) -> bool {
        let (common, state) = (&self.common, &*self.slot);
        let kind = failure.kind;
        let moment = Now::at(&common.clock, now);
        let Some(judge) = common.judge(now) else {
            let Some((held, counted_in)) = count(state) else { return false };
            let before = state.health.cooldown_until();
            if !kind.is_neutral() && !self.was_refused(&held, failure, now) {
                let minute = state.failure(&held, now, counted_in);
                state.health.failure(&held, &common.rules, now, kind, minute, failure.retry_after);
            }
            let turn = Turn::between(before, state, now, Some(Cause::Failure(kind)));
            drop(held);
            index::renew(self, &moment);
            self.tell(turn, now);
            return true;
        };
        let judged = index::change(self, &moment, |peers| {
            let (held, counted_in) = count(state)?;
            if kind.is_neutral() || self.was_refused(&held, failure, now) {
                return Some((false, Turn::None));
            }
            let before = state.health.cooldown_until();
            state.failure(&held, now, counted_in);
            let is_news = judge.failure(state, &held, peers, failure);
            Some((is_news, Turn::between(before, state, now, None)))
        });
        let Some((is_news, turn)) = judged else { return false };
        self.note(turn, now);
        if kind == FailureKind::Connection
            && is_news
            && let Some(domain) = &self.domain
            && domain.failure(judge.rules, now, self.deployment().shared_id())
        {
            for member in domain.members() {
                member.domain_failed(&judge);
            }
        }
        self.through();
        true
    }

    /// Whether a failure is no more than a refusal for the rate of a quota, which then is paused.
    fn was_refused(&self, held: &Held<'_>, failure: &Failure, now: Nanos) -> bool {
        let cooldown_time = self.common.breaker.map_or(self.common.rules.cooldown_time, |rules| rules.cooldown_time);
        let is_quotas = failure.kind == FailureKind::RateLimit
            && learn::refused(
                self,
                held,
                failure.has_lease.then_some(failure.sent_at),
                failure.retry_after.unwrap_or(cooldown_time),
                now,
            );
        if is_quotas {
            self.slot.failed_elsewhere(held);
        }
        is_quotas
    }

    /// Cools down with its failure domain.
    fn domain_failed(&self, judge: &Judge<'_>) {
        let state = &*self.slot;
        let turn = index::change(self, &Now::at(&self.common.clock, judge.now), |peers| {
            let held = state.hold();
            let before = state.health.cooldown_until();
            if self.is_registered() {
                judge.domain_failed(state, &held, peers);
            }
            Turn::between(before, state, judge.now, None)
        });
        // A group that panics lets more through than one that does not.
        self.tell(turn, judge.now);
    }

    /// Joins a group that has others.
    pub(crate) fn start_slowly(&self) {
        if let Some(judge) = self.common.judge(self.common.clock.now()) {
            judge.start_slowly(&self.slot, &self.slot.hold());
        }
    }

    /// Takes it out for a while.
    pub(crate) fn cool_down(&self, now: Nanos, length: Nanos) {
        self.change(now, |state, held, judge| match judge {
            None => state.health.cool_down(held, now, length),
            Some(judge) => judge.cool_down(state, held, self.home.index.pool(), length, Cause::Asked),
        });
    }

    /// Takes in what a health check of the application's own found.
    pub(crate) fn checked(&self, now: Nanos, healthy: bool) {
        self.change(now, |state, held, judge| {
            let probation_from = if judge.is_some() { now.max(1) } else { 0 };
            state.health.checked(held, now, healthy, probation_from);
        });
    }

    fn change(&self, now: Nanos, change: impl FnOnce(&State, &Held<'_>, Option<Judge<'_>>)) {
        let state = &*self.slot;
        let held = state.hold();
        let before = state.health.cooldown_until();
        change(state, &held, self.common.judge(now));
        let turn = Turn::between(before, state, now, Some(Cause::Asked));
        drop(held);
        index::renew(self, &Now::at(&self.common.clock, now));
        self.tell(turn, now);
    }

    /// Tells of a turn. No lock is held.
    fn tell(&self, turn: Turn, now: Nanos) {
        self.note(turn, now);
        self.through();
    }

    /// A change is through with, and no lock is held: whoever wants to know is told, and whoever waits for capacity.
    #[inline]
    pub(crate) fn through(&self) {
        self.common.events.deliver();
        wait::freed(self);
    }

    #[inline]
    fn note(&self, turn: Turn, now: Nanos) {
        if !matches!(turn, Turn::None) {
            self.note_turn(turn, now);
        }
    }

    #[cold]
    fn note_turn(&self, turn: Turn, now: Nanos) {
        let (kind, detail) = match turn {
            Turn::None => return,
            Turn::Out { until, cause } => (EventKind::Cooldown, Some((until, cause))),
            Turn::Back => (EventKind::Recovery, None),
        };
        self.common.events.note(|| Event {
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
