//! The ledgers of quotas, by the ids of the quotas.

use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;

use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::lock::Held;
use crate::base::time::MINUTE;
use crate::facts::Deployment;
use crate::group::{Entry, Services};
use crate::limits::{Desk, Ledger, Limit, LimitKind, Meter, Metering, Past, Quota, Share, Start, Unit};

/// The ledgers of the quotas that any deployment is under.
#[derive(Debug, Default)]
pub(super) struct Ledgers {
    by_id: FxHashMap<Arc<str>, Weak<Ledger>>,
    /// The serial number of the last ledger that was made.
    last_serial: u64,
}

impl Ledgers {
    /// Returns the quota with this id, if a deployment is under it.
    pub(super) fn quota(&self, id: &str) -> Option<Quota> {
        self.by_id.get(id).and_then(Weak::upgrade).map(|ledger| ledger.quota().clone())
    }

    /// Makes the metering of a deployment. The deployment takes the place of `old`, or of none. Limits that
    /// count like those of `old` count on. The others begin with nothing: see [`take_over`].
    pub(super) fn metering<T>(
        &mut self,
        deployment: &Deployment,
        old: Option<&Entry<T>>,
        services: &Services,
    ) -> Option<Box<Metering>> {
        let quotas: Vec<_> = deployment.quotas().iter().map(|quota| self.ledger(quota, services)).collect();
        let share = services.desk.as_ref().map(|desk| share(deployment, desk));
        let _held = old.map(|old| old.slot.hold());
        let own = Meter::all(deployment.limits(), old.map_or(&[], own_meters), &services.clock);
        let is_metered = !own.is_empty() || !quotas.is_empty() || share.is_some();
        is_metered.then(|| Box::new(Metering::new(own, quotas, share)))
    }

    /// Returns the ledger of a quota: the one in use, or a new one if the limits have changed. A new one
    /// keeps the counts.
    fn ledger(&mut self, quota: &Quota, services: &Services) -> Arc<Ledger> {
        let before = self.by_id.get(quota.id()).and_then(Weak::upgrade);
        if let Some(same) = before.as_ref().filter(|ledger| ledger.quota() == quota) {
            return Arc::clone(same);
        }
        self.last_serial += 1;
        let ledger = Ledger::new(quota, self.last_serial, before.as_deref(), &services.clock, services.desk.as_deref());
        // When the map is full, ledgers without a deployment are dropped: so they never outnumber the others.
        if self.by_id.len() == self.by_id.capacity() {
            self.by_id.retain(|_, ledger| ledger.strong_count() > 0);
        }
        self.by_id.insert(Arc::clone(quota.shared_id()), Arc::downgrade(&ledger));
        ledger
    }
}

/// Returns what this process holds of a deployment's own limits.
fn share(deployment: &Deployment, desk: &Desk) -> Arc<Share> {
    let minute = |unit, limit: Option<u64>| {
        // A limit of no requests or tokens at all is none of this: the gate before this one stops them all.
        limit.and_then(|limit| Limit::new(unit, limit, MINUTE, LimitKind::Fixed(Start::Clock)).ok())
    };
    let minutes = [minute(Unit::Requests, deployment.rpm_limit()), minute(Unit::Tokens, deployment.tpm_limit())];
    let minutes: Vec<_> = minutes.into_iter().flatten().collect();
    let names = (deployment.id(), deployment.shared_model_name());
    desk.of_deployment(names, deployment.max_parallel_requests(), &minutes, deployment.limits())
}

fn own_meters<T>(entry: &Entry<T>) -> &[Meter] {
    entry.metering.as_ref().map_or(&[], |metering| metering.own())
}

/// Lets an entry take the place of `old`. What `old` used of its limits stays used. This holds even if a
/// limit a minute is now written as another limit, or was written so before.
pub(super) fn take_over<T>(old: &Entry<T>, entry: &Arc<Entry<T>>, clock: &Clock) {
    // One lock: a request that `old` counts later is counted by its heir too.
    let held = old.slot.hold();
    old.leave(&held, Some(entry));
    let meters = own_meters(old);
    let minute = respelt(old, &held, meters, entry.deployment(), clock);
    Meter::take_over(own_meters(entry), Past { meters, minute: &minute }, clock.now());
}

/// Checks that two deployments mean the same by a quota. `user` gave it as `known`, `id` gave it as `quota`.
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

/// Handles limits a minute that become other limits, or that were other limits before.
///
/// - If a limit a minute takes the place of other limits, raises the minute's count to that of the limit with
///   the nearest time.
/// - Returns the minute's counts of the limits a minute that are gone.
fn respelt<T>(old: &Entry<T>, held: &Held<'_>, meters: &[Meter], deployment: &Deployment, clock: &Clock) -> Vec<(Unit, u64)> {
    let wall = clock.wall_at(clock.now());
    let counted = old.slot.window.counts(wall);
    let limits = |of: &Deployment| [of.rpm_limit().is_some(), of.tpm_limit().is_some()];
    let mut minute = Vec::new();
    for ((was, is), (unit, used)) in limits(old.deployment())
        .into_iter()
        .zip(limits(deployment))
        .zip([(Unit::Requests, counted.requests), (Unit::Tokens, counted.tokens)])
    {
        if was && !is {
            minute.push((unit, used));
        } else if is && !was {
            let gone = meters.iter().filter(|meter| meter.unit() == unit && !deployment.limits().contains(meter.limit()));
            if let Some(nearest) = gone.min_by_key(|meter| meter.limit().per().abs_diff(MINUTE)) {
                old.slot.window.raise(held, wall, unit, nearest.used(clock.now()));
            }
        }
    }
    minute
}
