//! The quotas that the members of a group are under.

use std::sync::Arc;

use super::demand::Demand;
use super::ledger::Ledger;
use super::metering::Metering;
use crate::base::time::Nanos;

/// The quotas that a group's members are under, each with the number of those members. The place of a quota
/// is the number of its bit.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Vec<Option<(Arc<Ledger>, usize)>>);

/// The bit that all quotas share that have no bit of their own.
pub(crate) const OTHERS: u64 = 1 << 63;

fn bit(place: usize) -> u64 {
    u32::try_from(place).ok().and_then(|place| 1_u64.checked_shl(place)).unwrap_or(OTHERS)
}

impl Quotas {
    /// Counts a member, and notes the bits of its quotas.
    pub(crate) fn enter(&mut self, metering: Option<&Metering>) {
        let Some(metering) = metering else { return };
        let mut bits = 0;
        for ledger in metering.quotas() {
            let place = self.place(ledger).unwrap_or_else(|| {
                let free = self.0.iter().position(Option::is_none);
                free.unwrap_or_else(|| {
                    self.0.push(None);
                    self.0.len() - 1
                })
            });
            if let Some(quota) = self.0.get_mut(place) {
                quota.get_or_insert_with(|| (Arc::clone(ledger), 0)).1 += 1;
            }
            bits |= bit(place);
        }
        metering.set_bits(bits);
    }

    pub(crate) fn leave(&mut self, metering: Option<&Metering>) {
        for ledger in metering.into_iter().flat_map(Metering::quotas) {
            let quota = self.place(ledger).and_then(|place| self.0.get_mut(place));
            if let Some(quota) = quota {
                *quota = quota.take().map(|(ledger, members)| (ledger, members - 1)).filter(|&(_, members)| members > 0);
            }
        }
    }

    fn place(&self, ledger: &Arc<Ledger>) -> Option<usize> {
        self.0.iter().position(|quota| quota.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, ledger)))
    }

    /// Returns the bits of the quotas that do not let a request through now.
    #[inline]
    pub(crate) fn spent(&self, demand: impl FnOnce() -> (Demand, Nanos)) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        let (demand, now) = demand();
        self.ledgers().filter(|(_, ledger)| ledger.shortfall(demand, now).is_some()).fold(0, |spent, (bit, _)| spent | bit)
    }

    /// Returns the quotas that do not let a request through now: the bit of each, and when it will let the
    /// request through. That is None if it never will.
    pub(crate) fn spent_until(&self, demand: Demand, now: Nanos) -> Vec<(u64, Option<Nanos>)> {
        let spent = self.ledgers().filter(|(_, ledger)| ledger.shortfall(demand, now).is_some());
        spent.map(|(bit, ledger)| (bit, ledger.frees_at(demand, now))).collect()
    }

    /// Returns the serial numbers of the quotas that do not let a request through now.
    pub(crate) fn spent_serials(&self, demand: Demand, now: Nanos) -> impl Iterator<Item = u64> {
        self.ledgers().filter(move |(_, ledger)| ledger.shortfall(demand, now).is_some()).map(|(_, ledger)| ledger.serial())
    }

    fn ledgers(&self) -> impl Iterator<Item = (u64, &Ledger)> {
        self.0.iter().enumerate().filter_map(|(place, quota)| Some((bit(place), &*quota.as_ref()?.0)))
    }
}
