//! What the rules of `Health` make of outcomes: what trips a deployment, how long it is out, and how it comes
//! back.
//!
//! A request that was sent before the last cooldown ended says nothing of the time after it. Such a late
//! outcome changes nothing here. So the many requests that were in flight when a deployment broke are one
//! reason for a cooldown and not many. Only a wait that the provider names is honoured whenever it comes.

use crate::base::lock::Held;
use crate::base::rng::Rng;
use crate::base::time::Nanos;
use crate::counters::{State, mark};
use crate::health::{Breaker, Cause, Failure, FailureKind, HealthRules, Peers, Pool, has_come};

/// What judges a deployment's outcomes.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) rules: &'a HealthRules,
    /// The rules by which the group adds up outcomes, if it adds up this deployment's: see
    /// `Entry::pool_rules`.
    pub(super) pool_rules: Option<&'a HealthRules>,
    pub(super) jitter: &'a Rng,
    pub(super) now: Nanos,
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

    /// Records a failure that is not neutral. Returns whether it says anything of the time since the last
    /// cooldown.
    pub(super) fn failure(&self, state: &State, held: &Held<'_>, peers: &Peers<'_>, failure: &Failure) -> bool {
        let until = state.vitals.cooldown_until();
        let breaker = &state.annex().breaker;
        let cause = Cause::Failure(failure.kind);
        let is_news = breaker.is_news(failure.sent_at, until);
        // A panic lets requests through to a deployment that is out, and nothing else keeps them from one
        // that fails fast.
        if self.rules.failure_penalty > 0 && (is_news || peers.panic()) {
            breaker.penalize(held, self.rules, self.now);
            state.mark(held, mark::PENALIZED, true);
        }
        if !is_news {
            if let Some(wait) = failure.wait {
                self.cool_down(state, held, peers.pool, wait, cause);
            }
            return false;
        }
        let in_a_row = breaker.failure(held, self.rules, self.now);
        self.count_in(peers.pool, true);
        state.vitals.break_streak(held);
        if self.is_only_busy(peers, failure) {
            // There is nobody else to serve, and no time at which it will.
        } else if failure.is_refusal() {
            self.trip(state, held, peers, cause, failure.wait);
        } else if let Some(cause) = self.verdict(breaker, peers, in_a_row, until != 0)
            && self.may_trip(peers, until != 0)
        {
            self.trip(state, held, peers, cause, failure.wait);
        }
        true
    }

    /// Cools down a deployment whose failure domain could not be reached. One that is out already stays out
    /// for as long as it is.
    pub(super) fn domain_failed(&self, state: &State, held: &Held<'_>, peers: &Peers<'_>) {
        let until = state.vitals.cooldown_until();
        if has_come(until, self.now) && self.may_trip(peers, until != 0) {
            self.trip(state, held, peers, Cause::Domain, None);
        }
    }

    /// Takes a deployment out for a length of time that was asked for. The next cooldown does not grow by
    /// that.
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

    /// Returns whether the only deployment of a group refused for its rate and named no wait. A cooldown of a
    /// guessed length would refuse what it might serve the next moment.
    fn is_only_busy(&self, peers: &Peers<'_>, failure: &Failure) -> bool {
        let is_busy = failure.kind == FailureKind::RateLimit && failure.wait.is_none();
        is_busy && !self.rules.cool_last && peers.is_alone()
    }

    fn verdict(&self, breaker: &Breaker, peers: &Peers<'_>, in_a_row: u32, on_probation: bool) -> Option<Cause> {
        let own = breaker.tally(self.rules, self.now);
        if on_probation {
            Some(Cause::Probation)
        } else if self.rules.is_too_many_in_a_row(in_a_row) {
            Some(Cause::Consecutive)
        } else if self.rules.is_too_large_a_share(own) {
            Some(Cause::Rate)
        } else {
            let shared = self.pool_rules.filter(|rules| rules.is_outlier(own, peers.pool.without(own, rules, self.now)));
            shared.map(|_| Cause::Outlier)
        }
    }

    /// Returns whether this one can be spared, since another deployment of the group is in as good a state.
    fn may_trip(&self, peers: &Peers<'_>, on_probation: bool) -> bool {
        self.rules.cool_last || peers.has_as_fit(on_probation, self.now)
    }

    fn trip(&self, state: &State, held: &Held<'_>, peers: &Peers<'_>, cause: Cause, wait: Option<Nanos>) {
        let length = wait.unwrap_or_else(|| {
            let breaker = &state.annex().breaker;
            let trips = breaker.trips(self.rules, self.now);
            let length = self.rules.cooldown(trips, self.jitter);
            breaker.trip(held, trips, self.now.saturating_add(length));
            length
        });
        self.cool_down(state, held, peers.pool, length, cause);
    }

    /// Counts an outcome with those of the group.
    fn count_in(&self, pool: &Pool, failed: bool) {
        if let Some(rules) = self.pool_rules {
            pool.add(rules, self.now, failed);
        }
    }

    /// Takes away the marks of what is over.
    fn tidy(&self, state: &State, held: &Held<'_>) {
        let has = |mark| state.marks() & mark != 0;
        if has(mark::PENALIZED) && state.penalty(self.rules, self.now).0 == 0 {
            state.mark(held, mark::PENALIZED, false);
        }
        if has(mark::SLOW_START) && state.slow_start(self.rules, self.now).is_none() {
            state.mark(held, mark::SLOW_START, false);
        }
    }
}
