//! The charges of a request beside those of its minute.

use crate::base::clock::Now;
use crate::base::lock::Held;
use crate::base::time::Nanos;
use crate::counters::{State, mark};
use crate::facts::Request;
use crate::gates::{Refusal, Waived, check};
use crate::group::Entry;
use crate::limits::{Charges, Demand, Minute, Reserved};

/// The charges of a request beside those of its minute.
#[derive(Debug)]
pub(crate) struct Receipt {
    pub(super) demand: Demand,
    charges: Charges,
    /// The units that were reserved in all when this request had reserved, if the provider has said what is
    /// left.
    reserved: Option<Reserved>,
}

impl Receipt {
    /// Charges a request if every gate lets it pass.
    #[cold]
    pub(super) fn take<T>(
        entry: &Entry<T>,
        state: &State,
        held: &Held<'_>,
        request: &Request,
        waived: Waived,
        now: &Now<'_>,
    ) -> Result<Box<Self>, Refusal> {
        let demand = Demand::from(request);
        let charges = if let Some(metering) = &entry.metering {
            metering.with_locks(|locked| {
                check(entry, state, request, waived, now)?;
                locked.enter();
                Ok(locked.charge(demand, now.get()))
            })?
        } else {
            check(entry, state, request, waived, now)?;
            Charges::default()
        };
        charge_heir(entry, held, demand, now.get());
        let mut reserved = None;
        if state.marks() & mark::OBSERVED != 0 {
            let observed = &state.annex().observed;
            reserved = Some(observed.reserve(demand));
            // Nothing that the provider said holds any more. Later requests are charged the short way until
            // it says something new.
            if !observed.hold(now.get()) {
                state.mark(held, mark::OBSERVED, false);
            }
        }
        Ok(Box::new(Self { demand, charges, reserved }))
    }

    /// Replaces the estimate that was charged by the actual use. None: the request was never sent, so nothing
    /// stays charged.
    #[inline(never)]
    pub(super) fn settle<T>(&self, entry: &Entry<T>, _: &Held<'_>, actual: Option<Demand>, now: Nanos) {
        if actual == Some(self.demand) {
            return;
        }
        if let Some(reserved) = &self.reserved {
            entry.slot.annex().observed.settle(reserved, self.demand, actual);
        }
        if let Some(metering) = &entry.metering {
            metering.with_locks(|locked| locked.settle(&self.charges, self.demand, actual, now));
        }
    }

    /// Returns what was reserved in all when this request had reserved, this request included. It is that of
    /// the deployment, or of one of its quotas.
    pub(crate) fn reserved(&self, quota: Option<usize>) -> Option<&Reserved> {
        match quota {
            Some(nth) => self.charges.reserved(nth),
            None => self.reserved.as_ref(),
        }
    }
}

/// Counts a request with the limits of the facts that are about to take the place of the entry's. Until its
/// group knows them, requests still come by the old facts.
#[inline]
fn charge_heir<T>(entry: &Entry<T>, _: &Held<'_>, demand: Demand, now: Nanos) {
    if let Some(metering) = entry.heir().as_ref().and_then(|heir| heir.metering.as_ref()) {
        metering.charge_ahead(entry.metering.as_deref(), demand, now);
    }
}

/// Counts a request that was sent without a lease. Returns the minute that counted it.
pub(super) fn charge_unleased<T>(entry: &Entry<T>, held: &Held<'_>, tokens: u64, now: Nanos) -> Minute {
    let demand = Demand { tokens, split: None };
    if let Some(metering) = &entry.metering {
        metering.with_locks(|locked| locked.charge(demand, now));
    }
    charge_heir(entry, held, demand, now);
    if entry.slot.marks() & mark::OBSERVED != 0 {
        entry.slot.annex().observed.reserve(demand);
    }
    entry.slot.window.charge(held, entry.services.clock.wall_at(now), tokens)
}
