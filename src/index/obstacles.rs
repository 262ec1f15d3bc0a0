//! What stops the members of a group, added up: why a request is refused, and when it may be served.
//!
//! A walk would find out the same. It would cost time for each member at each refusal, while those who are
//! refused ask again and again. So the index adds up what stops a request of unknown size at each member.
//! Then it only looks again at members whose leaves were renewed since the last refusal.
//!
//! An index knows nothing of quotas but a number: each quota has a bit. Members are added up by the quotas
//! that they are under, so a refusal can add what the quotas say.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::member::{Member, Members, members};
use super::obstacle::{Obstacle, QuotaBits};
use crate::base::clock::Now;
use crate::base::error::Reasons;
use crate::base::gate::Gate;
use crate::base::position::Position;
use crate::base::time::Nanos;

/// The spent quotas, each with the time at which it lets a request pass; None if it never will.
pub(crate) type Spent<'a> = &'a [(QuotaBits, Option<Nanos>)];

/// Members that are under the same quotas.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    /// How many members each gate stops.
    reasons: Reasons,
    /// The number of members that no gate stops.
    passing: usize,
    /// The number of members at which time alone stops nothing.
    timeless: usize,
}

impl Tally {
    fn count(&mut self, obstacle: &Obstacle) {
        match obstacle.gate {
            Some(gate) => self.reasons.add(gate, 1),
            None => self.passing += 1,
        }
        self.timeless += usize::from(obstacle.frees_at == Some(0));
    }

    fn uncount(&mut self, obstacle: &Obstacle) {
        match obstacle.gate {
            Some(gate) => self.reasons.subtract(gate, 1),
            None => self.passing -= 1,
        }
        self.timeless -= usize::from(obstacle.frees_at == Some(0));
    }
}

/// What stops each member of a group, and the sums.
#[derive(Debug, Default)]
pub(super) struct Obstacles {
    of: Vec<Option<Obstacle>>,
    /// The members whose leaves were renewed since the last look, and whether each is among them.
    stale: Vec<Position>,
    is_stale: Vec<bool>,
    tallies: FxHashMap<QuotaBits, Tally>,
    /// The times at which members may be available, by their quotas.
    times: BTreeSet<(QuotaBits, Nanos, Position)>,
}

impl Obstacles {
    /// Adds up what stops the members.
    pub(super) fn new<M: Member>(members: &Members<M>, now: &Now<'_>) -> Self {
        let mut obstacles = Self { of: vec![None; members.len()], is_stale: vec![false; members.len()], ..Self::default() };
        let mut times = Vec::new();
        for (position, member) in self::members(members) {
            let obstacle = member.obstacle(now);
            times.extend(obstacle.time(position));
            obstacles.tallies.entry(obstacle.quotas).or_default().count(&obstacle);
            if let Some(noted) = obstacles.of.get_mut(position as usize) {
                *noted = Some(obstacle);
            }
        }
        obstacles.times = times.into_iter().collect();
        obstacles
    }

    /// Notes that the leaf of a member was renewed. Returns whether it still pays to keep the sums. It does
    /// not if so many members have changed that to add up all would cost as much.
    pub(super) fn touch(&mut self, position: Position) -> bool {
        let place = position as usize;
        if place >= self.of.len() {
            self.of.resize(place + 1, None);
            self.is_stale.resize(place + 1, false);
        }
        if let Some(is_stale) = self.is_stale.get_mut(place).filter(|is_stale| !**is_stale) {
            *is_stale = true;
            self.stale.push(position);
        }
        self.stale.len() <= self.of.len() / 4 + 8
    }

    /// Looks again at the members that have changed.
    pub(super) fn refresh<M: Member>(&mut self, members: &Members<M>, now: &Now<'_>) {
        while let Some(position) = self.stale.pop() {
            let place = position as usize;
            let new = members.get(place).and_then(Option::as_ref).map(|member| member.obstacle(now));
            if let Some(is_stale) = self.is_stale.get_mut(place) {
                *is_stale = false;
            }
            let old = self.of.get_mut(place).and_then(|noted| std::mem::replace(noted, new));
            if old == new {
                continue;
            }
            if let Some(old) = old {
                self.tallies.entry(old.quotas).or_default().uncount(&old);
                old.time(position).inspect(|time| _ = self.times.remove(time));
            }
            if let Some(new) = new {
                self.tallies.entry(new.quotas).or_default().count(&new);
                self.times.extend(new.time(position));
            }
        }
    }

    /// Returns how many members each gate stops, and the earliest time at which a member may be available.
    /// None if a member passes. `skips` are the places that the request excludes, in order.
    pub(super) fn refusal(&self, spent: Spent<'_>, skips: &[Position], now: Nanos) -> Option<(Reasons, Option<Nanos>)> {
        let skipped: Vec<_> = skips.iter().filter_map(|&skip| self.of.get(skip as usize)?.as_ref()).collect();
        let (mut reasons, mut earliest) = (Reasons::default(), None);
        reasons.add(Gate::Excluded, skipped.len());
        for (&quotas, tally) in &self.tallies {
            let mut tally = *tally;
            skipped.iter().filter(|skipped| skipped.quotas == quotas).for_each(|skipped| tally.uncount(skipped));
            let spent: Vec<_> = spent.iter().filter(|(quota, _)| quotas & quota != 0).map(|&(_, frees_at)| frees_at).collect();
            if tally.passing > 0 && spent.is_empty() {
                return None;
            }
            tally.reasons.iter().for_each(|(gate, members)| reasons.add(gate, members));
            reasons.add(Gate::Quota, tally.passing);
            let quotas_free_at = spent.iter().try_fold(now, |latest, &frees_at| Some(latest.max(frees_at?)));
            // When the quotas are free, members without a time of their own may be available at once.
            let first = if spent.is_empty() { now.saturating_add(1) } else { 0 };
            let own = if tally.timeless > 0 && first == 0 { Some(0) } else { self.first_time(quotas, first, skips) };
            let at = own.and_then(|at| Some(at.max(quotas_free_at?))).filter(|&at| at > now);
            earliest = earliest.into_iter().chain(at).min();
        }
        Some((reasons, earliest))
    }

    /// Returns the first time from `first` on at which a member under these quotas may be available.
    fn first_time(&self, quotas: QuotaBits, first: Nanos, skips: &[Position]) -> Option<Nanos> {
        let mut times = self.times.range((quotas, first, 0)..=(quotas, Nanos::MAX, Position::MAX));
        times.find(|(.., position)| skips.binary_search(position).is_err()).map(|&(_, at, _)| at)
    }
}
