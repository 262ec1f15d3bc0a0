//! Gates, then the strategy: the one walk that picks, reserves and explains.
//!
//! The walk is generic over an [`Observer`]. A pick is watched by [`Unobserved`], which compiles to nothing; an explanation by one
//! that takes notes. So the code that decides is the code that explains.

use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::clock::{Nanos, Now, seconds};
use crate::context::{Candidate, Usage};
use crate::error::{Error, Reasons, TooLarge, Unavailable};
use crate::group::Group;
use crate::health::Cause;
use crate::learn::Lack;
use crate::limits::{Short, Spent, Unit, to_next_minute};
use crate::registry::{Attachment, Common, Entry};
use crate::rng::Rng;
use crate::state::{State, mark};
use crate::strategy::{
    Chance, LeastBusy, LowestLatency, LowestPriority, LowestUsage, Position, RateLimitAware, RoundRobin, Rule, Strategy,
    WeightedRandom, settle_on, sum_up_all,
};

/// What a pick is for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The tokens it is expected to use.
    pub tokens: u64,
    /// How many of these are the prompt's and the answer's, if that is known.
    pub split: Option<(u64, u64)>,
    /// Which deployments it can use; None for all of the group.
    pub wishes: Option<Box<Wishes>>,
}

/// Which deployments a request can use.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Labels the deployment must have. An index takes the same ones in another order for others.
    pub tags: Vec<String>,
    /// One of the labels is enough.
    pub any_tag: bool,
    /// Ids that must not be picked.
    pub exclude: FxHashSet<String>,
}

impl Wishes {
    pub(crate) fn accepts_tags(&self, tags: &[Arc<str>]) -> bool {
        let has = |wanted: &String| tags.iter().any(|tag| **tag == **wanted);
        self.tags.is_empty() || if self.any_tag { self.tags.iter().any(has) } else { self.tags.iter().all(has) }
    }

    fn rule_in<T>(&self, entry: &Entry<T>) -> Result<(), Refusal> {
        if !self.accepts_tags(entry.deployment().tags()) {
            return Err(Refusal::Tags);
        }
        if self.exclude.contains(entry.deployment().id()) {
            return Err(Refusal::Excluded);
        }
        Ok(())
    }
}

impl Request {
    /// A request of unknown size still needs a token to be left.
    pub(crate) fn least_tokens(&self) -> u64 {
        self.tokens.max(1)
    }

    /// Whether it takes no prompt or no answer, and so may pass where a request of unknown size would not.
    #[inline]
    pub(crate) fn lacks_part(&self) -> bool {
        self.split.is_some_and(|(input, output)| input == 0 || output == 0)
    }

    /// Whether the request itself leaves a deployment in.
    #[inline(always)]
    #[allow(clippy::inline_always)] // see `gate_alone`
    pub(crate) fn rules_in<T>(&self, entry: &Entry<T>) -> Result<(), Refusal> {
        match &self.wishes {
            None => Ok(()),
            Some(wishes) => wishes.rule_in(entry),
        }
    }
}

/// The gate that stopped a deployment, with the numbers that did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It lacks the tags asked for.
    Tags,
    /// The request excludes it.
    Excluded,
    /// It is cooling down.
    CoolingDown {
        /// Nanoseconds until that ends.
        ends_in: Nanos,
        /// Why, by the rules of the breaker.
        cause: Option<Cause>,
    },
    /// A health check took it out.
    Unhealthy,
    /// It is on probation, and another request has the one place there is.
    Probation,
    /// Every place in flight is taken.
    MaxParallelRequests {
        /// Leases in flight.
        in_flight: u32,
        /// The most there may be.
        limit: u32,
    },
    /// Every request of this minute is spent.
    RpmLimit {
        /// Requests counted.
        used: u64,
        /// The most there may be.
        limit: u64,
        /// Nanoseconds until the next minute.
        frees_in: Nanos,
    },
    /// Too few tokens of this minute are left.
    TpmLimit {
        /// Tokens counted.
        used: u64,
        /// Tokens asked for.
        asked: u64,
        /// The most there may be.
        limit: u64,
        /// Nanoseconds until the next minute.
        frees_in: Nanos,
    },
    /// Another limit of its own is spent.
    Limit(Spent),
    /// Every place in flight is taken that refusals have taught to use.
    LearntParallel {
        /// Leases in flight.
        in_flight: u32,
        /// The most there may be.
        limit: u32,
    },
    /// The provider said that too little is left.
    ObservedLimit(Lack),
    /// A limit of a quota that it is under is spent.
    Quota {
        /// Which of its quotas, in the order of their locks.
        nth: u32,
        /// Which of the quota's limits, and why.
        spent: Spent,
    },
    /// The provider said that too little of a quota is left.
    ObservedQuota {
        /// Which of its quotas, in the order of their locks.
        nth: u32,
        /// Why.
        lack: Lack,
    },
    /// It has returned or joined, and its share is still small. Ignored where nobody else is left.
    SlowStart {
        /// Its share, in percent.
        percent: u64,
        /// Nanoseconds until that may let it pass.
        next_in: Nanos,
    },
}

impl Refusal {
    /// The names of the gates, in their order.
    pub const GATES: [&'static str; 13] = [
        "tags",
        "excluded",
        "cooling_down",
        "unhealthy",
        "probation",
        "max_parallel_requests",
        "rpm_limit",
        "tpm_limit",
        "limit",
        "learnt_parallel_requests",
        "observed_limit",
        "slow_start",
        "quota",
    ];

    pub(crate) const fn order(&self) -> usize {
        match self {
            Self::Tags => 0,
            Self::Excluded => 1,
            Self::CoolingDown { .. } => 2,
            Self::Unhealthy => 3,
            Self::Probation => 4,
            Self::MaxParallelRequests { .. } => 5,
            Self::RpmLimit { .. } => 6,
            Self::TpmLimit { .. } => 7,
            Self::Limit(_) => 8,
            Self::LearntParallel { .. } => 9,
            Self::ObservedLimit(_) => 10,
            Self::SlowStart { .. } => 11,
            Self::Quota { .. } | Self::ObservedQuota { .. } => 12,
        }
    }

    /// The name of the gate.
    #[must_use]
    pub fn gate(&self) -> &'static str {
        Self::GATES.get(self.order()).copied().unwrap_or_default()
    }
}

/// Which limit or quota it is that stopped a deployment, [`Entry::describe`] says.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Tags => f.write_str("lacks the tags asked for"),
            Self::Excluded => f.write_str("excluded by the request"),
            Self::CoolingDown { ends_in, cause: None } => write!(f, "cooling down, ends in {:.1} s", seconds(ends_in)),
            Self::CoolingDown { ends_in, cause: Some(cause) } => {
                write!(f, "cooling down ({cause}), ends in {:.1} s", seconds(ends_in))
            }
            Self::Unhealthy => f.write_str("reported unhealthy"),
            Self::Probation => f.write_str("on probation, and its one place is taken"),
            Self::MaxParallelRequests { in_flight, limit } => write!(f, "in flight {in_flight}/{limit}"),
            Self::RpmLimit { used, limit, frees_in } => write!(f, "rpm {used}/{limit}, frees in {:.1} s", seconds(frees_in)),
            Self::TpmLimit { asked, limit, .. } if asked > limit => write!(f, "tpm limit {limit}, {asked} asked for: never fits"),
            Self::TpmLimit { used, asked, limit, frees_in } => {
                write!(f, "tpm {used}/{limit}, {asked} asked for, frees in {:.1} s", seconds(frees_in))
            }
            Self::Limit(spent) | Self::Quota { spent, .. } => spent.fmt(f),
            Self::LearntParallel { in_flight, limit } => write!(f, "in flight {in_flight}/{limit}, learnt from refusals"),
            Self::ObservedLimit(lack) | Self::ObservedQuota { lack, .. } => lack.fmt(f),
            Self::SlowStart { percent, next_in } => {
                write!(f, "slow start, a candidate {percent} % of the time, next try in {:.1} s", seconds(next_in))
            }
        }
    }
}

/// The gates that are open to all, since too few would be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Waived {
    /// The gates of health: the group panics.
    pub(crate) health: bool,
    pub(crate) slow_start: bool,
}

/// Lets a deployment pass, or names the first gate that stops it, as far as that depends on the deployment alone: an index can keep it.
///
/// The clock is read only where a number would stop the deployment that a new minute or an elapsed cooldown might have freed.
#[inline(always)]
#[allow(clippy::inline_always)] // most requests ask for nothing special, and where that is known much of this goes
pub(crate) fn gate_alone<T>(
    entry: &Entry<T>,
    state: &State,
    request: &Request,
    waived: Waived,
    now: &Now<'_>,
) -> Result<(), Refusal> {
    request.rules_in(entry)?;
    let cooldown_until = state.health.cooldown_until();
    if cooldown_until != 0 && now.get() < cooldown_until && !waived.health {
        now.note_change(cooldown_until);
        return Err(Refusal::CoolingDown { ends_in: cooldown_until - now.get(), cause: state.cause() });
    }
    if state.health.is_unhealthy() && !waived.health {
        return Err(Refusal::Unhealthy);
    }
    // Nobody has the place where the rules know of none.
    if cooldown_until != 0 && state.is_probed() && !waived.health {
        return Err(Refusal::Probation);
    }
    let deployment = entry.deployment();
    if let Some(limit) = deployment.max_parallel_requests() {
        let in_flight = state.in_flight();
        if in_flight >= limit {
            return Err(Refusal::MaxParallelRequests { in_flight, limit });
        }
    }
    if let Some(limit) = deployment.rpm_limit()
        && state.window.requests_at_most() >= limit
    {
        let used = state.window.counts(now.get()).requests;
        if used >= limit {
            return Err(Refusal::RpmLimit { used, limit, frees_in: minute_ends_in(now) });
        }
    }
    if let Some(limit) = deployment.tpm_limit() {
        let asked = request.least_tokens();
        if limit.saturating_sub(state.window.tokens_at_most()) < asked {
            let used = state.window.counts(now.get()).tokens;
            if limit.saturating_sub(used) < asked {
                return Err(Refusal::TpmLimit { used, asked, limit, frees_in: minute_ends_in(now) });
            }
        }
    }
    let marks = state.marks();
    if marks == 0 { Ok(()) } else { gate_marked(entry, state, marks, request, waived, now) }
}

/// The gates that few deployments have.
#[inline(never)]
fn gate_marked<T>(
    entry: &Entry<T>,
    state: &State,
    marks: u32,
    request: &Request,
    waived: Waived,
    now: &Now<'_>,
) -> Result<(), Refusal> {
    if let Some(metering) = &entry.metering
        && let Some(spent) = metering.lacks(request.into(), now.get())
    {
        now.note_change(now.get().saturating_add(spent.frees_in));
        return Err(Refusal::Limit(spent));
    }
    // Limits may have been configured since the cap was learnt.
    if marks & mark::CAPPED != 0 && !entry.deployment().is_limited() {
        let (in_flight, limit) = (state.in_flight(), state.annex().cap.most());
        if in_flight >= limit {
            return Err(Refusal::LearntParallel { in_flight, limit });
        }
    }
    if marks & mark::OBSERVED != 0
        && let Some(lack) = state.annex().observed.lacks(request.into(), now.get())
    {
        now.note_change(now.get().saturating_add(lack.ends_in));
        return Err(Refusal::ObservedLimit(lack));
    }
    if marks & mark::SLOW_START != 0 && !waived.slow_start {
        return slow_start(entry, state, now);
    }
    Ok(())
}

/// As [`gate_alone`], and the quotas that it shares with others.
#[inline]
pub(crate) fn gate<T>(entry: &Entry<T>, state: &State, request: &Request, waived: Waived, now: &Now<'_>) -> Result<(), Refusal> {
    gate_alone(entry, state, request, waived, now)?;
    if state.marks() & mark::METERED == 0 { Ok(()) } else { gate_quotas(entry, request, now) }
}

#[inline(never)]
fn gate_quotas<T>(entry: &Entry<T>, request: &Request, now: &Now<'_>) -> Result<(), Refusal> {
    let Some(metering) = &entry.metering else { return Ok(()) };
    match metering.quota_lacks(request.into(), now.get()) {
        Some((nth, Short::Spent(spent))) => Err(Refusal::Quota { nth, spent }),
        Some((nth, Short::Observed(lack))) => Err(Refusal::ObservedQuota { nth, lack }),
        None => Ok(()),
    }
}

#[cold]
fn slow_start<T>(entry: &Entry<T>, state: &State, now: &Now<'_>) -> Result<(), Refusal> {
    let slice = entry.common.breaker.as_ref().and_then(|rules| state.slow_start(rules, now.get()));
    let Some(slice) = slice else { return Ok(()) };
    now.note_change(slice.ends_at);
    if slice.is_open {
        return Ok(());
    }
    Err(Refusal::SlowStart { percent: slice.percent, next_in: slice.ends_at.saturating_sub(now.get()) })
}

/// Nanoseconds to the next minute, which changes what was just read.
#[inline]
fn minute_ends_in(now: &Now<'_>) -> Nanos {
    let left = to_next_minute(now.get());
    now.note_change(now.get().saturating_add(left));
    left
}

/// The tokens that a deployment has left.
pub(crate) struct TokensLeft {
    /// So many for any request.
    pub(crate) tokens: u64,
    /// From when on there may be more; None if time makes them no more.
    pub(crate) refills_at: Option<Nanos>,
    /// Whether there may be more already for some requests: see [`Metering::tokens_left`](crate::limits::Metering::tokens_left).
    pub(crate) is_least: bool,
}

/// Whether a request may pass the gates that takes no part of some kind, where one without wishes does not.
pub(crate) fn limits_parts<T>(entry: &Entry<T>, state: &State, now: &Now<'_>) -> bool {
    entry.metering.as_ref().is_some_and(|metering| metering.limits_parts())
        || (state.marks() & mark::OBSERVED != 0 && state.annex().observed.active(now.get()).any(|(unit, ..)| unit.is_part()))
}

#[inline(always)]
#[allow(clippy::inline_always)] // see `gate_alone`
pub(crate) fn tokens_left<T>(entry: &Entry<T>, state: &State, now: &Now<'_>) -> TokensLeft {
    let tokens = match entry.deployment().tpm_limit() {
        Some(limit) if state.window.tokens_at_most() != 0 => {
            minute_ends_in(now);
            limit.saturating_sub(state.window.counts(now.get()).tokens)
        }
        limit => limit.unwrap_or(u64::MAX),
    };
    if state.marks() == 0 {
        TokensLeft { tokens, refills_at: now.take_change(), is_least: false }
    } else {
        tokens_left_marked(entry, state, tokens, now)
    }
}

/// As [`tokens_left`], of what the minute leaves.
#[inline(never)]
fn tokens_left_marked<T>(entry: &Entry<T>, state: &State, mut tokens: u64, now: &Now<'_>) -> TokensLeft {
    let mut is_least = false;
    if let Some(metering) = &entry.metering {
        let own = metering.tokens_left(now);
        tokens = tokens.min(own.0);
        is_least = own.1;
    }
    if state.marks() & mark::OBSERVED != 0 {
        for (unit, observed, until) in state.annex().observed.active(now.get()) {
            if unit != Unit::Requests {
                is_least |= unit.is_part();
                tokens = tokens.min(observed);
                now.note_change(until);
            }
        }
    }
    TokensLeft { tokens, refills_at: now.take_change(), is_least }
}

/// The smallest limit of a deployment that a request is too large for, now and ever; None if it may fit.
fn exceeded<T>(entry: &Entry<T>, request: &Request) -> Option<u64> {
    let minute = entry.deployment().tpm_limit().filter(|&limit| request.least_tokens() > limit);
    let metered = entry.metering.as_ref().and_then(|metering| metering.exceeded(request.into()));
    minute.into_iter().chain(metered).min()
}

/// When a deployment that a gate stops may be available; None if no such time is known.
fn available_at<T>(entry: &Entry<T>, request: &Request, waived: Waived, now: &Now<'_>) -> Option<Nanos> {
    let state = &*entry.slot;
    let deployment = entry.deployment();
    let asked = request.least_tokens();
    let cooldown_until = if waived.health { 0 } else { state.health.cooldown_until() };
    // A check reports when it does, and a probe ends when its lease does.
    let is_unknown = !waived.health && (state.health.is_unhealthy() || (cooldown_until != 0 && state.is_probed()));
    if is_unknown || request.rules_in(entry).is_err() || exceeded(entry, request).is_some() {
        return None;
    }
    let now = now.get();
    let counts = state.window.counts(now);
    let spent = deployment.rpm_limit().is_some_and(|limit| counts.requests >= limit)
        || deployment.tpm_limit().is_some_and(|limit| limit.saturating_sub(counts.tokens) < asked);
    let window_frees = if spent { now.saturating_add(to_next_minute(now)) } else { now };
    let metered_frees = match &entry.metering {
        Some(metering) => metering.frees_at(request.into(), now)?,
        None => now,
    };
    let observed_frees =
        if state.marks() & mark::OBSERVED != 0 { state.annex().observed.frees_at(request.into(), now) } else { now };
    let at = window_frees.max(cooldown_until).max(metered_frees).max(observed_frees);
    Some(at).filter(|&at| at > now)
}

/// The earlier of two times that may not be known.
fn earlier(one: Option<Nanos>, other: Option<Nanos>) -> Option<Nanos> {
    one.into_iter().chain(other).min()
}

/// A candidate's live counters, as a strategy sees them.
pub(crate) struct Live<'a, 'c, T> {
    pub(crate) entry: &'a Entry<T>,
    pub(crate) state: &'a State,
    pub(crate) now: &'a Now<'c>,
}

impl<T> Live<'_, '_, T> {
    /// What is in flight, and the recent failures, as if they were.
    #[cold]
    fn penalized(&self) -> u32 {
        let penalty = self.entry.common.breaker.as_ref().map(|rules| self.state.penalty(rules, self.now.get()));
        let (failures, fades_at) = penalty.unwrap_or_default();
        if let Some(at) = fades_at {
            self.now.note_change(at);
        }
        self.state.in_flight().saturating_add(failures)
    }

    /// The count in this minute. A count of 0 is 0 in any minute.
    #[inline]
    fn usage(&self, limit: Option<u64>, at_most: u64, current: impl FnOnce(&State, Nanos) -> u64) -> Usage {
        if at_most == 0 || limit.is_none() {
            return Usage { current: at_most, limit };
        }
        minute_ends_in(self.now);
        Usage { current: current(self.state, self.now.get()), limit }
    }

    /// The fuller of the minute's usage and that of the deployment's other limits on some units. Quotas are left out: they do not tell
    /// one deployment from another.
    #[inline]
    pub(crate) fn fullest(&self, minute: Usage, counts: impl Fn(Unit) -> bool) -> Usage {
        let Some(metering) = &self.entry.metering else { return minute };
        match metering.usage(counts, self.now.get()) {
            Some((usage, until)) => {
                if let Some(until) = until {
                    self.now.note_change(until);
                }
                if usage.is_fuller_than(&minute) || minute.limit.is_none() { usage } else { minute }
            }
            None => minute,
        }
    }
}

impl<T> Candidate for Live<'_, '_, T> {
    #[inline]
    fn weight(&self) -> u32 {
        self.entry.deployment().weight()
    }

    #[inline]
    fn priority(&self) -> u32 {
        self.entry.deployment().priority()
    }

    #[inline]
    fn active_requests(&self) -> u32 {
        if self.state.marks() & mark::PENALIZED == 0 { self.state.in_flight() } else { self.penalized() }
    }

    #[inline]
    fn tpm(&self) -> Usage {
        let window = &self.state.window;
        let minute =
            self.usage(self.entry.deployment().tpm_limit(), window.tokens_at_most(), |state, now| state.window.counts(now).tokens);
        self.fullest(minute, |unit| unit != Unit::Requests)
    }

    #[inline]
    fn rpm(&self) -> Usage {
        let window = &self.state.window;
        let minute = self
            .usage(self.entry.deployment().rpm_limit(), window.requests_at_most(), |state, now| state.window.counts(now).requests);
        self.fullest(minute, |unit| unit == Unit::Requests)
    }

    #[inline]
    fn avg_latency_us(&self) -> u64 {
        self.state.health.avg_latency_us()
    }
}

/// Watches a walk.
pub(crate) trait Observer {
    /// A deployment passed every gate.
    fn passed(&mut self, position: Position);
    /// A gate stopped a deployment.
    fn stopped(&mut self, position: Position, refusal: Refusal);
    /// All are through; `assess` gives a candidate's score and probability.
    fn assessed(&mut self, score_name: &'static str, assess: impl Fn(Position) -> (f64, f64));
}

/// Watches nothing.
pub(crate) struct Unobserved;

impl Observer for Unobserved {
    #[inline]
    fn passed(&mut self, _: Position) {}

    #[inline]
    fn stopped(&mut self, _: Position, _: Refusal) {}

    #[inline]
    fn assessed(&mut self, _: &'static str, _: impl Fn(Position) -> (f64, f64)) {}
}

/// One pick from one group.
pub(crate) struct Walk<'a, T: Attachment> {
    pub(crate) group: &'a Group<T>,
    pub(crate) request: &'a Request,
    pub(crate) now: Now<'a>,
    pub(crate) chance: Chance<'a>,
    common: &'a Common<T>,
    /// As of the last look at the group.
    pub(crate) waived: Waived,
    /// Candidates that others filled up between the pick and the reservation, with what then stopped them.
    lost: Vec<(Position, Refusal)>,
}

impl<'a, T: Attachment> Walk<'a, T> {
    #[inline]
    pub(crate) fn new(group: &'a Group<T>, request: &'a Request, common: &'a Common<T>, rng: &'a Rng, now: Now<'a>) -> Self {
        Self { group, request, now, chance: group.chance(rng), common, waived: Waived::default(), lost: Vec::new() }
    }

    /// Finds out which gates are open to all.
    fn waive(&mut self) {
        let Some(rules) = self.common.breaker else { return };
        self.waived = Waived { health: self.group.panics(self.common, &self.now), slow_start: false };
        if rules.slow_start > 0 {
            let stops = |refusal: Result<(), Refusal>| refusal.err().map(|refusal| matches!(refusal, Refusal::SlowStart { .. }));
            let mut verdicts = self.group.members().map(|(position, entry)| stops(self.gate(position, entry)));
            let any = verdicts.try_fold(false, |any, by_slow_start| Some(any | by_slow_start?));
            drop(verdicts);
            self.waived.slow_start = any.unwrap_or(false);
        }
    }

    /// Drops a candidate whose last place somebody else took.
    #[cold]
    pub(crate) fn lose(&mut self, position: Position, refusal: Refusal) {
        self.lost.push((position, refusal));
    }

    /// Picks a member that passes every gate; None if none does.
    pub(crate) fn choose(&mut self, observer: &mut impl Observer) -> Option<Position> {
        self.waive();
        match self.group.strategy {
            Strategy::SimpleShuffle => self.choose_by::<WeightedRandom>(observer),
            Strategy::LeastBusy => self.choose_by::<LeastBusy>(observer),
            Strategy::UsageBased => self.choose_by::<LowestUsage>(observer),
            Strategy::LatencyBased => self.choose_by::<LowestLatency>(observer),
            Strategy::PriorityBased => self.choose_by::<LowestPriority>(observer),
            Strategy::RateLimitAware => self.choose_by::<RateLimitAware>(observer),
            Strategy::RoundRobin => self.choose_by::<RoundRobin>(observer),
        }
    }

    fn choose_by<R: Rule>(&self, observer: &mut impl Observer) -> Option<Position> {
        let summary = sum_up_all::<R, _>(self.candidates(observer));
        let picked = settle_on::<R, _>(&summary, self.candidates(&mut Unobserved), &self.chance);
        observer.assessed(R::SCORE, |position| {
            self.group.member(position).map_or((0.0, 0.0), |entry| {
                let candidate = self.live(entry);
                (R::score(&summary, &candidate), R::probability(&summary, picked, position, &candidate))
            })
        });
        picked
    }

    fn candidates(&self, observer: &mut impl Observer) -> impl Iterator<Item = (Position, Live<'_, 'a, T>)> {
        self.group.members().filter_map(move |(position, entry)| match self.gate(position, entry) {
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
    fn gate(&self, position: Position, entry: &Entry<T>) -> Result<(), Refusal> {
        if let Some(&(_, refusal)) = self.lost.iter().find(|&&(lost, _)| lost == position) {
            return Err(refusal);
        }
        gate(entry, &entry.slot, self.request, self.waived, &self.now)
    }

    /// Why no member passes; None if one does now.
    #[cold]
    pub(crate) fn refuse(&mut self, model_name: &Arc<str>) -> Option<Error> {
        self.waive();
        let mut reasons = Reasons::default();
        // Of those that the request does not rule out.
        let (mut earliest, mut largest_limit, mut may_fit) = (None, None, false);
        for (position, entry) in self.group.members() {
            let refusal = self.gate(position, entry).err()?;
            reasons.count(&refusal);
            if !matches!(refusal, Refusal::Tags | Refusal::Excluded) {
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
        Some(Error::NoAvailableDeployment(Box::new(Unavailable {
            model_name: Arc::clone(model_name),
            retry_after: earliest.map(|at| self.seconds_to(at)),
            retry_at: earliest,
            reasons,
        })))
    }

    /// Seconds until the earliest time at which some member may be available.
    pub(crate) fn retry_after(&self) -> Option<f64> {
        let times = self.group.members().map(|(_, entry)| available_at(entry, self.request, self.waived, &self.now));
        times.fold(None, earlier).map(|at| self.seconds_to(at))
    }

    fn seconds_to(&self, at: Nanos) -> f64 {
        seconds(at.saturating_sub(self.now.get()))
    }
}
