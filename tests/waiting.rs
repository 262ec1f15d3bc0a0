//! Waiting, one step at a time: who is woken, by what, and how often.

#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a failure is meant to stop it
#![allow(clippy::pedantic)] // written to be read next to the code it checks

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Wake, Waker};

use turnout::{
    Clock, Deployment, FailureKind, Lease, Limit, LimitKind, ManualClock, MinuteRules, Observed, Patience, Progress, Quota,
    Request, Router, Rules, Settings, Unit, Waiter, Wishes,
};

const SECOND: u64 = 1_000_000_000;

/// Held by the test that says there was a fork, and shared by those that must not hear of one.
static FORKING: RwLock<()> = RwLock::new(());

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
    // By these rules a cooldown ends for all at once, without a probation of one at a time.
    let health = Rules::Minute(MinuteRules::default());
    let router = Router::new(Settings { health, clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() }).unwrap();
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
    matches!(router.poll(waiter), Ok(Progress::Waits(None)))
}

fn served(router: &Router<()>, waiter: &Waiter<()>) -> Lease<()> {
    match router.poll(waiter) {
        Ok(Progress::Served(lease)) => lease,
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
    assert_eq!(router.metrics().waiting, 0);
    drop(lease);
}

#[test]
fn a_quota_rings_for_those_it_stopped_and_only_if_it_lets_requests_through() {
    let _lock = not_forking();
    let (_, router) = router(None);
    let quota = |id| Quota::new(id, &[Limit::new(Unit::Requests, 2, 3600 * SECOND, LimitKind::Sliding).unwrap()]).unwrap();
    for (id, quotas) in [("x", vec![quota("x")]), ("y", vec![quota("y")]), ("both", vec![quota("x"), quota("y")])] {
        drop(router.add(Deployment::new(id, id).unwrap().with_quotas(&quotas).unwrap(), ()).unwrap());
    }
    let leases: Vec<_> = ["x", "x", "y", "y"].iter().map(|id| router.acquire(id, &Request::default()).unwrap()).collect();
    let waiters: Vec<_> = ["x", "y", "both"]
        .iter()
        .map(|id| {
            let count = Arc::<Count>::default();
            (Arc::clone(&count), router.wait(id, Request::default(), UNBOUNDED, Waker::from(count)).unwrap())
        })
        .collect();
    let rings = || waiters.iter().map(|(count, _)| count.take()).collect::<Vec<_>>();
    assert!(waiters.iter().all(|(_, waiter)| waits(&router, waiter)));
    // The request was sent: the quota is spent as before. Only its own line may find a place.
    leases[0].release(false);
    assert_eq!(rings(), [1, 0, 0]);
    leases[1].release(true);
    assert_eq!(rings(), [1, 0, 1]);
    assert!(waits(&router, &waiters[2].1), "the other quota is spent");
    drop(served(&router, &waiters[0].1));
    assert_eq!(rings()[1..], [0, 0]);
    leases[2].release(true);
    assert_eq!(rings()[1..], [1, 1]);
}

#[test]
fn nobody_is_rung_for_whose_wishes_rule_the_deployment_out() {
    let _lock = not_forking();
    let (_, router) = router(Some(1));
    drop(router.add(Deployment::new("b", "model").unwrap().with_max_parallel_requests(Some(1)).unwrap(), ()).unwrap());
    let leases: Vec<_> = (0..2).map(|_| router.acquire("model", &Request::default()).unwrap()).collect();
    let lease_of = |id: &str| leases.iter().find(|lease| lease.deployment().id() == id).unwrap();
    let without = Wishes { exclude: ["a".to_owned()].into_iter().collect(), ..Wishes::default() };
    let without = Request { wishes: Some(Box::new(without)), ..Request::default() };
    let (count, waiter) = wait(&router, without, UNBOUNDED);
    let (tagged_count, tagged_waiter) = wait(&router, tagged(), UNBOUNDED);
    assert!(waits(&router, &waiter) && waits(&router, &tagged_waiter));
    drop(tagged_waiter);
    lease_of("a").release(false);
    assert_eq!((count.take(), tagged_count.take()), (0, 0), "it excludes that deployment");
    let (tagged_count, tagged_waiter) = wait(&router, tagged(), UNBOUNDED);
    drop(served(&router, &tagged_waiter));
    assert_eq!((count.take(), tagged_count.take()), (0, 0));
    lease_of("b").release(false);
    assert_eq!(count.take(), 1);
    drop(served(&router, &waiter));
}

#[test]
fn a_look_serves_all_that_can_be_served_and_rings_for_them() {
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
fn a_failure_wakes_once_and_only_after_its_cooldown_has_begun() {
    let _lock = not_forking();
    let (clock, router) = router(Some(1));
    let lease = router.acquire("model", &Request::default()).unwrap();
    let (count, waiter) = wait(&router, Request::default(), UNBOUNDED);
    assert!(waits(&router, &waiter));
    // The headers alone would free capacity: the provider has some left.
    let said = [Observed { unit: Unit::Requests, limit: None, remaining: 5, reset: None }];
    assert!(lease.failure(FailureKind::RateLimit, Some(SECOND), &said, None));
    assert_eq!(router.stats("a").unwrap().observed.len(), 1);
    assert_eq!(count.take(), 1);
    assert!(waits(&router, &waiter));
    clock.advance(SECOND);
    assert_eq!(count.take(), 1);
    drop(served(&router, &waiter));
    // A second end changes nothing, not even what is known of the provider.
    let said = [Observed { remaining: 0, ..said[0] }];
    assert!(!lease.failure(FailureKind::RateLimit, Some(SECOND), &said, None));
    assert_eq!(router.stats("a").unwrap().observed[0].remaining, 4);
}

#[test]
fn a_waiter_that_leaves_hands_on_a_ring_that_it_did_not_answer_and_nothing_else() {
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
fn on_the_systems_clock_the_first_sleeps_for_the_alarm_and_all_look_once_in_a_while() {
    let _lock = not_forking();
    let router = Router::new(Settings::default()).unwrap();
    drop(router.add(Deployment::new("a", "model").unwrap(), ()).unwrap());
    router.cool_down("a", SECOND / 5).unwrap();
    let (_, first) = wait(&router, Request::default(), UNBOUNDED);
    let (_, second) = wait(&router, Request::default(), UNBOUNDED);
    let (_, third) = wait(&router, Request::default(), Patience { timeout: Some(SECOND / 10), priority: 0 });
    let at_most = |waiter| match router.poll(waiter) {
        Ok(Progress::Waits(Some(at_most))) => at_most.div_ceil(SECOND / 10),
        other => panic!("{other:?}"),
    };
    // The second looks after half a second and a little more: a ring may be lost.
    assert_eq!([at_most(&first), at_most(&second), at_most(&third)], [2, 6, 1]);
}

#[test]
fn a_fork_leaves_those_who_wait_to_the_parent() {
    let _lock = FORKING.write().unwrap_or_else(PoisonError::into_inner);
    let (_, router) = router(Some(1));
    let lease = router.acquire("model", &Request::default()).unwrap();
    let (count, waiter) = wait(&router, Request::default(), UNBOUNDED);
    assert!(waits(&router, &waiter));
    turnout::after_fork();
    lease.release(false);
    assert_eq!((count.take(), router.waiting("model").unwrap()), (0, 0));
    // Should one go on in the child after all, it comes anew.
    drop(served(&router, &waiter));
}
