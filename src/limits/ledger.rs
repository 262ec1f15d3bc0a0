//! What a deployment is metered by: limits of its own, and quotas that it shares.

use std::sync::{Arc, PoisonError};

use super::meter::Charge;
use super::{Demand, Limit, Meter, Quota, Spent, Unit};
use crate::clock::{Nanos, Now};
use crate::context::Usage;
use crate::learn::{Lack, Observations, Reserved};
use crate::sync::{Mutex, MutexGuard};

/// What is counted of a quota, once for all that share it.
#[derive(Debug)]
pub(crate) struct Ledger {
    quota: Quota,
    meters: Box<[Meter]>,
    /// Shared with the ledger that takes its place when the quota's limits are replaced.
    common: Arc<Common>,
}

#[derive(Debug)]
struct Common {
    /// Ledgers are locked in the order of these.
    serial: u64,
    lock: Mutex<()>,
    observed: Observations,
}

/// Proof that the caller holds a ledger's lock.
type Held<'a> = MutexGuard<'a, ()>;

/// Why a quota does not let a request through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    /// A limit of it is spent.
    Spent(Spent),
    /// The provider said that it is.
    Observed(Lack),
}

impl Ledger {
    /// The ledger of a quota. It goes on where `before` is, which had the same id.
    pub(crate) fn new(quota: &Quota, serial: u64, before: Option<&Self>, now: Nanos) -> Self {
        let Some(before) = before else {
            let common = Common { serial, lock: Mutex::default(), observed: Observations::default() };
            let meters = Meter::all(quota.limits(), &[], now);
            return Self { quota: quota.clone(), meters, common: Arc::new(common) };
        };
        let _held = before.hold();
        let meters = Meter::all(quota.limits(), &before.meters, now);
        Self { quota: quota.clone(), meters, common: Arc::clone(&before.common) }
    }

    pub(crate) fn quota(&self) -> &Quota {
        &self.quota
    }

    pub(crate) fn observed(&self) -> &Observations {
        &self.common.observed
    }

    pub(crate) fn hold(&self) -> Held<'_> {
        self.common.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it does not let a request through; None if it does.
    pub(crate) fn lacks(&self, demand: Demand, now: Nanos) -> Option<Short> {
        let spent = lacks(&self.meters, demand, now).map(Short::Spent);
        spent.or_else(|| self.observed().lacks(demand, now).map(Short::Observed))
    }

    /// When it may let a request through, now at the earliest; None if it never will.
    fn frees_at(&self, demand: Demand, now: Nanos) -> Option<Nanos> {
        Some(frees_at(&self.meters, demand, now)?.max(self.observed().frees_at(demand, now)))
    }

    /// The smallest share of a limit that is left, on a unit if one is given; None if there is no such limit.
    fn share_left(&self, unit: Option<Unit>, now: Nanos) -> Option<f64> {
        let meters = self.meters.iter().filter(|meter| unit.is_none_or(|unit| meter.unit() == unit));
        #[allow(clippy::cast_precision_loss)] // compared, not counted
        meters.map(|meter| meter.left(now) as f64 / meter.limit().capacity() as f64).min_by(f64::total_cmp)
    }
}

/// What counts for a deployment beside its minute window.
#[derive(Debug)]
pub(crate) struct Metering {
    /// Under the lock of its counters.
    own: Box<[Meter]>,
    /// In the order of their locks.
    quotas: Box<[Arc<Ledger>]>,
}

impl Metering {
    pub(crate) fn new(own: Box<[Meter]>, mut quotas: Vec<Arc<Ledger>>) -> Self {
        quotas.sort_unstable_by_key(|ledger| ledger.common.serial);
        Self { own, quotas: quotas.into() }
    }

    pub(crate) fn own(&self) -> &[Meter] {
        &self.own
    }

    pub(crate) fn quotas(&self) -> &[Arc<Ledger>] {
        &self.quotas
    }

    /// Locks the quotas. After the counters' lock.
    fn hold(&self) -> Vec<Held<'_>> {
        self.quotas.iter().map(|ledger| ledger.hold()).collect()
    }

    /// Why its own limits do not let a request through; None if they do.
    pub(crate) fn lacks(&self, demand: Demand, now: Nanos) -> Option<Spent> {
        lacks(&self.own, demand, now)
    }

    /// The first quota that does not let a request through, and why.
    pub(crate) fn quota_lacks(&self, demand: Demand, now: Nanos) -> Option<(u32, Short)> {
        (0..).zip(&self.quotas).find_map(|(nth, ledger)| Some((nth, ledger.lacks(demand, now)?)))
    }

    /// When a request may be let through, now at the earliest; None if it never fits.
    pub(crate) fn frees_at(&self, demand: Demand, now: Nanos) -> Option<Nanos> {
        let own = frees_at(&self.own, demand, now)?;
        self.quotas.iter().try_fold(own, |at, ledger| Some(at.max(ledger.frees_at(demand, now)?)))
    }

    /// The smallest limit that a request is too large for; None if it may fit.
    pub(crate) fn exceeded(&self, demand: Demand) -> Option<u64> {
        let meters = self.own.iter().chain(self.quotas.iter().flat_map(|ledger| &ledger.meters));
        let sizes = meters.map(|meter| (meter.limit().capacity(), demand.least(meter.unit())));
        sizes.filter(|(capacity, asked)| asked > capacity).map(|(capacity, _)| capacity).min()
    }

    /// Whether prompts or answers are limited apart.
    pub(crate) fn limits_parts(&self) -> bool {
        self.own.iter().any(|meter| meter.unit().is_part())
    }

    /// The tokens that its own limits leave any request, however they are split, and whether some request of more may fit: where time
    /// adds to them continuously, or where prompt and answer are limited apart.
    pub(crate) fn tokens_left(&self, now: &Now<'_>) -> (u64, bool) {
        let (mut tokens, mut is_least) = (u64::MAX, false);
        for meter in self.own.iter().filter(|meter| meter.unit() != Unit::Requests) {
            tokens = tokens.min(meter.left(now.get()));
            let (usage, until) = meter.usage(now.get());
            is_least |= meter.unit().is_part() || (usage.current > 0 && meter.refills_bit_by_bit());
            if let Some(until) = until {
                now.note_change(until);
            }
        }
        (tokens, is_least)
    }

    /// The fullest of the limits on some units, as a strategy compares them, and until when that holds if time changes it.
    pub(crate) fn usage(&self, counts: impl Fn(Unit) -> bool, now: Nanos) -> Option<(Usage, Option<Nanos>)> {
        let usages = self.own.iter().filter(|meter| counts(meter.unit())).map(|meter| meter.usage(now));
        usages.reduce(|(fullest, until), (usage, at)| {
            let fullest = if usage.is_fuller_than(&fullest) { usage } else { fullest };
            (fullest, until.into_iter().chain(at).min())
        })
    }

    /// Calls `with` under the locks of all that is metered.
    pub(crate) fn with_locks<R>(&self, with: impl FnOnce(&Locked<'_>) -> R) -> R {
        let _held = self.hold();
        with(&Locked(self))
    }

    /// The quota that a provider most likely speaks of: the one nearest to its limit, on a unit if that is known.
    pub(crate) fn nearest_quota(&self, unit: Option<Unit>, now: Nanos) -> Option<(usize, &Ledger)> {
        let quotas = self.quotas.iter().enumerate();
        let shares = quotas.filter_map(|(nth, ledger)| Some((nth, &**ledger, ledger.share_left(unit, now)?)));
        shares.min_by(|(_, _, a), (_, _, b)| a.total_cmp(b)).map(|(nth, ledger, _)| (nth, ledger))
    }
}

/// A deployment's meters under their locks; those of its own under the lock of its counters, which the caller holds.
pub(crate) struct Locked<'a>(&'a Metering);

impl Locked<'_> {
    /// Counts a request.
    pub(crate) fn charge(&self, demand: Demand, now: Nanos) -> Charges {
        let marks = self.meters().map(|meter| meter.charge(now, demand.of(meter.unit()))).collect();
        let reserved = self.0.quotas.iter().map(|ledger| ledger.observed().reserve(demand)).collect();
        Charges { marks, reserved }
    }

    /// Replaces what was counted; by nothing, if the request was never sent.
    pub(crate) fn settle(&self, charges: &Charges, estimated: Demand, actual: Option<Demand>, now: Nanos) {
        for (meter, &mark) in self.meters().zip(&charges.marks) {
            let (was, is) = (estimated.of(meter.unit()), actual.map(|actual| actual.of(meter.unit())));
            if is != Some(was) {
                meter.settle(now, mark, was, is);
            }
        }
        for (ledger, reserved) in self.0.quotas.iter().zip(&charges.reserved) {
            ledger.observed().settle(reserved, estimated, actual);
        }
    }

    fn meters(&self) -> impl Iterator<Item = &Meter> {
        self.0.own.iter().chain(self.0.quotas.iter().flat_map(|ledger| &ledger.meters))
    }
}

/// What a request was charged.
#[derive(Debug, Default)]
pub(crate) struct Charges {
    /// One a meter.
    marks: Vec<Charge>,
    /// What each quota had reserved in all, this request included.
    reserved: Vec<Reserved>,
}

impl Charges {
    pub(crate) fn reserved(&self, nth: usize) -> Option<&Reserved> {
        self.reserved.get(nth)
    }
}

fn lacks(meters: &[Meter], demand: Demand, now: Nanos) -> Option<Spent> {
    (0..).zip(meters).find_map(|(nth, meter)| meter.lacks(nth, now, demand.least(meter.unit())))
}

fn frees_at(meters: &[Meter], demand: Demand, now: Nanos) -> Option<Nanos> {
    meters.iter().try_fold(now, |at, meter| Some(at.max(meter.frees_at(now, demand.least(meter.unit()))?)))
}

/// A quota that a group's members are under, and how many of them are.
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

    /// Whether all of them let a request through, as they are now.
    #[inline]
    pub(crate) fn are_open(&self, demand: impl FnOnce() -> (Demand, Nanos)) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let (demand, now) = demand();
        self.0.iter().all(|(ledger, _)| ledger.lacks(demand, now).is_none())
    }
}

/// What a limit stands at, for people to read.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitStats {
    /// The limit.
    pub limit: Limit,
    /// The quota it belongs to; None for the deployment's own.
    pub quota: Option<Arc<str>>,
    /// What is used.
    pub used: u64,
    /// What is left to use now.
    pub remaining: u64,
    /// Seconds until all of it is left, if nothing more is used.
    pub resets_in: f64,
}

impl LimitStats {
    fn new(meter: &Meter, quota: Option<&Quota>, now: Nanos) -> Self {
        let full_at = meter.frees_at(now, meter.limit().capacity()).unwrap_or(now);
        Self {
            limit: *meter.limit(),
            quota: quota.map(|quota| Arc::clone(quota.shared_id())),
            used: meter.used(now),
            remaining: meter.left(now),
            resets_in: crate::clock::seconds(full_at.saturating_sub(now)),
        }
    }

    /// All limits of a deployment.
    pub(crate) fn all(metering: Option<&Metering>, now: Nanos) -> Vec<Self> {
        let Some(metering) = metering else { return Vec::new() };
        let own = metering.own.iter().map(|meter| Self::new(meter, None, now));
        let shared =
            metering.quotas.iter().flat_map(|ledger| ledger.meters.iter().map(|meter| Self::new(meter, Some(&ledger.quota), now)));
        own.chain(shared).collect()
    }
}
