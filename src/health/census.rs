//! The health of a group's members, counted.
//!
//! The census is kept up to date with the leaves, under the index's lock. It answers at once what else only a
//! walk over the members would find out: whether a deployment is the last in service, and whether so few are
//! in service that the group panics.

use super::health_rules::HealthRules;
use super::pool::Pool;
use crate::base::clock::Now;
use crate::base::position::Position;
use crate::base::time::Nanos;

/// What a member is by its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fitness {
    /// There is no member at this place.
    #[default]
    Nobody,
    Well,
    /// Its cooldown is over; `probed` if a lease has the place of the probation.
    Probation {
        probed: bool,
    },
    /// Out of service, until a time if one is known.
    Out {
        until: Option<Nanos>,
    },
}

impl Fitness {
    /// Returns whether a health gate stops it at `now`. `self` may be some time old.
    pub(crate) fn is_stopped(self, now: Nanos) -> bool {
        match self {
            Self::Nobody | Self::Well => false,
            Self::Probation { probed } => probed,
            Self::Out { until } => until.is_none_or(|until| now < until),
        }
    }

    /// Returns whether it is at least on probation now.
    fn is_on_probation(self, now: Nanos) -> bool {
        match self {
            Self::Probation { .. } => true,
            Self::Out { until } => until.is_some_and(|until| until <= now),
            Self::Nobody | Self::Well => false,
        }
    }
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // two come from the rules, two are what was found out
pub(crate) struct Census {
    of: Vec<Fitness>,
    members: usize,
    well: usize,
    /// Members that a health check took out.
    unhealthy: usize,
    /// Whether health checks are ignored once they took all members out.
    may_fail_open: bool,
    /// The group panics when a smaller share of it is in service; 0 for never.
    threshold: f64,
    pub(crate) panics: bool,
    /// Whether health checks took all members out and are ignored.
    pub(crate) fails_open: bool,
}

impl Census {
    /// Makes an empty census for the rules of `Health`, if the router follows them.
    pub(crate) fn new(rules: Option<&HealthRules>) -> Self {
        let mut census = Self::default();
        census.follow(rules);
        census
    }

    /// Returns a census that goes on from this one: it has no members yet, and knows the last result.
    pub(crate) fn without_members(&self) -> Self {
        let Self { may_fail_open, threshold, panics, fails_open, .. } = *self;
        Self { may_fail_open, threshold, panics, fails_open, ..Self::default() }
    }

    /// Follows the rules of `Health` from now on, or none if the router follows others.
    pub(crate) fn follow(&mut self, rules: Option<&HealthRules>) {
        self.threshold = rules.map_or(0.0, |rules| rules.panic_threshold);
        self.may_fail_open = rules.is_some_and(|rules| rules.fail_open);
    }

    /// Returns whether a member that health stops is left out, as usual.
    pub(crate) fn heeds_health(&self) -> bool {
        !self.panics && !self.fails_open
    }

    /// Notes what a member is.
    #[cold]
    pub(crate) fn set(&mut self, position: Position, fitness: Fitness) {
        let place = position as usize;
        if place >= self.of.len() {
            self.of.resize(place + 1, Fitness::Nobody);
        }
        if let Some(noted) = self.of.get_mut(place) {
            let old = std::mem::replace(noted, fitness);
            self.members += usize::from(fitness != Fitness::Nobody);
            self.members -= usize::from(old != Fitness::Nobody);
            self.well += usize::from(fitness == Fitness::Well);
            self.well -= usize::from(old == Fitness::Well);
            self.unhealthy += usize::from(fitness == Fitness::Out { until: None });
            self.unhealthy -= usize::from(old == Fitness::Out { until: None });
        }
    }

    pub(crate) fn clear(&mut self) {
        self.of.clear();
        (self.members, self.well, self.unhealthy) = (0, 0, 0);
    }

    /// Finds out whether the group panics; returns whether that has changed.
    pub(crate) fn assess(&mut self, now: &Now<'_>) -> bool {
        self.fails_open = self.may_fail_open && self.members > 0 && self.unhealthy == self.members;
        let panics = |stopped| HealthRules::panics(self.threshold, stopped, self.members);
        // The members are counted one by one only where the result may be a panic.
        let panics = self.threshold > 0.0
            && panics(self.members - self.well)
            && panics(self.of.iter().filter(|fitness| fitness.is_stopped(now.get())).count());
        std::mem::replace(&mut self.panics, panics) != panics
    }
}

/// The other members of a deployment's group, as far as health is concerned.
pub(crate) struct Peers<'a> {
    census: &'a Census,
    pub(crate) pool: &'a Pool,
    /// The place of the deployment itself; None amid a change, when it has no place for a moment.
    position: Option<Position>,
}

impl<'a> Peers<'a> {
    pub(crate) fn new(census: &'a Census, pool: &'a Pool, position: Option<Position>) -> Self {
        Self { census, pool, position }
    }

    /// Returns whether the group panics.
    pub(crate) fn panic(&self) -> bool {
        self.census.panics
    }

    /// Returns whether the deployment is the only member of its group. Amid a change the answer is false.
    pub(crate) fn is_alone(&self) -> bool {
        self.position.is_some() && self.census.members == 1
    }

    /// Returns whether another member is well. If `on_probation`, a member on probation is enough. Amid a
    /// change the answer is false.
    pub(crate) fn has_as_fit(&self, on_probation: bool, now: Nanos) -> bool {
        let Some(position) = self.position else { return false };
        let own = self.census.of.get(position as usize).copied().unwrap_or_default();
        let others_well = self.census.well - usize::from(own == Fitness::Well);
        let others = (0..).zip(&self.census.of).filter(|&(other, _)| other != position);
        others_well > 0 || (on_probation && others.into_iter().any(|(_, fitness)| fitness.is_on_probation(now)))
    }
}
