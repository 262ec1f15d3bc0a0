//! The quotas that the members of a group are under.

use std::sync::Arc;

use super::demand::Demand;
use super::ledger::Ledger;
use super::metering::Metering;
use crate::base::time::Nanos;

/// The quotas that a group's members are under, each with the number of those members.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Vec<(Arc<Ledger>, usize)>);

impl Quotas {
    pub(crate) fn enter(&mut self, metering: Option<&Metering>) {
        for ledger in metering.into_iter().flat_map(Metering::quotas) {
            match self.0.iter_mut().find(|(known, _)| Arc::ptr_eq(known, ledger)) {
                Some((_, members)) => *members += 1,
                None => self.0.push((Arc::clone(ledger), 1)),
            }
        }
    }

    pub(crate) fn leave(&mut self, metering: Option<&Metering>) {
        for ledger in metering.into_iter().flat_map(Metering::quotas) {
            self.0.retain_mut(|(known, members)| {
                *members -= usize::from(Arc::ptr_eq(known, ledger));
                *members > 0
            });
        }
    }

    /// Returns whether all of these quotas let a request through now.
    #[inline]
    pub(crate) fn are_open(&self, demand: impl FnOnce() -> (Demand, Nanos)) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let (demand, now) = demand();
        self.0.iter().all(|(ledger, _)| ledger.shortfall(demand, now).is_none())
    }
}
