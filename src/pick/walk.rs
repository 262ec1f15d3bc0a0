//! The walk: gates, then the strategy. The same code picks, reserves and explains.
//!
//! The walk is generic over an [`Observer`]. [`Unobserved`] watches a pick and compiles to nothing. Another
//! observer takes notes for an explanation. So the code that decides is the code that explains.

use std::sync::Arc;

use crate::base::clock::Now;
use crate::base::error::{Error, Reasons, TooLarge, Unavailable};
use crate::base::position::Position;
use crate::base::rng::Rng;
use crate::base::time::{Nanos, seconds};
use crate::facts::{Request, Wishes};
use crate::gates::{Live, Refusal, Waived, available_at, check, exceeded};
use crate::group::{Attachment, Entry, Group, Services};
use crate::limits::OTHERS;
use crate::strategy::{Candidates, Chance, Rule, Strategy, Tiered, View, each_rule};

/// Watches a walk.
pub(super) trait Observer {
    /// Learns that a deployment passed every gate.
    fn passed(&mut self, position: Position);
    /// Learns that a gate stopped a deployment.
    fn stopped(&mut self, position: Position, refusal: Refusal);
    /// Learns that all deployments were checked. `assess` gives a candidate's score and probability; None if
    /// the rule does not look at it.
    fn assessed(&mut self, score_name: &'static str, assess: impl Fn(Position) -> Option<(f64, f64)>);
}

impl<O: Observer> Observer for &mut O {
    fn passed(&mut self, position: Position) {
        (**self).passed(position);
    }

    fn stopped(&mut self, position: Position, refusal: Refusal) {
        (**self).stopped(position, refusal);
    }

    fn assessed(&mut self, score_name: &'static str, assess: impl Fn(Position) -> Option<(f64, f64)>) {
        (**self).assessed(score_name, assess);
    }
}

/// Watches nothing.
pub(super) struct Unobserved;

impl Observer for Unobserved {
    #[inline]
    fn passed(&mut self, _: Position) {}

    #[inline]
    fn stopped(&mut self, _: Position, _: Refusal) {}

    #[inline]
    fn assessed(&mut self, _: &'static str, _: impl Fn(Position) -> Option<(f64, f64)>) {}
}

/// Chooses by the rule of the walk's group.
macro_rules! choose_by {
    ({ $walk:expr, $observer:expr }
     $( $(#[$doc:meta])* $variant:ident: $rule:ident, $name:literal [$($spelling:literal),*]; )*) => {
        match ($walk.group.order.strategy, $walk.group.order.tiers) {
            $( (Strategy::$variant, false) => $walk.choose_by::<crate::strategy::$rule>($observer), )*
            $( (Strategy::$variant, true) => $walk.choose_by::<Tiered<crate::strategy::$rule>>($observer), )*
        }
    };
}

/// Returns the earlier of two times that may not be known.
fn earlier(one: Option<Nanos>, other: Option<Nanos>) -> Option<Nanos> {
    one.into_iter().chain(other).min()
}

/// One pick from one group.
pub(super) struct Walk<'a, T: Attachment> {
    pub(super) group: &'a Group<T>,
    pub(super) request: &'a Request,
    pub(super) now: Now<'a>,
    pub(super) chance: Chance<'a>,
    services: &'a Services,
    /// The gates that were open to all at the last look at the group.
    pub(super) waived: Waived,
    /// Whether it does not matter what this process holds of limits that it shares with others.
    pub(super) waives_shared: bool,
    /// Candidates that other threads filled up between the pick and the reservation, with the refusal of
    /// each.
    lost: Vec<(Position, Refusal)>,
}

impl<'a, T: Attachment> Walk<'a, T> {
    #[inline]
    pub(super) fn new(group: &'a Group<T>, request: &'a Request, services: &'a Services, rng: &'a Rng, now: Now<'a>) -> Self {
        if group.index.words.ramp.is_on() {
            group.prepare_ramp(&now);
        }
        Self {
            group,
            request,
            now,
            chance: group.chance(rng, request),
            services,
            waived: Waived::default(),
            waives_shared: false,
            lost: Vec::new(),
        }
    }

    /// Finds out which gates are open to all deployments.
    fn waive(&mut self) {
        let rules = self.services.rules.get().health();
        let unhealthy = rules.is_some_and(|rules| rules.fail_open) && self.group.is_unhealthy();
        self.waived = Waived {
            health: self.group.panics(self.services, &self.now),
            unhealthy,
            slow_start: false,
            shared: self.waives_shared,
        };
        if self.group.index.words.ramp.is_on() {
            let stops = |refusal: Result<(), Refusal>| refusal.err().map(|refusal| matches!(refusal, Refusal::SlowStart { .. }));
            let mut verdicts = self.group.members().map(|(position, entry)| stops(self.check(position, entry)));
            let any = verdicts.try_fold(false, |any, by_slow_start| Some(any | by_slow_start?));
            drop(verdicts);
            self.waived.slow_start = any.unwrap_or(false);
        }
    }

    /// Drops a candidate whose last place another thread took.
    #[cold]
    pub(super) fn lose(&mut self, position: Position, refusal: Refusal) {
        self.lost.push((position, refusal));
    }

    /// Picks a member that passes every gate; None if none does.
    pub(super) fn choose(&mut self, observer: impl Observer) -> Option<Position> {
        self.waive();
        each_rule!(choose_by { self, observer })
    }

    fn choose_by<R: Rule>(&self, mut observer: impl Observer) -> Option<Position> {
        let candidates = Candidates::<R, _>::new(self.candidates(&mut observer), || self.candidates(Unobserved), self.chance.size);
        let (whole, picked) = (candidates.whole(), R::choose(&candidates, &self.chance));
        observer.assessed(R::SCORE, |position| {
            let candidate = self.live(self.group.member(position)?);
            let assessed = (R::score(&whole, &candidate), R::probability(&whole, picked, position, &candidate));
            R::competes(&whole, &candidate).then_some(assessed)
        });
        picked
    }

    fn candidates(&self, mut observer: impl Observer) -> impl Iterator<Item = (Position, Live<'_, 'a, T>)> {
        self.group.members().filter_map(move |(position, entry)| match self.check(position, entry) {
            Ok(()) => {
                observer.passed(position);
                Some((position, self.live(entry)))
            }
            Err(refusal) => {
                observer.stopped(position, refusal);
                None
            }
        })
    }

    fn live<'b>(&'b self, entry: &'b Entry<T>) -> Live<'b, 'a, T> {
        Live { entry, state: &entry.slot, now: &self.now }
    }

    #[inline]
    fn check(&self, position: Position, entry: &Entry<T>) -> Result<(), Refusal> {
        if let Some(&(_, refusal)) = self.lost.iter().find(|&&(lost, _)| lost == position) {
            return Err(refusal);
        }
        check(entry, &entry.slot, self.request, self.waived, &self.now)
    }

    /// Does what `refuse` does, by what the index has added up. `skips` are the places that the request
    /// excludes. None if only a walk can tell, or if a member passes.
    pub(super) fn refuse_by_index(&self, model_name: &Arc<str>, skips: &[Position]) -> Option<Error> {
        let narrows = |wishes: &Wishes| wishes.asks_for_labels() || wishes.only.is_some();
        if self.request.wishes.as_deref().is_some_and(narrows)
            || self.request.tokens > 1
            || self.request.split.is_some()
            || !self.lost.is_empty()
        {
            return None;
        }
        let spent = self.group.quotas.spent_until(self.request.into(), self.now.get());
        if spent.iter().any(|(quotas, _)| quotas & OTHERS != 0) {
            return None;
        }
        let (reasons, earliest) = self.group.index.lock().refusal(self.group.places(), &spent, skips, &self.now)?;
        Some(self.unavailable(model_name, reasons, earliest))
    }

    fn unavailable(&self, model_name: &Arc<str>, reasons: Reasons, earliest: Option<Nanos>) -> Error {
        Error::NoAvailableDeployment(Box::new(Unavailable {
            model_name: Arc::clone(model_name),
            retry_after: earliest.map(|at| self.seconds_to(at)),
            retry_at: earliest,
            is_asked_for: false,
            reasons,
        }))
    }

    /// Returns why no member passes; None if one does now.
    #[cold]
    pub(super) fn refuse(&mut self, model_name: &Arc<str>) -> Option<Error> {
        self.waive();
        let mut reasons = Reasons::default();
        // These are about members that the request itself does not rule out.
        let (mut earliest, mut largest_limit, mut may_fit) = (None, None, false);
        for (position, entry) in self.group.members() {
            let refusal = self.check(position, entry).err()?;
            reasons.add(refusal.gate(), 1);
            if !refusal.gate().is_wish() {
                let exceeded = exceeded(entry, self.request);
                may_fit |= exceeded.is_none();
                largest_limit = largest_limit.max(exceeded);
                earliest = earlier(earliest, available_at(entry, self.request, self.waived, &self.now));
            }
        }
        if let Some(largest_limit) = largest_limit
            && !may_fit
        {
            return Some(Error::RequestTooLarge(Box::new(TooLarge {
                model_name: Arc::clone(model_name),
                tokens: self.request.tokens,
                largest_limit,
            })));
        }
        Some(self.unavailable(model_name, reasons, earliest))
    }

    /// Returns seconds until the earliest time at which some member may be available.
    pub(super) fn retry_after(&self) -> Option<f64> {
        let times = self.group.members().map(|(_, entry)| available_at(entry, self.request, self.waived, &self.now));
        times.fold(None, earlier).map(|at| self.seconds_to(at))
    }

    fn seconds_to(&self, at: Nanos) -> f64 {
        seconds(at.saturating_sub(self.now.get()))
    }
}
