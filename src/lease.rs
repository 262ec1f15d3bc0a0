//! A reservation that ends exactly once.

use std::hint::black_box;
use std::sync::Arc;

use crate::clock::{Nanos, Now};
use crate::deployment::Deployment;
use crate::health::{Failure, FailureKind};
use crate::index;
use crate::learn::{self, Observed, Reserved};
use crate::limits::{Charges, Demand, Minute};
use crate::outcome::Success;
use crate::registry::Entry;
use crate::select::{Refusal, Request, Waived, gate};
use crate::state::{Held, State, mark};
use crate::sync::atomic::{AtomicBool, Ordering};

/// One place in flight on a deployment, counted in its minute together with its estimated tokens.
///
/// The first of [`success`](Self::success), [`failure`](Self::failure) and [`release`](Self::release) ends it; later ones do nothing.
/// Dropping it releases it.
#[derive(Debug)]
pub struct Lease<T> {
    entry: Arc<Entry<T>>,
    tokens: u64,
    minute: Minute,
    acquired_at: Nanos,
    ended: AtomicBool,
    /// Whether it has the one place of a deployment on probation.
    probes: bool,
    /// What it was charged beside its minute; None for most.
    receipt: Option<Box<Receipt>>,
}

/// What a request was charged beside its minute.
#[derive(Debug)]
pub(crate) struct Receipt {
    demand: Demand,
    charges: Charges,
    /// What was reserved of what the provider said is left, if it said anything.
    reserved: Option<Reserved>,
}

impl Receipt {
    /// Charges a request if every gate lets it pass.
    #[cold]
    fn take<T>(
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
                gate(entry, state, request, waived, now)?;
                Ok(locked.charge(demand, now.get()))
            })?
        } else {
            gate(entry, state, request, waived, now)?;
            Charges::default()
        };
        let mut reserved = None;
        if state.marks() & mark::OBSERVED != 0 {
            let observed = &state.annex().observed;
            reserved = Some(observed.reserve(demand));
            // Nothing that was said holds any more: what comes is charged the short way until something new is.
            if !observed.hold(now.get()) {
                state.mark(held, mark::OBSERVED, false);
            }
        }
        Ok(Box::new(Self { demand, charges, reserved }))
    }

    /// What was reserved in all of what the provider said is left, this request included: of the deployment, or of one of its quotas.
    pub(crate) fn reserved(&self, quota: Option<usize>) -> Option<&Reserved> {
        match quota {
            Some(nth) => self.charges.reserved(nth),
            None => self.reserved.as_ref(),
        }
    }
}

impl<T> Lease<T> {
    /// Reserves if every gate still lets the request pass: the check and the reservation are one step. `state` has the entry's counters.
    ///
    /// The caller renews the deployment's leaf in the index.
    #[inline]
    pub(crate) fn reserve(
        entry: &Arc<Entry<T>>,
        state: &State,
        request: &Request,
        waived: Waived,
        now: &Now<'_>,
    ) -> Result<Self, Refusal> {
        // Taking the lock waits for what was read before and holds up what is read after. Among very many deployments neither the limits
        // nor the counters are in the cache, and so both are fetched at once.
        black_box(entry.deployment().tpm_limit());
        let held = state.hold();
        let receipt = if state.marks() & (mark::METERED | mark::OBSERVED) == 0 {
            gate(entry, state, request, waived, now)?;
            None
        } else {
            Some(Receipt::take(entry, state, &held, request, waived, now)?)
        };
        let minute = state.reserve(&held, now.get(), request.tokens);
        let cooldown_until = state.health.cooldown_until();
        let is_on_probation = cooldown_until != 0 && entry.common.breaker.is_some() && cooldown_until <= now.get();
        let probes = is_on_probation && state.take_probe(&held);
        drop(held);
        Ok(Self {
            entry: Arc::clone(entry),
            tokens: request.tokens,
            minute,
            acquired_at: now.get(),
            ended: AtomicBool::new(false),
            probes,
            receipt,
        })
    }

    /// The chosen deployment.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        self.entry.deployment()
    }

    /// What the application attached to it.
    #[must_use]
    pub fn attachment(&self) -> &T {
        self.entry.attachment()
    }

    /// The tokens reserved.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// What the application attached, if nothing but this lease keeps it alive.
    #[cfg(feature = "python")]
    pub(crate) fn own_attachment(&self) -> Option<&T> {
        (Arc::strong_count(&self.entry) == 1).then(|| self.entry.attachment())
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Ends it with a success: the actual tokens replace the estimate (None keeps it), the latency in microseconds goes into the
    /// average (None takes the time since acquire). `split` says how many tokens were the prompt's and the answer's. Returns whether this
    /// call ended it.
    pub fn success(&self, tokens: Option<u64>, split: Option<(u64, u64)>, latency_us: Option<u64>) -> bool {
        let now = self.entry.common.clock.now();
        let given = tokens.or_else(|| split.map(|(input, output)| input.saturating_add(output)));
        let settled = given.unwrap_or(self.tokens);
        let latency_us = latency_us.unwrap_or(now.saturating_sub(self.acquired_at) / 1000);
        let success = Success { tokens: settled, latency_us: Some(latency_us), sent_at: self.acquired_at };
        self.entry.succeed(now, &success, |state| {
            let held = self.end()?;
            state.window.settle(&held, self.minute, self.tokens, settled);
            if let Some(receipt) = &self.receipt {
                self.settle(receipt, &held, Some(receipt.demand.settled(tokens, split)), now);
            }
            if state.marks() & mark::CAPPED != 0 {
                // It has left already, and counts here.
                state.annex().cap.served(state.in_flight().saturating_add(1));
            }
            Some((held, self.minute))
        })
    }

    /// Ends it with a failure. What it reserved stays in the window, since the provider may have counted it. Returns whether this call
    /// ended it.
    pub fn failure(&self, kind: FailureKind, retry_after: Option<Nanos>) -> bool {
        if self.has_ended() {
            return false;
        }
        let failure = Failure { kind, retry_after, sent_at: self.acquired_at, has_lease: true };
        self.entry.fail(self.entry.common.clock.now(), &failure, |_| Some((self.end()?, self.minute)))
    }

    /// Ends it without an outcome. `unused` gives back what it reserved in the window too. Returns whether this call ended it.
    #[inline]
    pub fn release(&self, unused: bool) -> bool {
        // Asked here, since every lease is released once more when it is dropped.
        !self.has_ended() && self.release_now(unused)
    }

    fn release_now(&self, unused: bool) -> bool {
        let Some(held) = self.end() else { return false };
        if unused {
            self.entry.slot.window.refund(&held, self.minute, self.tokens);
            if let Some(receipt) = &self.receipt {
                self.settle(receipt, &held, None, self.acquired_at);
            }
        }
        drop(held);
        index::renew(&self.entry, &Now::new(&self.entry.common.clock));
        self.entry.through();
        true
    }

    /// Takes in what the headers of its answer say about the provider's limits, and how long it wants not to be asked. Works before and
    /// after the lease has ended.
    pub fn observe(&self, said: &[Observed], retry_after: Option<Nanos>) {
        learn::observe(&self.entry, said, retry_after, self.acquired_at, self.receipt.as_deref(), self.entry.common.clock.now());
    }

    /// Whether its router takes limits from the headers of exceptions.
    #[cfg(feature = "python")]
    pub(crate) fn learns_from_headers(&self) -> bool {
        self.entry.common.learning.headers
    }

    /// Replaces what it was charged beside its minute; by nothing, if the request was never sent.
    #[inline(never)]
    fn settle(&self, receipt: &Receipt, _: &Held<'_>, actual: Option<Demand>, now: Nanos) {
        if let Some(reserved) = &receipt.reserved {
            self.entry.slot.annex().observed.settle(reserved, receipt.demand, actual);
        }
        if let Some(metering) = &self.entry.metering {
            metering.with_locks(|locked| locked.settle(&receipt.charges, receipt.demand, actual, now));
        }
    }

    /// Renews the leaf that the counters belong to if the deployment was replaced while its old leaf was still in use.
    #[inline]
    pub(crate) fn renew_moved(&self) {
        if !self.entry.is_registered() {
            index::renew(&self.entry, &Now::at(&self.entry.common.clock, self.acquired_at));
        }
    }

    /// Gives back its place in flight, unless it has ended before. Whoever gets the lock ended it, and nobody else will.
    #[inline]
    fn end(&self) -> Option<Held<'_>> {
        if self.has_ended() {
            return None;
        }
        let state = &*self.entry.slot;
        let held = state.hold();
        if self.has_ended() {
            return None;
        }
        self.ended.store(true, Ordering::Relaxed);
        state.leave(&held);
        if self.probes {
            state.free_probe(&held);
        }
        Some(held)
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        self.release(false);
    }
}
