//! The lines of a router: how a waiter enters and leaves, and which waiters are rung for.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;

use rustc_hash::FxHashMap;

use super::line::{Class, Key, Line, Place};
use crate::base::clock::Clock;
use crate::base::doorbell::Wakes;
use crate::base::error::Error;
use crate::base::fork;
use crate::base::labels::Labels;
use crate::base::manual_clock::Watch;
use crate::base::sync::{Mutex, MutexGuard, hold};
use crate::base::time::Nanos;
use crate::facts::{Request, Waiting};
use crate::group::{Attachment, Services};
use crate::lease::Lease;

/// How long a request waits, and before which others it is served.
///
/// ```
/// let at_most_a_second = turnout::Patience { timeout: Some(1_000_000_000), ..Default::default() };
/// assert_eq!(at_most_a_second.priority, 0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patience {
    /// The longest time to wait; None for as long as it takes.
    pub timeout: Option<Nanos>,
    /// Lower numbers are served first.
    pub priority: i32,
}

/// A request that waits. If it is dropped, it gives up its place. It also gives back its lease, if it was
/// served and has not looked since.
///
/// ```
/// use std::task::Waker;
/// use turnout::{Deployment, Patience, Progress, Request, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?.with_max_parallel_requests(Some(1))?, ())?);
/// let lease = router.acquire("gpt-4o", &Request::default())?;
/// let waiter = router.wait("gpt-4o", Request::default(), Patience::default(), Waker::noop().clone())?;
/// assert!(matches!(router.poll(&waiter)?, Progress::Waits(_)));
/// lease.release(false); // calls the waker
/// assert!(matches!(router.poll(&waiter)?, Progress::Served(_)));
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug)]
pub struct Waiter<T> {
    pub(super) queue: Arc<Queue<T>>,
    pub(super) model_name: Arc<str>,
    /// The name that was asked for. It differs from the model name if that has a `*`.
    pub(super) asked_for: Arc<str>,
    pub(super) request: Arc<Request>,
    pub(super) patience: Patience,
    pub(super) waker: Waker,
    /// Its place and its deadline, once it has entered the line.
    pub(super) entered: OnceLock<(Key, Nanos)>,
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        let Some(&(key, _)) = self.entered.get() else { return };
        let queue = &self.queue;
        let mut bells = Vec::new();
        let mut lines = queue.lock();
        let unseen = lines.served.remove(&key.1);
        if unseen.is_some() {
            queue.services.bell.leave();
        }
        queue.leave(&mut lines, self, key);
        lines.hand_on(&self.model_name, queue.services.clock.now(), &mut bells);
        drop(lines);
        ring(bells);
        if let Some(Served { outcome: Ok(lease), .. }) = unseen {
            lease.release(true);
        }
    }
}

/// The lines of a router.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    pub(super) services: Arc<Services>,
    lines: Mutex<Lines<T>>,
    pub(super) options: Waiting,
}

#[derive(Debug)]
pub(super) struct Lines<T> {
    pub(super) of: FxHashMap<Arc<str>, Line>,
    /// The results of waiters that were served and have not looked yet, by their arrival.
    pub(super) served: FxHashMap<u64, Served<T>>,
    /// The times at which they were served, the oldest first. Some of these waiters may have looked since.
    pub(super) served_at: VecDeque<(Nanos, u64)>,
    pub(super) next_arrival: u64,
    /// The process that the lines belong to.
    forks: u64,
}

/// The result of a waiter, and the place that it had.
#[derive(Debug)]
pub(super) struct Served<T> {
    pub(super) outcome: Result<Lease<T>, Error>,
    pub(super) model_name: Arc<str>,
    pub(super) key: Key,
    pub(super) place: Place,
}

impl<T> Lines<T> {
    fn new() -> Self {
        Self {
            of: FxHashMap::default(),
            served: FxHashMap::default(),
            served_at: VecDeque::new(),
            next_arrival: 0,
            forks: fork::forks(),
        }
    }

    /// Is called after a waiter looked or left. If a waiter is left in the line, makes sure that a leader
    /// knows what to do.
    pub(super) fn hand_on(&mut self, model_name: &str, now: Nanos, bells: &mut Vec<Waker>) {
        let Some(line) = self.of.get_mut(model_name) else { return };
        let let_go = std::mem::take(&mut line.let_go);
        if line.len == 0 {
            self.of.remove(model_name);
        } else {
            line.hand_on(now, bells);
        }
        if !let_go.is_empty() {
            let waits_for = |line: &&mut Line| let_go.iter().any(|quota| line.quotas.contains(quota));
            self.of.values_mut().filter(waits_for).for_each(|line| line.ring(None, now, bells));
        }
    }

    /// Returns whether a request for a model name must look at those that wait: for the same model name, or
    /// for a quota that it may share with others.
    pub(super) fn is_contended(&self, model_name: &str) -> bool {
        self.of.get(model_name).is_some_and(|line| line.len > 0) || self.of.values().any(|line| line.claims().next().is_some())
    }

    /// Returns the claims to quotas of the lines but one.
    pub(super) fn claims_beside(&self, model_name: &str) -> Vec<(Key, u64)> {
        self.of.iter().filter(|(name, _)| ***name != *model_name).flat_map(|(_, line)| line.claims()).collect()
    }

    /// Takes back the leases that were handed out before `before` and were not collected. The lease of the
    /// waiter that looks is left out. The other waiters stand in line again, and are passed over until they
    /// look.
    pub(super) fn take_back(&mut self, before: Nanos, looks: u64) -> Vec<Lease<T>> {
        let mut leases = Vec::new();
        while let Some(&(at, arrival)) = self.served_at.front() {
            // A refusal holds no capacity, so it need not be taken back.
            let is_kept = arrival != looks && self.served.get(&arrival).is_some_and(|served| served.outcome.is_ok());
            if is_kept && at >= before {
                break;
            }
            self.served_at.pop_front();
            if is_kept && let Some(Served { outcome: Ok(lease), model_name, key, place }) = self.served.remove(&arrival) {
                let line = self.of.entry(model_name).or_insert_with(Line::new);
                line.insert(Arc::new(Class::of(&place.request, |_| true)), key, place);
                line.pass_over(key);
                line.is_stale = true;
                leases.push(lease);
            }
        }
        leases
    }
}

impl<T> Queue<T> {
    /// Makes the waiting room of a router, and lets its bell ring here.
    pub(crate) fn new(services: Arc<Services>, waiting: Waiting) -> Arc<Self>
    where
        T: Attachment,
    {
        let queue = Arc::new(Self { services, lines: Mutex::new(Lines::new()), options: waiting });
        let room: Weak<Self> = Arc::downgrade(&queue);
        queue.services.bell.connect(room);
        if let Clock::Manual(clock) = &queue.services.clock {
            let watch: Weak<Self> = Arc::downgrade(&queue);
            clock.watch(watch);
        }
        queue
    }

    /// Makes a waiter. It has no place in line before its first poll.
    /// `asked_for` is the name that led to the model name.
    pub(crate) fn wait(
        self: &Arc<Self>,
        (model_name, asked_for): (Arc<str>, Arc<str>),
        request: Request,
        patience: Patience,
        waker: Waker,
    ) -> Waiter<T> {
        let (queue, request) = (Arc::clone(self), Arc::new(request));
        Waiter { queue, model_name, asked_for, request, patience, waker, entered: OnceLock::new() }
    }

    /// Returns how many requests wait, for any model name.
    pub(crate) fn waiting(&self) -> usize {
        if self.services.bell.is_waited_at() { self.lock().of.values().map(|line| line.len).sum() } else { 0 }
    }

    /// Returns whether a request for a model name must look at those that wait: see `Lines::is_contended`.
    pub(crate) fn is_contended(&self, model_name: &str) -> bool {
        self.lock().is_contended(model_name)
    }

    /// Returns how many requests wait for a model name.
    pub(crate) fn waiting_for(&self, model_name: &str) -> usize {
        self.lock().of.get(model_name).map_or(0, |line| line.len)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Lines<T>> {
        let lock = || hold(&self.lines);
        let mut lines = lock();
        if lines.forks == fork::forks() {
            return lines;
        }
        // In a forked child no request waits: the waiters are in the parent.
        let of_parent = std::mem::replace(&mut *lines, Lines::new());
        lines.next_arrival = of_parent.next_arrival;
        self.services.bell.clear();
        drop(lines);
        drop(of_parent);
        lock()
    }

    /// Gives a waiter its place, unless it has one. Returns whether it had none.
    pub(super) fn enter(
        &self,
        lines: &mut Lines<T>,
        waiter: &Waiter<T>,
        (key, deadline): (Key, Nanos),
        now: Nanos,
        is_known: impl Fn(&str) -> bool,
    ) -> bool {
        let line = lines.of.entry(Arc::clone(&waiter.model_name)).or_insert_with(Line::new);
        if line.class_of.contains_key(&key.1) {
            line.is_back(key);
            return false;
        }
        // Counted before it asks which ids are known: who registers another one afterwards sees that somebody
        // waits, and makes the classes stale.
        self.services.bell.enter();
        let (request, waker) = (Arc::clone(&waiter.request), waiter.waker.clone());
        let class = Arc::new(Class::of(&request, is_known));
        let patient_until = now.saturating_add(self.options.patience);
        line.insert(class, key, Place { request, waker, deadline, patient_until, due: Nanos::MAX });
        true
    }

    /// Takes a waiter out of its line, if it is there.
    pub(super) fn leave(&self, lines: &mut Lines<T>, waiter: &Waiter<T>, key: Key) {
        let Some(line) = lines.of.get_mut(&waiter.model_name) else { return };
        if line.remove(key).is_some() {
            self.services.bell.leave();
        }
    }

    /// Rings for the waiters whose time has come.
    fn wake_due(&self) {
        self.ring(|lines, now, bells| {
            for line in lines.of.values_mut() {
                if line.alarm <= now {
                    line.ring(None, now, bells);
                }
                let places = line.classes.values().flat_map(|standing| standing.places.values());
                bells.extend(places.filter(|place| place.deadline <= now).map(|place| place.waker.clone()));
            }
        });
    }

    fn ring(&self, whom: impl FnOnce(&mut Lines<T>, Nanos, &mut Vec<Waker>)) {
        let mut bells = Vec::new();
        let mut lines = self.lock();
        // The clock is read under the lock: nothing else orders a step of the clock and a waiter that read it
        // before.
        whom(&mut lines, self.services.clock.now(), &mut bells);
        drop(lines);
        ring(bells);
    }
}

impl<T: Attachment> Wakes for Queue<T> {
    #[cold]
    fn wake(&self, model_name: &str, freed: Option<(&Arc<str>, Labels<'_>)>, quotas: &[u64]) {
        // The lock is held here, and a look notes the quotas under the same lock. A look that began before
        // this one has seen a quota as it was, and has noted it. A later look sees the quota as it is.
        self.ring(|lines, now, bells| {
            let waits_for = |line: &Line| quotas.iter().any(|quota| line.quotas.contains(quota));
            let may_use = |line: &Line| freed.is_none_or(|(id, labels)| line.may_use(id, labels));
            if let Some(line) = lines.of.get_mut(model_name).filter(|line| !waits_for(line) && may_use(line)) {
                line.ring(freed.map(|(id, _)| id), now, bells);
            }
            if !quotas.is_empty() {
                lines.of.values_mut().filter(|line| waits_for(line)).for_each(|line| line.ring(None, now, bells));
            }
        });
    }

    #[cold]
    fn wake_all(&self) {
        self.ring(|lines, now, bells| {
            for line in lines.of.values_mut() {
                line.is_stale = true;
                line.ring(None, now, bells);
            }
        });
    }
}

impl<T: Attachment> Watch for Queue<T> {
    fn time_has_moved(&self) {
        self.wake_due();
    }
}

/// Calls wakers. No lock may be held.
pub(super) fn ring(bells: Vec<Waker>) {
    bells.into_iter().for_each(Waker::wake);
}
