//! The outcomes of all members of a group, beside which one of them is an outlier.

use std::sync::PoisonError;

use super::ring::{Ring, Tally};
use super::rules::BreakerRules;
use crate::clock::Nanos;
use crate::sync::{Mutex, MutexGuard};

/// Counts only where the rules look for outliers. Locked after everything else.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Ring>);

impl Pool {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, rules: &BreakerRules, now: Nanos, failed: bool) {
        if rules.outlier_factor.is_some() {
            self.ring().add(rules.bucket(), now, failed);
        }
    }

    /// What the others of the group have counted.
    pub(crate) fn without(&self, own: Tally, rules: &BreakerRules, now: Nanos) -> Tally {
        self.ring().tally(rules.bucket(), now).without(own)
    }

    /// Takes in what a new member has counted elsewhere.
    pub(crate) fn take_in(&self, rules: &BreakerRules, window: &Ring) {
        if rules.outlier_factor.is_some() {
            self.ring().take_in(window);
        }
    }

    /// Takes out what a member has counted.
    pub(crate) fn forget(&self, rules: &BreakerRules, window: &Ring) {
        if rules.outlier_factor.is_some() {
            self.ring().take_out(window);
        }
    }
}
