//! The counters of a quota.

use std::sync::{Arc, OnceLock, Weak};

use super::demand::Demand;
use super::desk::Desk;
use super::meter::{Meter, Past};
use super::observed::Observations;
use super::quota::Quota;
use super::share::Share;
use super::shortfall::Shortfall;
use crate::base::clock::Clock;
use crate::base::lock::{Held, Lock};
use crate::base::time::Nanos;
use crate::base::trips::Trips;

/// The counters of a quota, once for all deployments that share it.
#[derive(Debug)]
pub(crate) struct Ledger {
    quota: Quota,
    meters: Box<[Meter]>,
    /// What this process holds of its limits, if processes share them.
    share: Option<Arc<Share>>,
    /// This is shared with the ledger that takes its place when the quota's limits are replaced.
    continuity: Arc<Continuity>,
    /// The ledger that takes its place. It is set under the lock. Until all groups know that ledger, requests
    /// come to both: those that come here are checked and counted there too.
    successor: OnceLock<Weak<Self>>,
}

#[derive(Debug)]
struct Continuity {
    /// Ledgers are locked in the order of these numbers.
    serial: u64,
    lock: Lock,
    observed: Observations,
    /// Pauses for which the provider named no time. They are written under the lock.
    trips: Trips,
}

/// Proof that the caller holds a ledger's lock.
pub(crate) struct LedgerHeld<'a>(#[allow(dead_code, reason = "held, not read")] Held<'a>);

impl Ledger {
    /// Makes the ledger of a quota. It keeps the counts of `before`, which had the same id.
    pub(crate) fn new(quota: &Quota, serial: u64, before: Option<&Self>, clock: &Clock, desk: Option<&Desk>) -> Arc<Self> {
        let share = desk.map(|desk| desk.of_quota(quota.id(), quota.limits()));
        let of =
            |meters, continuity| Arc::new(Self { quota: quota.clone(), meters, share, continuity, successor: OnceLock::new() });
        let Some(before) = before else {
            let continuity =
                Continuity { serial, lock: Lock::default(), observed: Observations::default(), trips: Trips::default() };
            return of(Meter::all(quota.limits(), &[], clock), Arc::new(continuity));
        };
        let _held = before.hold();
        let meters = Meter::all(quota.limits(), &before.meters, clock);
        Meter::take_over(&meters, Past { meters: &before.meters, minute: &[] }, clock.now());
        let ledger = of(meters, Arc::clone(&before.continuity));
        before.successor.get_or_init(|| Arc::downgrade(&ledger));
        ledger
    }

    fn successor(&self) -> Option<Arc<Self>> {
        self.successor.get()?.upgrade()
    }

    /// Counts a request that its own meters have counted in those of its successor too. The caller holds the
    /// lock.
    #[inline]
    pub(super) fn charge_successor(&self, demand: Demand, now: Nanos) {
        if let Some(successor) = self.successor() {
            Meter::charge_others(&successor.meters, &self.meters, demand, now);
            successor.charge_successor(demand, now);
        }
    }

    pub(crate) fn quota(&self) -> &Quota {
        &self.quota
    }

    pub(crate) fn observed(&self) -> &Observations {
        &self.continuity.observed
    }

    pub(crate) fn trips(&self) -> &Trips {
        &self.continuity.trips
    }

    pub(crate) fn hold(&self) -> LedgerHeld<'_> {
        LedgerHeld(self.continuity.lock.hold())
    }

    pub(crate) fn share(&self) -> Option<&Share> {
        self.share.as_deref()
    }

    /// Returns why the quota does not let a request through; None if it does.
    pub(crate) fn shortfall(&self, demand: Demand, now: Nanos) -> Option<Shortfall> {
        let shared = || self.share()?.shortfall(demand, now).map(Shortfall::Shared);
        self.own_shortfall(demand, now).or_else(shared)
    }

    /// Returns why the quota would not let a request through whatever this process holds of it.
    pub(super) fn own_shortfall(&self, demand: Demand, now: Nanos) -> Option<Shortfall> {
        let of_limit = Meter::shortfall_of(&self.meters, demand, now).map(Shortfall::Limit);
        let own = of_limit.or_else(|| self.observed().shortfall(demand, now).map(Shortfall::Observed));
        own.or_else(|| self.successor()?.own_shortfall(demand, now))
    }

    pub(super) fn meters(&self) -> &[Meter] {
        &self.meters
    }

    /// Returns its number in the order in which ledgers are locked.
    pub(crate) fn serial(&self) -> u64 {
        self.continuity.serial
    }

    /// Returns when the quota may let a request through, now at the earliest; None if it never will.
    pub(super) fn frees_at(&self, demand: Demand, now: Nanos) -> Option<Nanos> {
        let own = Meter::all_free_at(&self.meters, demand, now)?.max(self.observed().frees_at(demand, now));
        let own = self.share().map_or(own, |share| own.max(share.frees_at(demand, now)));
        self.successor().map_or(Some(own), |successor| Some(own.max(successor.frees_at(demand, now)?)))
    }

    /// Returns the smallest share of a limit that is left.
    pub(super) fn share_left(&self, now: Nanos) -> Option<f64> {
        #[allow(clippy::cast_precision_loss)] // compared, not counted
        self.meters.iter().map(|meter| meter.left(now) as f64 / meter.limit().capacity() as f64).min_by(f64::total_cmp)
    }
}
