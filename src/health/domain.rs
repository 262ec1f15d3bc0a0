//! Failure domains: deployments that one outage takes away together, such as those of a region.
//!
//! Errors of connection count against the domain. When it trips, every deployment of it cools down, so that the others need not
//! each find out for themselves.

use std::sync::{Arc, PoisonError, Weak};

use super::ring::Ring;
use super::rules::BreakerRules;
use crate::clock::Nanos;
use crate::registry::Entry;
use crate::sync::Mutex;

/// A domain and the deployments in it.
#[derive(Debug)]
pub(crate) struct Domain<T> {
    counted: Mutex<Counted>,
    members: Mutex<Vec<Weak<Entry<T>>>>,
}

#[derive(Debug, Default)]
struct Counted {
    window: Ring,
    in_a_row: u32,
    /// The deployment of the first of those in a row, and whether others failed too.
    first: Option<Arc<str>>,
    are_several: bool,
}

impl<T> Domain<T> {
    pub(crate) fn new() -> Self {
        Self { counted: Mutex::default(), members: Mutex::default() }
    }

    /// Takes a deployment in. One that is gone drops out by itself.
    pub(crate) fn enter(&self, member: &Arc<Entry<T>>) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if members.len() == members.capacity() {
            members.retain(|member| member.strong_count() > 0);
        }
        members.push(Arc::downgrade(member));
    }

    /// The deployments that are registered.
    pub(crate) fn members(&self) -> Vec<Arc<Entry<T>>> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner).clone();
        members.iter().filter_map(Weak::upgrade).collect()
    }

    /// One of its deployments was reached.
    pub(crate) fn success(&self, rules: &BreakerRules, now: Nanos) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.window.add(rules.bucket(), now, false);
        (counted.in_a_row, counted.first, counted.are_several) = (0, None, false);
    }

    /// One of its deployments could not be reached; returns whether that is one too many. Failures in a row that are all of one deployment
    /// say something of that deployment, which has its own rules.
    pub(crate) fn failure(&self, rules: &BreakerRules, now: Nanos, id: &Arc<str>) -> bool {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.window.add(rules.bucket(), now, true);
        counted.in_a_row = counted.in_a_row.saturating_add(1);
        let first = counted.first.get_or_insert_with(|| Arc::clone(id));
        counted.are_several |= **first != **id;
        let trips = (counted.are_several && rules.is_too_many_in_a_row(counted.in_a_row))
            || rules.is_too_large_a_share(counted.window.tally(rules.bucket(), now));
        if trips {
            *counted = Counted::default();
        }
        trips
    }
}
