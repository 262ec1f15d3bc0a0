//! A reservation that ends exactly once, and the effects of its end.
//!
//! The end of a lease goes through these steps: [`Lease`] gives back its place under the lock of the
//! counters, [`outcome`] counts the outcome and asks the [`judge`] about a cooldown, and the leaf in the
//! index is renewed. Then all locks are free, waiters are woken and events are delivered (`Entry::finish`).

mod judge;
mod learn;
mod outcome;
mod receipt;
mod told;

use std::hint::black_box;
use std::sync::Arc;

use crate::base::clock::Now;
use crate::base::fork::forks;
use crate::base::lock::Held;
use crate::base::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::base::time::Nanos;
use crate::counters::{State, mark};
use crate::facts::{Deployment, Request};
use crate::gates::{Refusal, Waived, check};
use crate::group::Entry;
use crate::health::{FailureKind, Scope, has_come};
use crate::limits::{Minute, Observed};

use outcome::Success;
use receipt::Receipt;

/// One place in flight on a deployment, counted in its minute together with its estimated tokens.
///
/// The first of [`success`](Self::success), [`failure`](Self::failure) and [`release`](Self::release) ends
/// it; later ones do nothing. Dropping it releases it.
///
/// ```
/// use turnout::{Deployment, Request, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, ())?);
/// let lease = router.acquire("gpt-4o", &Request { tokens: 900, ..Request::default() })?;
/// assert!(lease.success(Some(412), None, None));
/// assert!(!lease.release(false), "it has ended");
/// assert_eq!(router.stats("azure-eu")?.tpm_current, 412);
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug)]
pub struct Lease<T> {
    entry: Arc<Entry<T>>,
    tokens: u64,
    minute: Minute,
    /// The process that it belongs to. In a forked child it counts as ended.
    forks: u16,
    acquired_at: Nanos,
    ended: AtomicBool,
    /// The microseconds to the first token; 0 before it. Over an hour is as slow as an hour.
    first_token_us: AtomicU32,
    /// Whether it has the one place of a deployment on probation.
    probes: bool,
    /// The provider's own identifier of the model, where the deployment serves many; None elsewhere.
    model: Option<Box<str>>,
    /// Its charges beside those of its minute; None for most.
    receipt: Option<Box<Receipt>>,
}

impl<T> Lease<T> {
    /// Reserves if every gate still lets the request pass. The check and the reservation are one step.
    /// `state` has the entry's counters.
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
        // To take the lock, the processor waits for all reads before it, and starts no later read before it
        // has the lock. Among very many deployments, neither the limits nor the counters are in the cache. So
        // this reads a limit first, and both are fetched at once.
        black_box(entry.deployment().tpm_limit());
        let held = state.hold();
        let receipt = if state.marks() & (mark::METERED | mark::OBSERVED) == 0 {
            check(entry, state, request, waived, now)?;
            None
        } else {
            Some(Receipt::take(entry, state, &held, request, waived, now)?)
        };
        let minute = state.reserve(&held, now.wall(), request.tokens);
        let cooldown_until = state.vitals.cooldown_until();
        let is_on_probation = cooldown_until != 0 && entry.rules().health().is_some() && has_come(cooldown_until, now.get());
        let probes = is_on_probation && state.annex().breaker.take_probe(&held);
        if probes && let Some(share) = entry.metering.as_ref().and_then(|metering| metering.share()) {
            share.use_probe(true);
        }
        drop(held);
        Ok(Self {
            entry: Arc::clone(entry),
            tokens: request.tokens,
            minute,
            forks: process(),
            acquired_at: now.get(),
            ended: AtomicBool::new(false),
            first_token_us: AtomicU32::new(0),
            probes,
            model: None,
            receipt,
        })
    }

    /// Returns the chosen deployment.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        self.entry.deployment()
    }

    /// Returns the provider's own identifier of the model to ask for: that of the deployment, with each `*`
    /// replaced by what it stands for in the name that was asked for.
    #[must_use]
    pub fn model(&self) -> &str {
        self.model.as_deref().unwrap_or_else(|| self.deployment().model())
    }

    /// Learns which name was asked for, if the deployment serves many.
    #[inline]
    pub(crate) fn asked_for(mut self, name: impl FnOnce() -> Arc<str>) -> Self {
        if self.deployment().serves_many() {
            self.model = Some(self.deployment().model_for(&name()).into());
        }
        self
    }

    /// Returns what the application attached to it.
    #[must_use]
    pub fn attachment(&self) -> &T {
        self.entry.attachment()
    }

    /// Returns the tokens that were reserved.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Returns what the application attached, if the registry has dropped the entry. Only this lease keeps
    /// the attachment alive then.
    #[cfg(feature = "python")]
    pub(crate) fn own_attachment(&self) -> Option<&T> {
        (Arc::strong_count(&self.entry) == 1).then(|| self.entry.attachment())
    }

    /// Returns whether it has ended. In a forked child all leases of the parent have ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.forks != process()
    }

    /// Ends it with a success. The actual tokens replace the estimate; None keeps the estimate. The latency
    /// in microseconds goes into the average; None takes the time since the acquire. `split` gives the tokens
    /// of the prompt and of the answer. Returns whether this call ended it.
    pub fn success(&self, tokens: Option<u64>, split: Option<(u64, u64)>, latency_us: Option<u64>) -> bool {
        let now = self.entry.services.clock.now();
        let Some(held) = self.end() else { return false };
        let state = &*self.entry.slot;
        let given = tokens.or_else(|| split.map(|(input, output)| input.saturating_add(output)));
        let settled = given.unwrap_or(self.tokens);
        state.window.settle(&held, self.minute, self.tokens, settled);
        if let Some(receipt) = &self.receipt {
            receipt.settle(&self.entry, &held, Some(receipt.demand.settled(tokens, split)), now);
        }
        if state.marks() & mark::CAPPED != 0 {
            // This request has left already, and still counts here.
            state.annex().cap.served(state.in_flight().saturating_add(1));
        }
        let latency_us = latency_us.unwrap_or(now.saturating_sub(self.acquired_at) / 1000);
        let success = Success { tokens: settled, latency_us: Some(latency_us), sent_at: self.acquired_at, has_lease: true };
        self.entry.succeed(held, self.minute, now, &success);
        true
    }

    /// Ends it with a failure. What it reserved stays in the window, since the provider may have counted it.
    ///
    /// - `retry_after`: how long the provider wants no requests, if it says so. 0 is no wait.
    /// - `said`: what the headers of the answer say about the provider's limits. No waiter is woken by it
    ///   before a cooldown has begun.
    /// - `scope`: what a refusal is about, if that is known. If it is None, the limits that are said to be
    ///   spent decide: either a quota has them, or the deployment itself. If they do not decide, the refusal
    ///   is about the deployment.
    ///
    /// Returns whether this call ended it.
    pub fn failure(&self, kind: FailureKind, retry_after: Option<Nanos>, said: &[Observed], scope: Option<Scope>) -> bool {
        if self.has_ended() {
            return false;
        }
        let now = self.entry.services.clock.now();
        let heard = self.entry.hear(said, retry_after);
        let failure = heard.failure(&self.entry, kind, scope, self.acquired_at, true);
        if !said.is_empty() {
            self.entry.learn(&heard.said, Some(self.acquired_at), self.receipt.as_deref(), now);
        }
        let ended = self.entry.fail(now, &failure, || Some((self.end()?, self.minute)));
        if !ended && !said.is_empty() {
            // Another call has ended it meanwhile, perhaps before this one recorded the headers.
            self.entry.renew(&Now::at(&self.entry.services.clock, now));
            self.entry.finish();
        }
        ended
    }

    /// Records that the first token of its answer has come. Returns whether that is news: the first call
    /// before the end counts.
    pub fn first_token(&self) -> bool {
        if self.has_ended() {
            return false;
        }
        let now = self.entry.services.clock.now();
        // A first token that takes no time is known all the same.
        let sample_us = (now.saturating_sub(self.acquired_at) / 1000).max(1);
        let held = self.entry.slot.hold();
        if self.first_token_us.load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.first_token_us.store(u32::try_from(sample_us).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.entry.slot.first_token(&held, sample_us);
        drop(held);
        self.entry.renew(&Now::at(&self.entry.services.clock, now));
        true
    }

    /// Returns the microseconds from the acquire to the first token; None if that was not recorded.
    #[must_use]
    pub fn first_token_us(&self) -> Option<u64> {
        Some(u64::from(self.first_token_us.load(Ordering::Relaxed))).filter(|&sample| sample != 0)
    }

    /// Returns when it was acquired.
    #[must_use]
    pub fn acquired_at(&self) -> Nanos {
        self.acquired_at
    }

    /// Ends it without an outcome, after the provider has served a part of it: its reader has left. These
    /// tokens replace the estimate; see [`Lease::success`]. Returns whether this call ended it.
    pub fn release_used(&self, tokens: u64, split: Option<(u64, u64)>) -> bool {
        let now = self.entry.services.clock.now();
        let Some(held) = self.end() else { return false };
        self.entry.slot.window.settle(&held, self.minute, self.tokens, tokens);
        if let Some(receipt) = &self.receipt {
            receipt.settle(&self.entry, &held, Some(receipt.demand.settled(Some(tokens), split)), now);
        }
        drop(held);
        self.entry.renew(&Now::at(&self.entry.services.clock, now));
        self.entry.finish();
        true
    }

    /// Ends it without an outcome. `unused` gives back what it reserved in the window too. Returns whether
    /// this call ended it.
    #[inline]
    pub fn release(&self, unused: bool) -> bool {
        // This is checked first because every lease is released once more when it is dropped.
        !self.has_ended() && self.release_now(unused)
    }

    fn release_now(&self, unused: bool) -> bool {
        let Some(held) = self.end() else { return false };
        if unused {
            self.entry.slot.window.refund(&held, self.minute, self.tokens);
            if let Some(receipt) = &self.receipt {
                receipt.settle(&self.entry, &held, None, self.acquired_at);
            }
        }
        drop(held);
        self.entry.renew(&Now::new(&self.entry.services.clock));
        self.entry.finish();
        true
    }

    /// Records what the headers of its answer say about the provider's limits, and how long the provider
    /// wants no requests. It works before and after the lease has ended.
    pub fn observe(&self, said: &[Observed], retry_after: Option<Nanos>) {
        // Many answers say nothing.
        if said.is_empty() && retry_after.is_none() {
            return;
        }
        self.entry.observe(said, retry_after, Some(self.acquired_at), self.receipt.as_deref(), self.entry.services.clock.now());
    }

    /// Returns whether its router takes limits from the headers of exceptions.
    #[cfg(feature = "python")]
    pub(crate) fn learns_from_headers(&self) -> bool {
        self.entry.services.learning.get().headers
    }

    /// Renews the leaf that the counters belong to now, if the deployment was replaced while this lease was
    /// made with the old leaf.
    #[inline]
    pub(crate) fn renew_moved(&self) {
        if !self.entry.is_registered() {
            self.entry.renew(&Now::at(&self.entry.services.clock, self.acquired_at));
        }
    }

    /// Gives back its place in flight, unless it has ended before. The first call that gets the lock ends it.
    #[inline]
    fn end(&self) -> Option<Held<'_>> {
        let state = &*self.entry.slot;
        let held = state.hold();
        if self.has_ended() {
            return None;
        }
        self.ended.store(true, Ordering::Relaxed);
        state.leave(&held);
        if let Some(share) = self.entry.metering.as_ref().and_then(|metering| metering.share()) {
            share.leave();
            if self.probes {
                share.use_probe(false);
            }
        }
        if self.probes {
            state.annex().breaker.free_probe(&held);
        }
        Some(held)
    }
}

/// Returns a number of this process.
#[inline]
#[allow(clippy::cast_possible_truncation)] // no lease is kept through 65,536 forks
fn process() -> u16 {
    forks() as u16
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        self.release(false);
    }
}
