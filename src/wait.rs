//! Waiting for capacity: who waits for which model name, in which order, and who is told when some may be free.
//!
//! Whoever waits stands in the *line* of a model name, by priority and then by arrival. Those who wish for the same tags and exclude the
//! same deployments are a *class*: within a class nobody is overtaken, not even a large request by a small one that would fit; those of
//! other classes may use what it cannot, and do not wait for it.
//!
//! Nobody polls, and whoever frees capacity serves nobody: it reads one counter and, if anybody waits, rings for the *leader* of the
//! line, the first of all. Whoever comes to look (the leader when rung for, everybody on arrival) *serves*: it tries the head of each
//! class by the ordinary acquire, first come first served, until each has failed, and rings for those who got a lease. From what made
//! them fail follows the time at which trying again may help, the *alarm*, for which the leader sleeps.
//!
//! No capacity stays free while somebody sleeps who could use it. A waiter counts itself before it first tries, and capacity is freed
//! before the counter is read; the try and the change both lock the group's index. So either the try comes second and sees what was
//! freed, or the change does and sees the waiter. Whoever leaves hands a ring that it has not answered on to the next.
//!
//! All lines of a router share one lock, taken before those of groups and counters; neither wakers nor callbacks run under it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::Waker;

use rustc_hash::FxHashMap;

use crate::clock::{Clock, Nanos, Watch};
use crate::error::{Error, Unavailable};
use crate::lease::Lease;
use crate::registry::{Attachment, Common, Entry, Fate};
use crate::rng;
use crate::router::Router;
use crate::select::Request;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// How many may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// The most for each model name.
    pub max_waiters: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { max_waiters: 10_000 }
    }
}

/// How long a request waits, and before whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patience {
    /// The longest time; None for as long as it takes.
    pub timeout: Option<Nanos>,
    /// Lower ones are served first.
    pub priority: i32,
}

/// What has become of a waiter.
#[derive(Debug)]
pub enum Turn<T> {
    /// It has its lease.
    Served(Lease<T>),
    /// It looks again when its waker is called, or after this time if there is one.
    Waits(Option<Nanos>),
}

/// A place in line. By priority, and then by arrival.
type Key = (i32, u64);

/// What requests of one class have in common, in one order.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Class {
    tags: Vec<String>,
    any_tag: bool,
    exclude: Vec<String>,
}

impl Class {
    fn of(request: &Request) -> Self {
        let Some(wishes) = &request.wishes else { return Self { tags: Vec::new(), any_tag: false, exclude: Vec::new() } };
        let mut tags = wishes.tags.clone();
        tags.sort_unstable();
        tags.dedup();
        let mut exclude: Vec<_> = wishes.exclude.iter().cloned().collect();
        exclude.sort_unstable();
        Self { any_tag: wishes.any_tag && tags.len() > 1, tags, exclude }
    }
}

/// One who waits. Dropping it gives up the place, and the lease if it was served without having looked.
#[derive(Debug)]
pub struct Waiter<T> {
    common: Arc<Common<T>>,
    model_name: Arc<str>,
    class: Arc<Class>,
    request: Arc<Request>,
    patience: Patience,
    waker: Waker,
    /// Its place and its deadline, once it has come to the line.
    entered: OnceLock<(Key, Nanos)>,
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        let Some(&(key, _)) = self.entered.get() else { return };
        let queue = &self.common.queue;
        let mut bells = Vec::new();
        let mut lines = queue.lock();
        let unseen = lines.served.remove(&key.1);
        queue.leave(&mut lines, self, key);
        lines.hand_on(&self.model_name, &mut bells);
        drop(lines);
        ring(bells);
        if let Some(Ok(lease)) = unseen {
            lease.release(true);
        }
    }
}

/// The lines of a router.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// How many wait in all lines. Changed under the lock.
    waiting: AtomicUsize,
    lines: Mutex<Lines<T>>,
    max_waiters: usize,
}

#[derive(Debug)]
struct Lines<T> {
    of: FxHashMap<Arc<str>, Line>,
    /// What became of those who were served and have not looked yet, by their arrival.
    served: FxHashMap<u64, Result<Lease<T>, Error>>,
    next_arrival: u64,
    /// The process they belong to.
    forks: u64,
}

impl<T> Lines<T> {
    fn new() -> Self {
        Self { of: FxHashMap::default(), served: FxHashMap::default(), next_arrival: 0, forks: rng::forks() }
    }

    /// After somebody looked or left: there is a leader who knows what is to do, unless nobody is left.
    fn hand_on(&mut self, model_name: &str, bells: &mut Vec<Waker>) {
        let Some(line) = self.of.get_mut(model_name) else { return };
        if line.len == 0 {
            self.of.remove(model_name);
        } else {
            line.hand_on(bells);
        }
    }
}

/// Those who wait for one model name.
#[derive(Debug)]
struct Line {
    classes: FxHashMap<Arc<Class>, Members>,
    len: usize,
    /// When trying again may help; [`Nanos::MAX`] if time does not.
    alarm: Nanos,
    /// Who sleeps for an alarm, and for which.
    armed: (Key, Nanos),
    /// Whether the leader was rung for and nobody has tried since.
    rung: bool,
}

#[derive(Debug, Default)]
struct Members {
    places: BTreeMap<Key, Place>,
    /// Why the head failed when it last tried.
    refused: Option<Box<Unavailable>>,
}

/// What others need of a waiter. It shares all of it with the waiter, which leaves before it goes: so it may be dropped under the lock.
#[derive(Debug)]
struct Place {
    request: Arc<Request>,
    waker: Waker,
    deadline: Nanos,
}

impl Line {
    fn new() -> Self {
        Self { classes: FxHashMap::default(), len: 0, alarm: Nanos::MAX, armed: ((0, 0), Nanos::MAX), rung: false }
    }

    fn heads(&self) -> impl Iterator<Item = (Key, &Arc<Class>, &Place)> {
        self.classes.iter().filter_map(|(class, members)| {
            let (&key, place) = members.places.first_key_value()?;
            Some((key, class, place))
        })
    }

    fn all_heads(&self) -> BinaryHeap<Reverse<(Key, Arc<Class>)>> {
        self.heads().map(|(key, class, _)| Reverse((key, Arc::clone(class)))).collect()
    }

    fn leader(&self) -> Option<(Key, &Waker)> {
        self.heads().map(|(key, _, place)| (key, &place.waker)).min_by_key(|&(key, _)| key)
    }

    /// Rings for the leader: it is to serve.
    fn ring(&mut self, bells: &mut Vec<Waker>) {
        if let Some((_, waker)) = self.leader() {
            bells.push(waker.clone());
            self.rung = true;
        }
    }

    /// Rings for the leader if it has to take over a ring or the alarm.
    fn hand_on(&mut self, bells: &mut Vec<Waker>) {
        let (sleeper, until) = self.armed;
        let is_armed = self.alarm == Nanos::MAX || (until <= self.alarm && self.leader().is_some_and(|(key, _)| key == sleeper));
        if self.rung || !is_armed {
            self.ring(bells);
        }
    }

    fn remove(&mut self, class: &Class, key: Key) -> Option<Place> {
        let members = self.classes.get_mut(class)?;
        let place = members.places.remove(&key)?;
        self.len -= 1;
        if members.places.is_empty() {
            self.classes.remove(class);
        }
        Some(place)
    }
}

impl<T> Queue<T> {
    pub(crate) fn new(waiting: Waiting) -> Self {
        Self { waiting: AtomicUsize::new(0), lines: Mutex::new(Lines::new()), max_waiters: waiting.max_waiters }
    }

    /// Whether anybody waits, for whatever.
    #[inline]
    pub(crate) fn is_waited_in(&self) -> bool {
        // Relaxed: the index's lock orders it where it matters, see above.
        self.waiting.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn waiting(&self) -> usize {
        if self.is_waited_in() { self.lock().of.values().map(|line| line.len).sum() } else { 0 }
    }

    pub(crate) fn waiting_for(&self, model_name: &str) -> usize {
        self.lock().of.get(model_name).map_or(0, |line| line.len)
    }

    fn lock(&self) -> MutexGuard<'_, Lines<T>> {
        let lock = || self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = lock();
        if lines.forks == rng::forks() {
            return lines;
        }
        // In a forked child nobody waits: those who did are in the parent.
        let of_parent = std::mem::replace(&mut *lines, Lines::new());
        lines.next_arrival = of_parent.next_arrival;
        self.waiting.store(0, Ordering::Relaxed);
        drop(lines);
        drop(of_parent);
        lock()
    }

    /// Gives a waiter its place, unless it has one; returns whether it had none.
    fn enter(&self, lines: &mut Lines<T>, waiter: &Waiter<T>, (key, deadline): (Key, Nanos)) -> bool {
        let line = lines.of.entry(Arc::clone(&waiter.model_name)).or_insert_with(Line::new);
        let places = &mut line.classes.entry(Arc::clone(&waiter.class)).or_default().places;
        let is_new = !places.contains_key(&key);
        if is_new {
            places.insert(key, Place { request: Arc::clone(&waiter.request), waker: waiter.waker.clone(), deadline });
            line.len += 1;
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        is_new
    }

    /// Takes a waiter out of its line, if it is there.
    fn leave(&self, lines: &mut Lines<T>, waiter: &Waiter<T>, key: Key) {
        let Some(line) = lines.of.get_mut(&waiter.model_name) else { return };
        if line.remove(&waiter.class, key).is_some() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Rings for those who wait for a model name: some capacity may be free.
    #[cold]
    pub(crate) fn wake(&self, model_name: &str) {
        self.ring(|lines, bells| {
            if let Some(line) = lines.of.get_mut(model_name) {
                line.ring(bells);
            }
        });
    }

    /// Rings for those who wait for any model name.
    #[cold]
    pub(crate) fn wake_all(&self) {
        self.ring(|lines, bells| lines.of.values_mut().for_each(|line| line.ring(bells)));
    }

    /// Rings for those whose time has come.
    fn wake_due(&self, now: Nanos) {
        self.ring(|lines, bells| {
            for line in lines.of.values_mut() {
                if line.alarm <= now {
                    line.ring(bells);
                }
                let places = line.classes.values().flat_map(|members| members.places.values());
                bells.extend(places.filter(|place| place.deadline <= now).map(|place| place.waker.clone()));
            }
        });
    }

    fn ring(&self, whom: impl FnOnce(&mut Lines<T>, &mut Vec<Waker>)) {
        let mut bells = Vec::new();
        whom(&mut self.lock(), &mut bells);
        ring(bells);
    }
}

fn ring(bells: Vec<Waker>) {
    bells.into_iter().for_each(Waker::wake);
}

impl<T: Attachment> Watch for Common<T> {
    fn time_has_moved(&self) {
        // Not without the lock: nothing else orders a step of the clock and a waiter who read it before.
        self.queue.wake_due(self.clock.now());
    }
}

/// Says that a change of a deployment's counters, through with in the index too, may have freed capacity. No lock may be held.
#[inline]
pub(crate) fn freed<T>(entry: &Entry<T>) {
    if entry.common.queue.is_waited_in() {
        wake_for(entry);
    }
}

/// Rings for those who wait for the group that an entry's counters belong to now; for all, if it is under quotas that others share.
#[cold]
fn wake_for<T>(entry: &Entry<T>) {
    if entry.metering.as_ref().is_some_and(|metering| !metering.quotas().is_empty()) {
        return entry.common.queue.wake_all();
    }
    match entry.fate() {
        Fate::Registered => entry.common.queue.wake(entry.deployment().model_name()),
        Fate::Replaced(by) => wake_for(&by),
        Fate::Removed => {}
    }
}

impl<T: Attachment> Router<T> {
    /// A waiter for [`Router::poll`], which has no place in line before its first.
    ///
    /// # Errors
    /// If no deployment serves the model.
    pub fn wait(&self, model_name: &str, request: Request, patience: Patience, waker: Waker) -> Result<Waiter<T>, Error> {
        Ok(Waiter {
            common: Arc::clone(self.registry.common()),
            model_name: self.resolve(model_name)?,
            class: Arc::new(Class::of(&request)),
            request: Arc::new(request),
            patience,
            waker,
            entered: OnceLock::new(),
        })
    }

    /// Looks whether a waiter of this router has its lease, trying for all who wait for its model name if something may have changed.
    ///
    /// # Errors
    /// If waiting is over without a lease: for what it would not mend, for the timeout, or since too many wait. After the end, poll no
    /// more.
    pub fn poll(&self, waiter: &Waiter<T>) -> Result<Turn<T>, Error> {
        let queue = &waiter.common.queue;
        let mut bells = Vec::new();
        let mut lines = queue.lock();
        let turn = self.look(&mut lines, waiter, &mut bells);
        if let (Err(_), Some(&(key, _))) = (&turn, waiter.entered.get()) {
            queue.leave(&mut lines, waiter, key);
        }
        lines.hand_on(&waiter.model_name, &mut bells);
        drop(lines);
        // It has looked.
        bells.retain(|bell| !bell.will_wake(&waiter.waker));
        ring(bells);
        self.deliver();
        turn
    }

    fn look(&self, lines: &mut Lines<T>, waiter: &Waiter<T>, bells: &mut Vec<Waker>) -> Result<Turn<T>, Error> {
        let Waiter { model_name, class, request, patience, .. } = waiter;
        let now = self.clock().now();
        let &(key, deadline) = waiter.entered.get_or_init(|| {
            lines.next_arrival += 1;
            let deadline = patience.timeout.map_or(Nanos::MAX, |timeout| now.saturating_add(timeout));
            ((patience.priority, lines.next_arrival), deadline)
        });
        let is_new = !lines.served.contains_key(&key.1) && waiter.common.queue.enter(lines, waiter, (key, deadline));
        self.serve(lines, waiter, (key, now), bells);
        if let Some(outcome) = lines.served.remove(&key.1) {
            return outcome.map(Turn::Served);
        }
        let Some(line) = lines.of.get_mut(model_name) else { return Ok(Turn::Waits(None)) };
        if is_new || deadline <= now {
            // The head of its class has tried in its place, but for a request of another size.
            let of_head = line.classes.get(class).and_then(|members| members.refused.clone());
            match self.refusal(model_name, request).or_else(|| of_head.map(Error::NoAvailableDeployment)) {
                Some(Error::NoAvailableDeployment(unavailable)) if unavailable.reasons.may_change() => {
                    if patience.timeout == Some(0) {
                        return Err(Error::NoAvailableDeployment(unavailable));
                    }
                    if is_new && line.len > waiter.common.queue.max_waiters {
                        return Err(Error::TooManyWaiters(unavailable, line.len - 1));
                    }
                    if deadline <= now {
                        return Err(Error::WaitTimeout(unavailable));
                    }
                }
                Some(error) => return Err(error),
                None => {}
            }
        }
        let mut until = deadline;
        if line.leader().is_some_and(|(leader, _)| leader == key) {
            line.armed = (key, line.alarm);
            until = until.min(line.alarm);
        }
        Ok(Turn::Waits(match self.clock() {
            Clock::System(_) => (until != Nanos::MAX).then(|| until.saturating_sub(now)),
            // Whoever moves it rings: see `Watch`.
            Clock::Manual(_) => None,
        }))
    }

    /// Tries for the heads of all classes until each has failed; for none but the waiter itself, as the head of its class, if nothing has
    /// changed since the others failed.
    fn serve(&self, lines: &mut Lines<T>, waiter: &Waiter<T>, (key, now): (Key, Nanos), bells: &mut Vec<Waker>) {
        let Some(line) = lines.of.get_mut(&waiter.model_name) else { return };
        let mut heads: BinaryHeap<_>;
        if line.rung || line.alarm <= now {
            (line.rung, line.alarm) = (false, Nanos::MAX);
            heads = line.all_heads();
        } else {
            let head = line.classes.get(&waiter.class).and_then(|members| members.places.first_key_value());
            heads = head.filter(|&(&head, _)| head == key).map(|_| Reverse((key, Arc::clone(&waiter.class)))).into_iter().collect();
        }
        while let Some(Reverse((key, class))) = heads.pop() {
            let Some(members) = line.classes.get_mut(&class) else { continue };
            let Some(place) = members.places.get(&key) else { continue };
            match self.try_acquire(&waiter.model_name, &place.request) {
                Err(Error::NoAvailableDeployment(unavailable)) if unavailable.reasons.may_change() => {
                    line.alarm = line.alarm.min(unavailable.retry_at.unwrap_or(Nanos::MAX));
                    members.refused = Some(unavailable);
                }
                outcome => {
                    lines.served.insert(key.1, outcome);
                    let next = members.places.range((key.0, key.1 + 1)..).next().map(|(&next, _)| next);
                    bells.extend(line.remove(&class, key).map(|place| place.waker));
                    self.registry.common().queue.waiting.fetch_sub(1, Ordering::Relaxed);
                    if self.panics(&waiter.model_name) {
                        // Perhaps since this one was served, and others failed before.
                        heads = line.all_heads();
                    } else {
                        heads.extend(next.map(|next| Reverse((next, class))));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::RwLockReadGuard;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;
    use crate::clock::{ManualClock, SECOND};
    use crate::deployment::Deployment;
    use crate::rng::tests::FORKING;
    use crate::router::Settings;
    use crate::select::Wishes;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn take(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    fn not_forking() -> RwLockReadGuard<'static, ()> {
        FORKING.read().unwrap_or_else(PoisonError::into_inner)
    }

    const UNBOUNDED: Patience = Patience { timeout: None, priority: 0 };

    fn router(max_parallel_requests: Option<u32>) -> (Arc<ManualClock>, Router<()>) {
        let clock = Arc::new(ManualClock::new(0));
        let router = Router::new(Settings { clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() }).unwrap();
        let deployment = Deployment::new("a", "model").unwrap().with_tags(["tag"]).unwrap();
        drop(router.add(deployment.with_max_parallel_requests(max_parallel_requests).unwrap(), ()).unwrap());
        (clock, router)
    }

    fn wait(router: &Router<()>, request: Request, patience: Patience) -> (Arc<Count>, Waiter<()>) {
        let count = Arc::<Count>::default();
        let waiter = router.wait("model", request, patience, Waker::from(Arc::clone(&count))).unwrap();
        (count, waiter)
    }

    fn waits(router: &Router<()>, waiter: &Waiter<()>) -> bool {
        matches!(router.poll(waiter), Ok(Turn::Waits(None)))
    }

    fn served(router: &Router<()>, waiter: &Waiter<()>) -> Lease<()> {
        match router.poll(waiter) {
            Ok(Turn::Served(lease)) => lease,
            other => panic!("{other:?}"),
        }
    }

    fn tagged() -> Request {
        Request { tokens: 0, split: None, wishes: Some(Box::new(Wishes { tags: vec!["tag".to_owned()], ..Wishes::default() })) }
    }

    #[test]
    fn a_release_rings_once_for_the_first_and_what_it_gets_rings_for_nobody() {
        let _lock = not_forking();
        let (_, router) = router(Some(1));
        let lease = router.acquire("model", &Request::default()).unwrap();
        let waiters: Vec<_> = (0..3).map(|_| wait(&router, Request::default(), UNBOUNDED)).collect();
        assert!(waiters.iter().all(|(_, waiter)| waits(&router, waiter)));
        lease.release(false);
        assert_eq!(waiters.iter().map(|(count, _)| count.take()).collect::<Vec<_>>(), [1, 0, 0]);
        let lease = served(&router, &waiters[0].1);
        assert!(waiters.iter().all(|(count, _)| count.take() == 0));
        assert_eq!(router.waiting("model").unwrap(), 2);
        drop(waiters);
        assert!(!router.registry.common().queue.is_waited_in());
        drop(lease);
    }

    #[test]
    fn whoever_looks_serves_all_that_can_be_and_rings_for_them() {
        let _lock = not_forking();
        let (clock, router) = router(None);
        router.cool_down("a", SECOND).unwrap();
        let waiters: Vec<_> = (0..3).map(|_| wait(&router, Request::default(), UNBOUNDED)).collect();
        assert!(waiters.iter().all(|(_, waiter)| waits(&router, waiter)));
        clock.advance(SECOND - 1);
        assert!(waiters.iter().all(|(count, _)| count.take() == 0));
        clock.advance(1);
        assert_eq!(waiters.iter().map(|(count, _)| count.take()).collect::<Vec<_>>(), [1, 0, 0]);
        drop(served(&router, &waiters[0].1));
        assert_eq!(waiters.iter().map(|(count, _)| count.take()).collect::<Vec<_>>(), [0, 1, 1]);
        assert_eq!(router.metrics().in_flight, 2);
        drop(waiters);
        // Never seen, so never sent.
        assert_eq!((router.metrics().in_flight, router.stats("a").unwrap().total_requests), (0, 1));
    }

    #[test]
    fn whoever_leaves_hands_on_a_ring_that_it_did_not_answer_and_nothing_else() {
        let _lock = not_forking();
        let (_, router) = router(Some(1));
        let lease = router.acquire("model", &Request::default()).unwrap();
        let [first, second, third] = [(); 3].map(|()| wait(&router, Request::default(), UNBOUNDED));
        assert!([&first, &second, &third].iter().all(|(_, waiter)| waits(&router, waiter)));
        drop(first.1);
        assert_eq!(second.0.take(), 0);
        lease.release(false);
        assert_eq!(second.0.take(), 1);
        drop(second.1);
        assert_eq!(third.0.take(), 1);
        drop(served(&router, &third.1));
    }

    #[test]
    fn a_new_first_one_takes_the_alarm_over() {
        let _lock = not_forking();
        let (clock, router) = router(None);
        router.cool_down("a", SECOND).unwrap();
        let (_, first) = wait(&router, Request::default(), UNBOUNDED);
        let (count, second) = wait(&router, tagged(), UNBOUNDED);
        assert!(waits(&router, &first) && waits(&router, &second));
        assert_eq!(count.take(), 0);
        drop(first);
        assert_eq!(count.take(), 1);
        assert!(waits(&router, &second));
        clock.advance(SECOND);
        assert_eq!(count.take(), 1);
        drop(served(&router, &second));
    }

    #[test]
    fn on_the_systems_clock_only_the_first_sleeps_for_the_alarm() {
        let _lock = not_forking();
        let router = Router::new(Settings::default()).unwrap();
        drop(router.add(Deployment::new("a", "model").unwrap(), ()).unwrap());
        router.cool_down("a", 100 * SECOND).unwrap();
        let (_, first) = wait(&router, Request::default(), UNBOUNDED);
        let (_, second) = wait(&router, Request::default(), UNBOUNDED);
        let (_, third) = wait(&router, Request::default(), Patience { timeout: Some(50 * SECOND), priority: 0 });
        let at_most = |waiter| match router.poll(waiter) {
            Ok(Turn::Waits(at_most)) => at_most.map(|at_most| at_most.div_ceil(10 * SECOND)),
            other => panic!("{other:?}"),
        };
        assert_eq!([at_most(&first), at_most(&second), at_most(&third)], [Some(10), None, Some(5)]);
    }

    #[test]
    fn a_fork_leaves_those_who_wait_to_the_parent() {
        let _lock = FORKING.write().unwrap_or_else(PoisonError::into_inner);
        let (_, router) = router(Some(1));
        let lease = router.acquire("model", &Request::default()).unwrap();
        let (count, waiter) = wait(&router, Request::default(), UNBOUNDED);
        assert!(waits(&router, &waiter));
        rng::after_fork();
        lease.release(false);
        assert_eq!((count.take(), router.waiting("model").unwrap()), (0, 0));
        // Should one go on in the child after all, it comes anew.
        drop(served(&router, &waiter));
    }
}
