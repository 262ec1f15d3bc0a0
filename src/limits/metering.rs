//! The counters of a deployment beside its minute window: limits of its own, and quotas that it shares.

use std::sync::Arc;

use super::demand::Demand;
use super::ledger::{Ledger, LedgerHeld};
use super::limit::Limit;
use super::meter::{Charge, Meter};
use super::observed::Reserved;
use super::share::{Marks, Share, SharedShortfall};
use super::shortfall::{LimitShortfall, Shortfall};
use super::unit::Unit;
use super::usage::Usage;
use crate::base::clock::Now;
use crate::base::lock::Held;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::time::Nanos;

/// The counters of a deployment beside its minute window.
#[derive(Debug)]
pub(crate) struct Metering {
    /// Its own meters. The lock of its counters guards them.
    own: Box<[Meter]>,
    /// The ledgers of its quotas, in the order of their locks.
    quotas: Box<[Arc<Ledger>]>,
    /// What this process holds of its limits, if processes share them.
    share: Option<Arc<Share>>,
    /// The bits of its quotas in its group: see [`Quotas`](super::quotas::Quotas).
    bits: AtomicU64,
}

impl Metering {
    pub(crate) fn new(own: Box<[Meter]>, mut quotas: Vec<Arc<Ledger>>, share: Option<Arc<Share>>) -> Self {
        quotas.sort_unstable_by_key(|ledger| ledger.serial());
        Self { own, quotas: quotas.into(), share, bits: AtomicU64::new(0) }
    }

    pub(crate) fn own(&self) -> &[Meter] {
        &self.own
    }

    pub(crate) fn quotas(&self) -> &[Arc<Ledger>] {
        &self.quotas
    }

    pub(crate) fn share(&self) -> Option<&Share> {
        self.share.as_deref()
    }

    /// Returns the shares of the deployment and of its quotas.
    fn shares(&self) -> impl Iterator<Item = &Share> {
        self.share().into_iter().chain(self.quotas.iter().filter_map(|ledger| ledger.share()))
    }

    /// Notes what this process lacks for a request. Returns whether it lacks anything that other processes
    /// may have.
    pub(crate) fn note_need(&self, demand: Demand, now: Nanos) -> bool {
        // All of them: a request needs all at once.
        self.shares().fold(false, |lacks, share| share.note_need(demand, now) | lacks)
    }

    pub(super) fn set_bits(&self, bits: u64) {
        self.bits.store(bits, Ordering::Relaxed);
    }

    /// Returns the bits of its quotas in its group.
    pub(crate) fn bits(&self) -> u64 {
        self.bits.load(Ordering::Relaxed)
    }

    /// Locks the quotas, and then the shares. The lock of the counters comes before these locks.
    fn hold(&self) -> (Vec<LedgerHeld<'_>>, Option<Held<'_>>, Vec<Held<'_>>) {
        let quotas = self.quotas.iter().map(|ledger| ledger.hold()).collect();
        let own = self.share().map(Share::hold);
        (quotas, own, self.quotas.iter().filter_map(|ledger| Some(ledger.share()?.hold())).collect())
    }

    /// Returns why its own limits do not let a request through; None if they do.
    pub(crate) fn shortfall(&self, demand: Demand, now: Nanos) -> Option<LimitShortfall> {
        Meter::shortfall_of(&self.own, demand, now)
    }

    /// Returns why a request is stopped by what this process holds of its own limits; None if it is not.
    #[inline]
    pub(crate) fn share_shortfall(&self, demand: Demand, now: Nanos) -> Option<SharedShortfall> {
        self.share()?.shortfall(demand, now)
    }

    /// Returns the first quota that does not let a request through, and why. `all`: what this process holds
    /// of it counts too.
    pub(crate) fn quota_shortfall(&self, demand: Demand, now: Nanos, all: bool) -> Option<(u32, Shortfall)> {
        let shortfall = |ledger: &Ledger| if all { ledger.shortfall(demand, now) } else { ledger.own_shortfall(demand, now) };
        (0..).zip(&self.quotas).find_map(|(nth, ledger)| Some((nth, shortfall(ledger)?)))
    }

    /// Returns when its own limits may let a request through, now at the earliest; None if it never fits.
    pub(crate) fn own_frees_at(&self, demand: Demand, now: Nanos) -> Option<Nanos> {
        let own = Meter::all_free_at(&self.own, demand, now)?;
        Some(self.share().map_or(own, |share| own.max(share.frees_at(demand, now))))
    }

    /// Returns when its quotas may let a request through, now at the earliest; None if it never fits.
    pub(crate) fn quotas_free_at(&self, demand: Demand, now: Nanos) -> Option<Nanos> {
        self.quotas.iter().try_fold(now, |at, ledger| Some(at.max(ledger.frees_at(demand, now)?)))
    }

    /// Returns the smallest limit that a request is too large for; None if it may fit.
    pub(crate) fn exceeded(&self, demand: Demand) -> Option<u64> {
        let meters = self.own.iter().chain(self.quotas.iter().flat_map(|ledger| ledger.meters()));
        let sizes = meters.map(|meter| (meter.limit().capacity(), demand.least(meter.unit())));
        sizes.filter(|(capacity, asked)| asked > capacity).map(|(capacity, _)| capacity).min()
    }

    /// Returns whether a limit of its own counts prompts or answers apart.
    pub(crate) fn limits_parts(&self) -> bool {
        self.own.iter().any(|meter| meter.unit().is_part())
    }

    /// Returns the tokens that its own limits leave any request, however its tokens are split. Also returns
    /// whether some requests may find more: see `index::Leaf`.
    pub(crate) fn tokens_left(&self, now: &Now<'_>) -> (u64, bool) {
        let (mut tokens, mut understates) = (u64::MAX, false);
        if let Some(share) = self.share().filter(|share| share.limits_tokens()) {
            tokens = share.tokens_left(now.get());
            understates = share.limits_parts();
            if let Some(at) = share.changes_at(now.get()) {
                now.note_change(at);
            }
        }
        for meter in self.own.iter().filter(|meter| meter.unit() != Unit::Requests) {
            tokens = tokens.min(meter.left(now.get()));
            let (usage, until) = meter.usage(now.get());
            understates |= meter.unit().is_part() || (usage.current > 0 && meter.refills_bit_by_bit());
            if let Some(until) = until {
                now.note_change(until);
            }
        }
        (tokens, understates)
    }

    /// Returns the usage of its fullest limit on some units, as a strategy compares it. If time changes it,
    /// also returns until when it holds.
    pub(crate) fn usage(&self, counts: impl Fn(Unit) -> bool, now: Nanos) -> Option<(Usage, Option<Nanos>)> {
        let usages = self.own.iter().filter(|meter| counts(meter.unit())).map(|meter| meter.usage(now));
        usages.reduce(|(fullest, until), (usage, at)| {
            let fullest = if usage.is_fuller_than(&fullest) { usage } else { fullest };
            (fullest, until.into_iter().chain(at).min())
        })
    }

    /// Counts a request of a deployment with other facts, which are about to give way to those of this
    /// metering: in its own meters, but for those that count on from the `earlier` ones. The caller holds the
    /// lock of the counters.
    pub(crate) fn charge_ahead(&self, earlier: Option<&Self>, demand: Demand, now: Nanos) {
        Meter::charge_others(&self.own, earlier.map_or(&[], |earlier| &earlier.own), demand, now);
    }

    /// Calls `with` under the locks of all quotas.
    pub(crate) fn with_locks<R>(&self, with: impl FnOnce(&Locked<'_>) -> R) -> R {
        let _held = self.hold();
        with(&Locked(self))
    }

    /// Returns the quota that is nearest to one of its limits, by its number in the order of the locks.
    pub(crate) fn nearest_quota(&self, now: Nanos) -> Option<usize> {
        let shares = self.quotas.iter().enumerate().filter_map(|(nth, ledger)| Some((nth, ledger.share_left(now)?)));
        shares.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(nth, _)| nth)
    }

    /// Returns the serial numbers of its quotas that let some request through.
    pub(crate) fn open_quotas(&self, now: Nanos) -> Vec<u64> {
        let open = self.quotas.iter().filter(|ledger| ledger.shortfall(Demand { tokens: 0, split: None }, now).is_none());
        open.map(|ledger| ledger.serial()).collect()
    }

    /// Returns the first quota with such a limit, and its number in the order of the locks.
    pub(crate) fn quota_with(&self, is_it: impl Fn(&Limit) -> bool) -> Option<(usize, &Ledger)> {
        let mut quotas = self.quotas.iter().enumerate();
        quotas.find(|(_, ledger)| ledger.quota().limits().iter().any(&is_it)).map(|(nth, ledger)| (nth, &**ledger))
    }
}

/// A deployment's meters under their locks. Its own meters are under the lock of its counters, which the
/// caller holds.
pub(crate) struct Locked<'a>(&'a Metering);

impl Locked<'_> {
    /// Counts a request.
    pub(crate) fn charge(&self, demand: Demand, now: Nanos) -> Charges {
        let mut pieces = Marks::new();
        let own = self.0.share().map(|share| (share, &*self.0.own));
        let quotas = self.0.quotas.iter().filter_map(|ledger| Some((ledger.share()?, ledger.meters())));
        for (share, meters) in own.into_iter().chain(quotas) {
            let windows = share.charge(demand, now, &mut pieces);
            meters.iter().zip(windows).for_each(|(meter, window)| meter.follow(window));
        }
        let marks = self.meters().map(|meter| meter.charge(now, demand.of(meter.unit()))).collect();
        let reserved = self.0.quotas.iter().map(|ledger| ledger.observed().reserve(demand)).collect();
        self.0.quotas.iter().for_each(|ledger| ledger.charge_successor(demand, now));
        Charges { marks, reserved, pieces }
    }

    /// Takes a place in flight, where processes share the places.
    pub(crate) fn enter(&self) {
        self.0.share().into_iter().for_each(Share::enter);
    }

    /// Replaces what was counted. None: the request was never sent, so nothing stays counted.
    pub(crate) fn settle(&self, charges: &Charges, estimated: Demand, actual: Option<Demand>, now: Nanos) {
        for (meter, &mark) in self.meters().zip(&charges.marks) {
            let (was, is) = (estimated.of(meter.unit()), actual.map(|actual| actual.of(meter.unit())));
            if is != Some(was) {
                meter.settle(now, mark, was, is);
            }
        }
        let mut pieces = &charges.pieces[..];
        for share in self.0.shares() {
            pieces = share.settle(pieces, estimated, actual);
        }
        for (ledger, reserved) in self.0.quotas.iter().zip(&charges.reserved) {
            ledger.observed().settle(reserved, estimated, actual);
        }
    }

    fn meters(&self) -> impl Iterator<Item = &Meter> {
        self.0.own.iter().chain(self.0.quotas.iter().flat_map(|ledger| ledger.meters()))
    }
}

/// The charges of a request.
#[derive(Debug, Default)]
pub(crate) struct Charges {
    /// One mark for each meter.
    marks: Vec<Charge>,
    /// The units that each quota had reserved in all, this request included.
    reserved: Vec<Reserved>,
    /// One mark for each limit that processes share.
    pieces: Marks,
}

impl Charges {
    pub(crate) fn reserved(&self, nth: usize) -> Option<&Reserved> {
        self.reserved.get(nth)
    }
}
