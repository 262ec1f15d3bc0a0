//! The judge of outcomes by the rules of `Health`: it decides what takes a deployment out, for how long, and
//! how the deployment comes back.
//!
//! A request that was sent before the end of the last cooldown says nothing of the time after it. The outcome
//! of such a request changes nothing here. So if many requests were in flight when a deployment broke, they
//! cause one cooldown and not many. Only a wait that the provider names counts at any time.

use crate::base::lock::Held;
use crate::base::rng::Rng;
use crate::base::time::Nanos;
use crate::counters::{State, mark};
use crate::health::{Breaker, Cause, Failure, FailureKind, HealthRules, Peers, Pool, Tally, has_come};

/// Judges a deployment's outcomes.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) rules: &'a HealthRules,
    /// The rules by which the group adds up outcomes, if it adds up this deployment's outcomes: see
    /// `Entry::pool_rules`.
    pub(super) pool_rules: Option<&'a HealthRules>,
    pub(super) jitter: &'a Rng,
    pub(super) now: Nanos,
    /// What other processes have counted, if they share the deployment.
    pub(super) others: Tally,
}

impl Judge<'_> {
    /// Records a success of a request that was sent at `sent_at`. Returns whether it ends the probation.
    pub(super) fn success(&self, state: &State, held: &Held<'_>, pool: &Pool, sent_at: Nanos) -> bool {
        let until = state.vitals.cooldown_until();
        let breaker = &state.annex().breaker;
        if !breaker.is_news(sent_at, until) {
            return false;
        }
        breaker.success(held, self.rules, self.now);
        self.count_in(pool, false);
        let passes = state.vitals.count_success(held) >= self.rules.success_threshold && until != 0;
        if passes {
            state.vitals.restore(held);
            breaker.pass(held, until);
        }
        self.tidy(state, held);
        passes
    }

    /// Records a failure that is not neutral. Returns whether it says something about the time since the last
    /// cooldown.
    pub(super) fn failure(&self, state: &State, held: &Held<'_>, peers: &Peers<'_>, failure: &Failure) -> bool {
        let until = state.vitals.cooldown_until();
        let breaker = &state.annex().breaker;
        let cause = Cause::Failure(failure.kind);
        let is_news = breaker.is_news(failure.sent_at, until);
        // In a panic, requests reach a deployment that is out. If it fails fast, only this penalty keeps more
        // of them away.
        if self.rules.failure_penalty > 0 && (is_news || peers.panic()) {
            breaker.penalize(held, self.rules, self.now);
            state.mark(held, mark::PENALIZED, true);
        }
        if !is_news {
            if let Some(wait) = failure.wait {
                self.wait(state, held, peers, wait, cause);
            }
            return false;
        }
        state.vitals.break_streak(held);
        if self.is_only_busy(peers, failure) {
            // No other deployment could serve, and nobody knows when this one will.
            return true;
        }
        let in_a_row = breaker.failure(held, self.rules, self.now);
        self.count_in(peers.pool, true);
        if let Some(wait) = failure.wait {
            // A deployment that is back too early again and again may be broken, whatever it says.
            let was_named = state.annex().named_wait.is(until) || breaker.has_short_waits(self.rules, self.now);
            let is_too_short = until != 0 && was_named && peers.has_as_fit(true, self.now);
            let least = if is_too_short { breaker.least_wait(held, self.rules, self.jitter, self.now, wait) } else { 0 };
            if least > wait {
                self.cool_down(state, held, peers.pool, least, cause);
                state.annex().named_wait.note_other(held, self.now.saturating_add(least));
            } else {
                self.wait(state, held, peers, wait, cause);
            }
        } else if failure.is_refusal() {
            self.trip(state, held, peers, cause);
        } else if let Some(cause) = self.verdict(breaker, peers, in_a_row, until != 0)
            && self.may_trip(peers, until != 0)
        {
            self.trip(state, held, peers, cause);
        }
        true
    }

    /// Cools down a deployment whose failure domain could not be reached. If the deployment is out already,
    /// its cooldown does not change.
    pub(super) fn domain_failed(&self, state: &State, held: &Held<'_>, peers: &Peers<'_>) {
        let until = state.vitals.cooldown_until();
        if has_come(until, self.now) && self.may_trip(peers, until != 0) {
            self.trip(state, held, peers, Cause::Domain);
        }
    }

    /// Takes a deployment out for this length of time. The next cooldown does not grow by that.
    pub(super) fn cool_down(&self, state: &State, held: &Held<'_>, pool: &Pool, length: Nanos, cause: Cause) {
        let breaker = &state.annex().breaker;
        let until = state.vitals.cooldown_until();
        state.vitals.cool_down(held, self.now, length);
        if state.vitals.cooldown_until() > until {
            breaker.set_cause(held, cause);
        }
        breaker.forget_outcomes(held, self.pool_rules.map(|_| pool));
        state.mark(held, mark::SLOW_START, false);
    }

    /// Returns whether the only deployment of a group refused for its rate and named no wait. A cooldown
    /// would have a guessed length. It would refuse requests that the deployment may serve the next moment.
    fn is_only_busy(&self, peers: &Peers<'_>, failure: &Failure) -> bool {
        let is_busy = failure.kind == FailureKind::RateLimit && failure.wait.is_none();
        is_busy && !self.rules.cool_last && peers.is_alone()
    }

    fn verdict(&self, breaker: &Breaker, peers: &Peers<'_>, in_a_row: u32, on_probation: bool) -> Option<Cause> {
        let own = breaker.tally(self.now);
        if on_probation {
            Some(Cause::Probation)
        } else if self.rules.is_too_many_in_a_row(in_a_row) {
            Some(Cause::Consecutive)
        } else if self.rules.is_too_large_a_share(own.with(self.others)) {
            Some(Cause::Rate)
        } else {
            let shared = self.pool_rules.filter(|rules| rules.is_outlier(own, peers.pool.without(own, self.now)));
            shared.map(|_| Cause::Outlier)
        }
    }

    /// Returns whether this deployment may be taken out: another deployment of the group is in at least as
    /// good a state, or the rules cool down the last one too.
    fn may_trip(&self, peers: &Peers<'_>, on_probation: bool) -> bool {
        self.rules.cool_last || peers.has_as_fit(on_probation, self.now)
    }

    fn trip(&self, state: &State, held: &Held<'_>, peers: &Peers<'_>, cause: Cause) {
        let breaker = &state.annex().breaker;
        let trips = breaker.trips(self.rules, self.now);
        let length = self.rules.cooldown(trips, self.jitter);
        breaker.trip(held, trips, self.now.saturating_add(length));
        self.cool_down(state, held, peers.pool, length, cause);
        state.annex().named_wait.note_other(held, self.now.saturating_add(length));
    }

    /// Takes a deployment out for the time that the provider named.
    fn wait(&self, state: &State, held: &Held<'_>, peers: &Peers<'_>, wait: Nanos, cause: Cause) {
        self.cool_down(state, held, peers.pool, wait, cause);
        state.annex().named_wait.note(held, self.now, wait);
    }

    /// Counts an outcome with those of the group.
    fn count_in(&self, pool: &Pool, failed: bool) {
        if let Some(rules) = self.pool_rules {
            pool.add(rules, self.now, failed);
        }
    }

    /// Takes away the marks of penalties and of a slow start that are over.
    fn tidy(&self, state: &State, held: &Held<'_>) {
        let has = |mark| state.marks() & mark != 0;
        if has(mark::PENALIZED) && state.penalty(self.now).0 == 0 {
            state.mark(held, mark::PENALIZED, false);
        }
        if has(mark::SLOW_START) && state.slow_start(self.rules, self.now).is_none() {
            state.mark(held, mark::SLOW_START, false);
        }
    }
}
