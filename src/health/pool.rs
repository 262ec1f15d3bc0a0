//! The outcomes of all members of a group. A member is an outlier if its own outcomes are much worse.

use super::health_rules::HealthRules;
use super::ring::{Ring, Tally};
use crate::base::sync::{Mutex, MutexGuard, hold};
use crate::base::time::Nanos;

/// The pool counts only members whose window is as long as that of the group's rules, and only if those rules
/// look for outliers: see `Entry::pool_rules`. It is locked after all other locks.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Ring>);

impl Pool {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        hold(&self.0)
    }

    pub(crate) fn add(&self, rules: &HealthRules, now: Nanos, failed: bool) {
        self.ring().add(rules.interval(), now, failed);
    }

    /// Returns the outcomes of the other members of the group. `own` are those of the member itself.
    pub(crate) fn without(&self, own: Tally, now: Nanos) -> Tally {
        self.ring().tally(now).without(own)
    }

    /// Adds what a new member has counted elsewhere.
    pub(crate) fn take_in(&self, window: &Ring) {
        self.ring().take_in(window);
    }

    /// Subtracts what a member has counted.
    pub(crate) fn forget(&self, window: &Ring) {
        self.ring().take_out(window);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.ring().clear();
    }
}
