//! A deployment's counters: one block of atomics, addressed by its slot in a table.
//!
//! Nothing else holds counters, and a block holds nothing but counters: that is what lets them move into memory shared by processes.
//! A block outlives its deployment for as long as a lease on it lives, and is then used again.
//!
//! Anyone may read a block at any time. Writers take the block's lock, for a few nanoseconds in which nothing else runs: a reservation
//! in three dimensions is then one step that others see whole or not at all, where a rollback between separate atomics would show
//! them counts that nobody has.

use std::ops::Deref;
use std::sync::{Arc, OnceLock, PoisonError};

use crate::clock::{Nanos, seconds};
use crate::deployment::Deployment;
use crate::health::{Breaker, BreakerRules, Health, Status};
use crate::learn::{Cap, Observations, ObservedStats};
use crate::limits::{Counts, LimitStats, Metering, Minute, MinuteWindow};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// Proof that the caller holds a block's lock.
pub(crate) struct Held<'a>(#[allow(dead_code, reason = "held, not read")] MutexGuard<'a, ()>);

/// The counters of one deployment.
#[derive(Debug, Default)]
#[repr(C, align(128))] // no two deployments share a cache line or its neighbour; a pick and a reservation need the first one alone
pub(crate) struct State {
    lock: Mutex<()>,
    in_flight: AtomicU32,
    /// Which of the checks that few deployments need a pick has to make here: the bits of [`mark`].
    marks: AtomicU32,
    pub(crate) health: Health,
    pub(crate) window: MinuteWindow,
    total_successes: AtomicU64,
    total_failures: AtomicU64,
    total_tokens: AtomicU64,
    /// The slots that point here.
    owners: AtomicU32,
    /// What few deployments need; made when first needed.
    annex: OnceLock<Box<Annex>>,
}

/// The bits of a block's marks.
pub(crate) mod mark {
    /// The provider said what is left, and until when: see `learn`.
    pub(crate) const OBSERVED: u32 = 1 << 0;
    /// A cap on what is in flight was learnt: see `learn`.
    pub(crate) const CAPPED: u32 = 1 << 1;
    /// It returned or joined, and its share grows: see `health`.
    pub(crate) const SLOW_START: u32 = 1 << 2;
    /// Its recent failures weigh on it as if they were in flight: see `health`.
    pub(crate) const PENALIZED: u32 = 1 << 3;
    /// It has limits beside the minute's, or is under quotas: see `limits`.
    pub(crate) const METERED: u32 = 1 << 4;
}

/// Counters that few deployments need, beside their block. Written under its lock.
#[derive(Debug, Default)]
pub(crate) struct Annex {
    pub(crate) observed: Observations,
    pub(crate) cap: Cap,
    pub(crate) breaker: Breaker,
}

impl State {
    /// Takes the lock.
    #[inline]
    pub(crate) fn hold(&self) -> Held<'_> {
        Held(self.lock.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leases that have not ended.
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The marks, 0 for most.
    #[inline]
    pub(crate) fn marks(&self) -> u32 {
        self.marks.load(Ordering::Relaxed)
    }

    /// Sets or takes away a mark.
    pub(crate) fn mark(&self, _: &Held<'_>, mark: u32, is_on: bool) {
        let others = self.marks() & !mark;
        self.marks.store(if is_on { others | mark } else { others }, Ordering::Relaxed);
    }

    /// The counters that few deployments need, if there are any.
    #[inline]
    pub(crate) fn made_annex(&self) -> Option<&Annex> {
        self.annex.get().map(|annex| &**annex)
    }

    /// The counters that few deployments need, empty ones if there were none so far.
    pub(crate) fn annex(&self) -> &Annex {
        self.annex.get_or_init(Box::default)
    }

    /// Takes a place in flight, a request and its tokens. The caller has checked, under the same lock, that there is room.
    #[inline]
    pub(crate) fn reserve(&self, held: &Held<'_>, now: Nanos, tokens: u64) -> Minute {
        self.in_flight.store(self.in_flight().saturating_add(1), Ordering::Relaxed);
        self.window.charge(held, now, tokens)
    }

    /// Gives back a place in flight.
    #[inline]
    pub(crate) fn leave(&self, _: &Held<'_>) {
        self.in_flight.store(self.in_flight().saturating_sub(1), Ordering::Relaxed);
    }

    /// Counts the success of a request that `counted_in` counted.
    #[inline]
    pub(crate) fn success(&self, held: &Held<'_>, now: Nanos, counted_in: Minute, tokens: u64, latency_us: Option<u64>) {
        add(&self.total_successes, 1);
        add(&self.total_tokens, tokens);
        self.window.outcome(held, now, counted_in);
        if let Some(sample) = latency_us {
            self.health.smooth_latency(held, sample);
        }
    }

    /// Counts the failure of a request that `counted_in` counted, and returns what this minute has counted.
    pub(crate) fn failure(&self, held: &Held<'_>, now: Nanos, counted_in: Minute) -> Counts {
        add(&self.total_failures, 1);
        self.window.failure(held, now, counted_in)
    }

    /// Takes in a failure that says nothing about the deployment's health, but about something that it shares.
    pub(crate) fn failed_elsewhere(&self, _: &Held<'_>) {
        add(&self.total_failures, 1);
    }

    /// What there is to tell.
    pub(crate) fn stats(
        &self,
        deployment: &Deployment,
        metering: Option<&Metering>,
        rules: Option<&BreakerRules>,
        now: Nanos,
    ) -> Stats {
        let held = self.hold();
        let breaker = rules.map(|rules| self.breaker_stats(rules, now)).unwrap_or_default();
        let minute = self.window.counts(now);
        Stats {
            deployment_id: Arc::clone(deployment.shared_id()),
            model_name: Arc::clone(deployment.shared_model_name()),
            status: self.health.status(now),
            in_flight: self.in_flight(),
            max_parallel_requests: deployment.max_parallel_requests(),
            rpm_current: minute.requests,
            rpm_limit: deployment.rpm_limit(),
            tpm_current: minute.tokens,
            tpm_limit: deployment.tpm_limit(),
            fails_this_minute: minute.fails,
            cooldown_remaining: seconds(self.health.cooldown_until().saturating_sub(now)),
            avg_latency_us: self.health.avg_latency_us(),
            consecutive_successes: self.health.consecutive_successes(),
            total_requests: self.window.total_requests(&held),
            total_successes: self.total_successes.load(Ordering::Relaxed),
            total_failures: self.total_failures.load(Ordering::Relaxed),
            total_tokens: self.total_tokens.load(Ordering::Relaxed),
            limits: LimitStats::all(metering, now),
            observed: ObservedStats::all(self.made_annex().map(|annex| &annex.observed), metering, now),
            learnt_parallel_requests: self
                .made_annex()
                .map(|annex| annex.cap.most())
                .filter(|&most| most > 0 && !deployment.is_limited()),
            domain: deployment.shared_domain().cloned(),
            consecutive_failures: breaker.consecutive_failures,
            window_successes: breaker.window_successes,
            window_failures: breaker.window_failures,
            trips: breaker.trips,
            penalty: breaker.penalty,
            slow_start_share: breaker.slow_start_share,
        }
    }

    fn clear(&self) {
        self.in_flight.store(0, Ordering::Relaxed);
        self.marks.store(0, Ordering::Relaxed);
        if let Some(annex) = self.made_annex() {
            annex.observed.clear();
            annex.cap.clear();
            annex.breaker.clear();
        }
        self.window.clear();
        self.health.clear();
        for total in [&self.total_successes, &self.total_failures, &self.total_tokens] {
            total.store(0, Ordering::Relaxed);
        }
    }
}

/// Adds to a counter that only the holder of the lock writes.
#[inline]
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).saturating_add(by), Ordering::Relaxed);
}

/// A deployment's state at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Its id.
    pub deployment_id: Arc<str>,
    /// The model name whose group it is in.
    pub model_name: Arc<str>,
    /// What it is.
    pub status: Status,
    /// Leases that have not ended.
    pub in_flight: u32,
    /// Most leases in flight at once.
    pub max_parallel_requests: Option<u32>,
    /// Requests counted in the current minute.
    pub rpm_current: u64,
    /// Most requests in a minute.
    pub rpm_limit: Option<u64>,
    /// Tokens counted in the current minute, reserved ones included.
    pub tpm_current: u64,
    /// Most tokens in a minute.
    pub tpm_limit: Option<u64>,
    /// Failures in the current minute that count towards a cooldown.
    pub fails_this_minute: u32,
    /// Seconds until its cooldown ends; 0 if it is not cooling down.
    pub cooldown_remaining: f64,
    /// Smoothed latency in microseconds; 0 before the first sample.
    pub avg_latency_us: u64,
    /// Successes since the last failure.
    pub consecutive_successes: u32,
    /// Requests counted since it was added.
    pub total_requests: u64,
    /// Successes since it was added.
    pub total_successes: u64,
    /// Failures since it was added, neutral ones left out.
    pub total_failures: u64,
    /// Tokens of successes since it was added: those reported, or those estimated where none were.
    pub total_tokens: u64,
    /// Its limits beside requests and tokens a minute, those of its quotas included.
    pub limits: Vec<LimitStats>,
    /// What the provider said is left, as far as that holds, of its quotas too.
    pub observed: Vec<ObservedStats>,
    /// The most in flight that refusals have taught; None if nothing was learnt.
    pub learnt_parallel_requests: Option<u32>,
    /// Its failure domain.
    pub domain: Option<Arc<str>>,
    /// Failures since the last success; this and what follows by the rules of the breaker alone.
    pub consecutive_failures: u32,
    /// Successes in the window.
    pub window_successes: u64,
    /// Failures in the window.
    pub window_failures: u64,
    /// Cooldowns that are not forgotten: the next one grows by them.
    pub trips: u32,
    /// Failures that weigh on it like requests in flight.
    pub penalty: u32,
    /// The share of time in which slow start lets it be a candidate.
    pub slow_start_share: f64,
}

/// Totals over deployments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)] // the words are those of `Stats` and `Status`
pub struct Metrics {
    pub models: usize,
    pub deployments: u64,
    pub available: u64,
    pub degraded: u64,
    pub cooling_down: u64,
    pub unhealthy: u64,
    pub in_flight: u64,
    pub waiting: u64,
    pub total_requests: u64,
    pub total_successes: u64,
    pub total_failures: u64,
    pub total_tokens: u64,
    /// The model names whose groups panic.
    pub panicking: Vec<Arc<str>>,
}

impl Metrics {
    pub(crate) fn add(&mut self, stats: &Stats) {
        self.deployments += 1;
        *match stats.status {
            Status::Available => &mut self.available,
            Status::Degraded => &mut self.degraded,
            Status::CoolingDown => &mut self.cooling_down,
            Status::Unhealthy => &mut self.unhealthy,
        } += 1;
        self.in_flight += u64::from(stats.in_flight);
        self.total_requests = self.total_requests.saturating_add(stats.total_requests);
        self.total_successes = self.total_successes.saturating_add(stats.total_successes);
        self.total_failures = self.total_failures.saturating_add(stats.total_failures);
        self.total_tokens = self.total_tokens.saturating_add(stats.total_tokens);
    }
}

/// Blocks come in chunks, each twice the size of the one before, so that a block never moves.
const FIRST_CHUNK_BITS: u32 = 4;
const CHUNKS: usize = (u32::BITS - FIRST_CHUNK_BITS) as usize;

/// All blocks of a router.
#[derive(Debug)]
pub(crate) struct StateTable {
    chunks: [OnceLock<Box<[State]>>; CHUNKS],
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// Blocks that were used before.
    returned: Vec<u32>,
    /// The first block that never was.
    next: u32,
}

impl StateTable {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { chunks: [const { OnceLock::new() }; CHUNKS], free: Mutex::default() })
    }

    /// Hands out a block with nothing counted in it; None when 2^32 are in use.
    pub(crate) fn claim(self: &Arc<Self>) -> Option<Slot> {
        let index = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(index) = free.returned.pop() {
                index
            } else {
                let index = free.next;
                free.next = index.checked_add(1).filter(|_| place(index).0 < CHUNKS)?;
                index
            }
        };
        let slot = Slot { table: Arc::clone(self), index };
        slot.clear();
        slot.owners.store(1, Ordering::Relaxed);
        Some(slot)
    }

    /// The block of a slot with this index.
    #[inline]
    #[allow(clippy::indexing_slicing)] // `claim` hands out no index beyond them
    pub(crate) fn get(&self, index: u32) -> &State {
        let (chunk, offset) = place(index);
        let states = self.chunks[chunk].get_or_init(|| {
            let size = 1_usize << (u32::try_from(chunk).unwrap_or(0) + FIRST_CHUNK_BITS);
            (0..size).map(|_| State::default()).collect()
        });
        &states[offset]
    }
}

/// Where a block is: its chunk and its place there.
#[inline]
fn place(index: u32) -> (usize, usize) {
    let from_first = u64::from(index) + (1 << FIRST_CHUNK_BITS);
    let bits = from_first.ilog2();
    #[allow(clippy::cast_possible_truncation)] // below 2^32
    ((bits - FIRST_CHUNK_BITS) as usize, (from_first - (1 << bits)) as usize)
}

/// Owns a block together with its clones; the last one to go returns it to the table.
#[derive(Debug)]
pub(crate) struct Slot {
    table: Arc<StateTable>,
    index: u32,
}

impl Slot {
    pub(crate) fn index(&self) -> u32 {
        self.index
    }
}

impl Deref for Slot {
    type Target = State;

    #[inline]
    fn deref(&self) -> &State {
        self.table.get(self.index)
    }
}

impl Clone for Slot {
    fn clone(&self) -> Self {
        self.owners.fetch_add(1, Ordering::Relaxed);
        Self { table: Arc::clone(&self.table), index: self.index }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Release and acquire, as for any reference count: all that the owners wrote comes before the block is used again.
        if self.owners.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.table.free.lock().unwrap_or_else(PoisonError::into_inner).returned.push(self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_needs_one_cache_line() {
        assert!(std::mem::offset_of!(State, window) + MinuteWindow::RESERVED <= 64);
        assert_eq!(std::mem::size_of::<State>(), 128);
    }

    #[test]
    fn blocks_are_distinct_and_come_back_empty() {
        let table = StateTable::new();
        let slots: Vec<_> = (0..1000).map(|_| table.claim().unwrap()).collect();
        let mut indexes: Vec<_> = slots.iter().map(|slot| slot.index).collect();
        indexes.dedup();
        assert_eq!(indexes.len(), 1000);
        slots[7].reserve(&slots[7].hold(), 0, 5);
        assert!(slots.iter().enumerate().all(|(i, slot)| slot.in_flight() == u32::from(i == 7)));
        let clone = slots[7].clone();
        drop(slots);
        assert_eq!(clone.in_flight(), 1);
        drop(clone);
        let again: Vec<_> = (0..1000).map(|_| table.claim().unwrap()).collect();
        assert!(again.iter().all(|slot| slot.in_flight() == 0 && slot.index < 1000));
    }

    #[test]
    fn places_are_dense() {
        assert_eq!(place(0), (0, 0));
        assert_eq!(place(15), (0, 15));
        assert_eq!(place(16), (1, 0));
        assert_eq!(place(47), (1, 31));
        assert_eq!(place(48), (2, 0));
        assert_eq!(place(u32::MAX - 16).0, CHUNKS - 1);
        assert_eq!(place(u32::MAX).0, CHUNKS);
    }
}
