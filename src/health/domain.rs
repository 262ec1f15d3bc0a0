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
    /// Whether those in a row are of several deployments.
    are_several: bool,
    /// The last failure: whose, and when.
    last: Option<(Arc<str>, Nanos)>,
    /// When any other than that deployment last failed.
    other_at: Option<Nanos>,
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
        (counted.in_a_row, counted.are_several) = (0, false);
    }

    /// One of its deployments could not be reached; returns whether that is one too many. Failures that are all of one deployment say something
    /// of that deployment, which has its own rules.
    pub(crate) fn failure(&self, rules: &BreakerRules, now: Nanos, id: &Arc<str>) -> bool {
        let mut guard = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = &mut *guard;
        counted.window.add(rules.bucket(), now, true);
        if let Some((_, at)) = counted.last.replace((Arc::clone(id), now)).filter(|(last, _)| last != id) {
            counted.other_at = Some(at);
            counted.are_several |= counted.in_a_row > 0;
        }
        counted.in_a_row = counted.in_a_row.saturating_add(1);
        let in_window = counted.other_at.is_some_and(|at| now.saturating_sub(at) < rules.window);
        let trips = (counted.are_several && rules.is_too_many_in_a_row(counted.in_a_row))
            || (in_window && rules.is_too_large_a_share(counted.window.tally(rules.bucket(), now)));
        if trips {
            *counted = Counted::default();
        }
        trips
    }
}
