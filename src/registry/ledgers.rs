//! The ledgers of quotas, by the ids of the quotas.

use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;

use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::time::Nanos;
use crate::facts::Deployment;
use crate::group::Entry;
use crate::limits::{Ledger, Meter, Metering, Quota};

/// What counts the quotas that some deployment is under.
#[derive(Debug, Default)]
pub(super) struct Ledgers {
    by_id: FxHashMap<Arc<str>, Weak<Ledger>>,
    /// The serial number of the last ledger that was made.
    last_serial: u64,
}

impl Ledgers {
    /// Returns the quota that is counted under an id, if a deployment is under it.
    pub(super) fn quota(&self, id: &str) -> Option<Quota> {
        self.by_id.get(id).and_then(Weak::upgrade).map(|ledger| ledger.quota().clone())
    }

    /// Makes what counts for a deployment that takes the place of another one, or of none.
    pub(super) fn metering<T>(&mut self, deployment: &Deployment, old: Option<&Entry<T>>, clock: &Clock) -> Option<Box<Metering>> {
        if deployment.limits().is_empty() && deployment.quotas().is_empty() {
            return None;
        }
        let now = clock.now();
        let quotas = deployment.quotas().iter().map(|quota| self.ledger(quota, now)).collect();
        let _held = old.map(|old| old.slot.hold());
        let before = old.and_then(|old| old.metering.as_ref()).map_or(&[][..], |metering| metering.own());
        Some(Box::new(Metering::new(Meter::all(deployment.limits(), before, now), quotas)))
    }

    /// Returns the ledger of a quota: the one in use, or a new one that keeps its counts if the limits are
    /// others.
    fn ledger(&mut self, quota: &Quota, now: Nanos) -> Arc<Ledger> {
        let before = self.by_id.get(quota.id()).and_then(Weak::upgrade);
        if let Some(same) = before.as_ref().filter(|ledger| ledger.quota() == quota) {
            return Arc::clone(same);
        }
        self.last_serial += 1;
        let ledger = Arc::new(Ledger::new(quota, self.last_serial, before.as_deref(), now));
        // Ledgers that no deployment is under any more go when the map is full: so they never outnumber the
        // others.
        if self.by_id.len() == self.by_id.capacity() {
            self.by_id.retain(|_, ledger| ledger.strong_count() > 0);
        }
        self.by_id.insert(Arc::clone(quota.shared_id()), Arc::downgrade(&ledger));
        ledger
    }
}

/// Checks that two deployments mean the same by a quota. `known` is that of `user`, `quota` that of `id`.
pub(super) fn must_agree(known: &Quota, user: &str, quota: &Quota, id: &str) -> Result<(), Error> {
    if known == quota {
        return Ok(());
    }
    Err(Error::Configuration(format!(
        "the quota {:?} of deployment {id:?} has other limits than that of {user:?}: all that share a quota must give the same, and change \
         it together by set_deployments",
        quota.id()
    )))
}
