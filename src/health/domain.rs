//! Failure domains: deployments that one outage takes away together, such as those of a region.
//!
//! Errors of connection count against the domain. When it trips, every deployment of it cools down. So the
//! others need not each fail first.

use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;

use super::health_rules::HealthRules;
use super::ring::Ring;
use crate::base::sync::{Mutex, hold};
use crate::base::time::Nanos;

/// A domain and the deployments in it.
#[derive(Debug)]
pub(crate) struct Domain<M> {
    counted: Mutex<Counted>,
    members: Mutex<Vec<Weak<M>>>,
}

#[derive(Debug, Default)]
struct Counted {
    window: Ring,
    in_a_row: u32,
    /// Whether the failures in a row are of several deployments.
    are_several: bool,
    /// The last failure: the id of its deployment, and its time.
    last: Option<(Arc<str>, Nanos)>,
    /// When a deployment other than that one last failed.
    other_at: Option<Nanos>,
}

impl<M> Domain<M> {
    fn new() -> Self {
        Self { counted: Mutex::default(), members: Mutex::default() }
    }

    /// Adds a deployment. A deployment that is gone drops out by itself.
    pub(crate) fn enter(&self, member: &Arc<M>) {
        let mut members = hold(&self.members);
        if members.len() == members.capacity() {
            members.retain(|member| member.strong_count() > 0);
        }
        members.push(Arc::downgrade(member));
    }

    /// Returns the deployments that still exist. A lease may keep one that is registered no more.
    pub(crate) fn members(&self) -> Vec<Arc<M>> {
        let members = hold(&self.members).clone();
        members.iter().filter_map(Weak::upgrade).collect()
    }

    /// Counts that one of its deployments was reached.
    pub(crate) fn success(&self, rules: &HealthRules, now: Nanos) {
        let mut counted = hold(&self.counted);
        counted.window.add(rules.interval(), now, false);
        (counted.in_a_row, counted.are_several) = (0, false);
    }

    /// Counts that one of its deployments could not be reached. Returns whether that is one failure too many.
    /// Failures of a single deployment say something of that deployment alone, which has its own rules.
    pub(crate) fn failure(&self, rules: &HealthRules, now: Nanos, id: &Arc<str>) -> bool {
        let mut guard = hold(&self.counted);
        let counted = &mut *guard;
        counted.window.add(rules.interval(), now, true);
        if let Some((_, at)) = counted.last.replace((Arc::clone(id), now)).filter(|(last, _)| last != id) {
            counted.other_at = Some(at);
            counted.are_several |= counted.in_a_row > 0;
        }
        counted.in_a_row = counted.in_a_row.saturating_add(1);
        let in_window = counted.other_at.is_some_and(|at| now.saturating_sub(at) < rules.window);
        let trips = (counted.are_several && rules.is_too_many_in_a_row(counted.in_a_row))
            || (in_window && rules.is_too_large_a_share(counted.window.tally(now)));
        if trips {
            *counted = Counted::default();
        }
        trips
    }
}

/// The domains by their names, for as long as a deployment is in them.
#[derive(Debug)]
pub(crate) struct Domains<M>(Mutex<ByName<M>>);

type ByName<M> = FxHashMap<Arc<str>, Weak<Domain<M>>>;

impl<M> Default for Domains<M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<M> Domains<M> {
    /// Returns the domain with a name. Makes it if there is none.
    pub(crate) fn get(&self, name: &Arc<str>) -> Arc<Domain<M>> {
        let mut domains = hold(&self.0);
        let known = domains.get(name).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            // When the map is full, domains without a deployment are dropped: so they never outnumber the
            // others.
            if domains.len() == domains.capacity() {
                domains.retain(|_, domain| domain.strong_count() > 0);
            }
            let domain = Arc::new(Domain::new());
            domains.insert(Arc::clone(name), Arc::downgrade(&domain));
            domain
        })
    }
}
