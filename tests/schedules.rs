//! The router under schedules that shuttle chooses: every atomic and every lock is a point at which another
//! thread may go on.
//!
//! Each check runs under random schedules and under those of PCT (Burckhardt and others, ASPLOS 2010), which
//! finds a bug that takes few preemptions with a known probability. The seeds are fixed, so that a run
//! repeats; a failure prints the schedule that led to it.
//!
//! The router is seeded: what `explain` foresees, draws included, is then what a pick from the index must
//! come to.

#![cfg(shuttle)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a failure is meant to stop it
#![allow(clippy::pedantic)] // written to be read next to the code it checks

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst}; // for what a test counts: no points of the schedule
use std::task::{Wake, Waker};

use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};
use turnout::{
    Changed, Clock, Deployment, Error, FailureKind, HealthRules, Lease, Limit, LimitKind, ManualClock, Memory, MinuteRules,
    Observed, Patience, Progress, Quota, Request, Router, Rules, Settings, Sharing, Start, Stats, Strategy, Unit, Verdict, Waiter,
    Wishes,
};

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

/// Preemptions at chosen points that PCT makes in a schedule.
const PREEMPTIONS: usize = 3;

/// Runs `check` under so many schedules of each kind.
fn explore(schedules: usize, check: impl Fn() + Clone + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    // That shuttle takes every order of memory for the strongest is known: see
    // docs/decisions/0004-schedules-and-miri.md.
    config.silence_warnings = true;
    fn run(scheduler: impl Scheduler + 'static, config: &Config, check: impl Fn() + Send + Sync + 'static) {
        Runner::new(scheduler, config.clone()).run(check);
    }
    run(RandomScheduler::new_from_seed(1, schedules), &config, check.clone());
    run(PctScheduler::new_from_seed(2, PREEMPTIONS, schedules), &config, check);
}

/// Runs `check` with every strategy.
fn explore_strategies(schedules: usize, check: impl Fn(Strategy) + Copy + Send + Sync + 'static) {
    for strategy in Strategy::ALL {
        explore(schedules, move || check(strategy));
    }
}

/// Runs a thread for each work, and waits for them all.
fn together(works: &[&(dyn Fn() + Sync)]) {
    thread::scope(|scope| {
        for &work in works {
            scope.spawn(work);
        }
    });
}

/// Drawn by the scheduler, so that it belongs to the schedule.
fn random(n: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..n)
}

fn router(strategy: Strategy) -> (Arc<ManualClock>, Router<()>) {
    let clock = Arc::new(ManualClock::new(0));
    let settings = Settings { strategy, seed: Some(5), clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() };
    (clock, Router::new(settings).unwrap())
}

fn deployment(id: &str, model_name: &str) -> Deployment {
    Deployment::new(id, model_name).unwrap().with_tags(["tag"]).unwrap()
}

fn add(router: &Router<()>, deployment: Deployment) {
    drop(router.add(deployment, ()).unwrap());
}

fn request(tokens: u64) -> Request {
    Request { tokens, split: None, wishes: None }
}

/// Picked by a walk at first, and then from a tree of its own.
fn tagged(tokens: u64) -> Request {
    Request { tokens, split: None, wishes: Some(Box::new(Wishes { tags: vec!["tag".to_owned()], ..Wishes::default() })) }
}

fn without<'a>(ids: impl IntoIterator<Item = &'a str>) -> Request {
    let exclude = ids.into_iter().map(ToOwned::to_owned).collect();
    Request { tokens: 0, split: None, wishes: Some(Box::new(Wishes { exclude, ..Wishes::default() })) }
}

fn select(router: &Router<()>, model_name: &str, request: &Request) -> Result<String, Error> {
    router.select(model_name, request, ToString::to_string)
}

/// The index of every group picks what a walk would, while its members fill up one by one.
fn assert_index_is_walk(router: &Router<()>) {
    for model_name in router.models() {
        let ids: Vec<_> = router.group(&model_name).unwrap().iter().map(|entry| entry.deployment().id().to_owned()).collect();
        let mut requests = vec![request(0), request(4), tagged(0), tagged(4)];
        requests.extend(ids.iter().map(|id| without([&**id])));
        let mut leases = Vec::new();
        for _ in 0..=2 * ids.len() {
            for request in &requests {
                let winner = router.explain(&model_name, request).unwrap().winner;
                let picked = select(router, &model_name, request).ok();
                assert_eq!(picked.as_deref(), winner.as_ref().map(|entry| entry.deployment().id()), "{model_name} {request:?}");
            }
            leases.extend(router.acquire(&model_name, &request(1)));
        }
    }
}

/// The index is right, and without a lease nothing is in flight.
fn assert_settled(router: &Router<()>) {
    assert_index_is_walk(router);
    assert!(router.snapshot().iter().all(|stats| stats.in_flight == 0), "{:?}", router.snapshot());
}

// === the reservation ===

/// What an onlooker knows of a deployment that was acquired.
#[derive(Default)]
struct Seen {
    live: AtomicU32,
    requests: AtomicU64,
    tokens: AtomicU64,
}

#[test]
fn the_last_of_anything_has_one_winner() {
    for last in [
        deployment("a", "model").with_rpm_limit(Some(1)).unwrap(),
        deployment("a", "model").with_tpm_limit(Some(3)).unwrap(),
        deployment("a", "model").with_max_parallel_requests(Some(1)).unwrap(),
    ] {
        explore(2_000, move || {
            let (_, router) = router(Strategy::SimpleShuffle);
            add(&router, last.clone());
            let leases = shuttle::sync::Mutex::new(Vec::new());
            let acquire = |request: &Request| match router.acquire("model", request) {
                Ok(lease) => leases.lock().unwrap().push(lease),
                Err(error) => assert!(matches!(error, Error::NoAvailableDeployment(_)), "{error}"),
            };
            together(&[&|| acquire(&request(2)), &|| acquire(&tagged(2)), &|| acquire(&tagged(2))]);
            let stats = router.stats("a").unwrap();
            assert_eq!((leases.lock().unwrap().len(), stats.in_flight, stats.rpm_current, stats.tpm_current), (1, 1, 1, 2));
        });
    }
}

#[test]
fn no_limit_is_exceeded_and_as_many_are_admitted_as_fit() {
    const RPM: u64 = 2;
    const TPM: u64 = 7;
    const PARALLEL: u32 = 1;
    explore_strategies(1_000, |strategy| {
        let (_, router) = router(strategy);
        // One is short of requests, the other of tokens.
        add(
            &router,
            deployment("0", "model").with_rpm_limit(Some(RPM)).unwrap().with_max_parallel_requests(Some(PARALLEL)).unwrap(),
        );
        add(&router, deployment("1", "model").with_tpm_limit(Some(TPM)).unwrap().with_max_parallel_requests(Some(2)).unwrap());
        let seen: [Seen; 2] = Default::default();
        let acquire = |request: &Request| {
            for _ in 0..3 {
                let Ok(lease) = router.acquire("model", request) else { continue };
                let seen = &seen[lease.deployment().id().parse::<usize>().unwrap()];
                assert!(seen.live.fetch_add(1, SeqCst) < lease.deployment().max_parallel_requests().unwrap());
                assert!(seen.requests.fetch_add(1, SeqCst) < lease.deployment().rpm_limit().unwrap_or(u64::MAX));
                assert!(seen.tokens.fetch_add(3, SeqCst) + 3 <= lease.deployment().tpm_limit().unwrap_or(u64::MAX));
                thread::yield_now();
                seen.live.fetch_sub(1, SeqCst);
                assert!(lease.release(false));
            }
        };
        together(&[&|| acquire(&request(3)), &|| acquire(&request(3)), &|| acquire(&tagged(3))]);
        for (stats, seen) in router.snapshot().iter().zip(&seen) {
            let counted = (stats.in_flight, stats.rpm_current, stats.tpm_current, stats.total_requests);
            let requests = seen.requests.load(SeqCst);
            assert_eq!(counted, (0, requests, seen.tokens.load(SeqCst), requests));
        }
        // A request that was refused for a place in flight left its part of the minute free. That part is
        // still free, and no more.
        let left = (0..5).filter(|_| router.acquire("model", &request(3)).is_ok()).count() as u64;
        assert_eq!(left, RPM + TPM / 3 - seen.iter().map(|seen| seen.requests.load(SeqCst)).sum::<u64>());
        assert_settled(&router);
    });
}

#[test]
fn as_many_are_admitted_as_a_minute_has_room_for() {
    explore_strategies(1_000, |strategy| {
        let (_, router) = router(strategy);
        add(&router, deployment("a", "model").with_rpm_limit(Some(2)).unwrap());
        add(&router, deployment("b", "model").with_tpm_limit(Some(5)).unwrap());
        let admitted = AtomicU32::new(0);
        let acquire = |request: &Request| {
            for _ in 0..2 {
                admitted.fetch_add(u32::from(router.acquire("model", request).is_ok()), SeqCst);
            }
        };
        together(&[&|| acquire(&request(2)), &|| acquire(&request(2)), &|| acquire(&tagged(2))]);
        assert_eq!(admitted.load(SeqCst), 4);
        assert_settled(&router);
    });
}

#[test]
fn what_is_given_back_can_be_taken_again() {
    explore_strategies(1_000, |strategy| {
        let (_, router) = router(strategy);
        for id in ["a", "b"] {
            add(&router, deployment(id, "model").with_tpm_limit(Some(12)).unwrap().with_rpm_limit(Some(2)).unwrap());
        }
        // Four requests of up to six tokens fit, so nobody is refused, whichever way the others end.
        let succeed = || {
            router.acquire("model", &request(6)).unwrap().success(Some(2), None, None);
        };
        let give_back = || {
            router.acquire("model", &request(6)).unwrap().release(true);
        };
        let fail = || {
            router.acquire("model", &request(6)).unwrap().failure(FailureKind::Error, None, &[], None);
        };
        together(&[&succeed, &give_back, &fail]);
        let total = |count: fn(&Stats) -> u64| router.snapshot().iter().map(count).sum::<u64>();
        assert_eq!(total(|stats| stats.rpm_current), 2);
        assert_eq!(total(|stats| stats.tpm_current), 2 + 6);
        assert_eq!(total(|stats| stats.total_requests), 2);
        assert_eq!(total(|stats| stats.total_successes), 1);
        assert_eq!(total(|stats| stats.total_failures), 1);
        assert_eq!(total(|stats| stats.total_tokens), 2);
        assert_settled(&router);
    });
}

// === quotas ===

fn limit(unit: Unit, amount: u64, kind: LimitKind) -> Limit {
    let kind = if let LimitKind::Bucket { .. } = kind { LimitKind::Bucket { burst: amount } } else { kind };
    Limit::new(unit, amount, MINUTE, kind).unwrap()
}

/// Three deployments in two groups, all under two quotas that they name in different orders. One admits so
/// many requests, the other so many tokens.
fn under_quotas(requests: u64, tokens: u64, kind: LimitKind) -> Vec<(Deployment, ())> {
    let a = Quota::new("a", &[limit(Unit::Requests, requests, kind)]).unwrap();
    let b = Quota::new("b", &[limit(Unit::Tokens, tokens, kind)]).unwrap();
    let quotas = [[a.clone(), b.clone()], [b, a]];
    let members = [("1", "one", 0), ("2", "two", 1), ("3", "one", 1)];
    members.map(|(id, model_name, order)| (deployment(id, model_name).with_quotas(&quotas[order]).unwrap(), ())).into()
}

/// Runs `check` with every kind of limit.
fn explore_kinds(schedules: usize, check: impl Fn(LimitKind) + Copy + Send + Sync + 'static) {
    for kind in [LimitKind::Fixed(Start::FirstUse), LimitKind::Sliding, LimitKind::Bucket { burst: 1 }] {
        explore(schedules, move || check(kind));
    }
}

/// What is used of the two quotas, as every deployment sees it.
fn used(router: &Router<()>) -> (u64, u64) {
    let seen: Vec<_> = router.snapshot().iter().map(|stats| (stats.limits[0].used, stats.limits[1].used)).collect();
    assert!(seen.iter().all(|used| *used == seen[0]), "{seen:?}");
    seen[0]
}

#[test]
fn the_last_of_a_quota_has_one_winner() {
    explore_kinds(1_000, |kind| {
        let (_, router) = router(Strategy::LeastBusy);
        drop(router.replace_all(under_quotas(2, 100, kind)).unwrap());
        let first = router.acquire("two", &request(9)).unwrap();
        let leases = shuttle::sync::Mutex::new(Vec::new());
        let acquire = |model_name: &str, request: &Request| leases.lock().unwrap().extend(router.acquire(model_name, request));
        let settle = || assert!(first.success(Some(4), None, None));
        together(&[&|| acquire("one", &request(3)), &|| acquire("two", &tagged(3)), &settle]);
        assert_eq!((leases.lock().unwrap().len(), used(&router)), (1, (2, 4 + 3)));
    });
}

#[test]
fn what_is_given_back_to_a_quota_can_be_taken_by_another_group() {
    explore_kinds(1_000, |kind| {
        let (_, router) = router(Strategy::RoundRobin);
        drop(router.replace_all(under_quotas(2, 100, kind)).unwrap());
        let first = router.acquire("two", &request(9)).unwrap();
        let admitted = AtomicU64::new(0);
        let acquire = |model_name: &str| {
            admitted.fetch_add(router.acquire(model_name, &request(3)).is_ok().into(), SeqCst);
        };
        together(&[&|| acquire("one"), &|| acquire("two"), &|| assert!(first.release(true))]);
        let admitted = admitted.load(SeqCst);
        assert!((1..=2).contains(&admitted) && used(&router) == (admitted, 3 * admitted));
        let left = (0..3).filter(|_| router.acquire("one", &request(3)).is_ok()).count() as u64;
        assert_eq!(admitted + left, 2);
        assert!(router.snapshot().iter().all(|stats| stats.in_flight == 0));
    });
}

#[test]
fn a_quota_whose_limits_change_goes_on() {
    explore_kinds(1_000, |kind| {
        let (_, router) = router(Strategy::SimpleShuffle);
        drop(router.replace_all(under_quotas(3, 30, kind)).unwrap());
        let (unused, settled) = (router.acquire("one", &request(9)).unwrap(), router.acquire("two", &request(9)).unwrap());
        let admitted = AtomicU64::new(0);
        let acquire = || {
            admitted.fetch_add(router.acquire("one", &request(3)).is_ok().into(), SeqCst);
            admitted.fetch_add(router.acquire("two", &request(3)).is_ok().into(), SeqCst);
        };
        let change = || drop(router.replace_all(under_quotas(2 + 2 * random(2) as u64, 40, kind)).unwrap());
        let end = || {
            assert!(unused.release(true));
            assert!(settled.success(Some(6), None, None));
        };
        together(&[&acquire, &change, &end]);
        let (admitted, most) = (admitted.load(SeqCst), router.stats("1").unwrap().limits[0].limit.amount());
        assert_eq!(used(&router), (1 + admitted, 6 + 3 * admitted));
        // No more than one of the limits has ever admitted, and as many as are left.
        assert!(admitted < most.max(3));
        let left = (0..5).filter(|_| router.acquire("two", &request(1)).is_ok()).count() as u64;
        assert_eq!(left, most.saturating_sub(1 + admitted));
    });
}

// === a minute that turns ===

#[test]
fn no_minute_counts_more_than_its_limit() {
    const RPM: u64 = 2;
    explore_strategies(1_000, |strategy| {
        let (clock, router) = router(strategy);
        clock.set(MINUTE - SECOND);
        add(&router, deployment("a", "model").with_rpm_limit(Some(RPM)).unwrap().with_tpm_limit(Some(2 * RPM)).unwrap());
        let turn = || {
            clock.advance(2 * SECOND);
        };
        // A request is counted in the minute of some moment of its call, or in a later one that another
        // request has begun.
        let (before, after, either, refused_after) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU32::new(0));
        let acquire = || {
            for _ in 0..2 {
                let called_in = clock.reading() / MINUTE;
                let lease = router.acquire("model", &request(2));
                match (lease, called_in, clock.reading() / MINUTE) {
                    (Ok(_), 0, 0) => before.fetch_add(1, SeqCst),
                    (Ok(_), 1, _) => after.fetch_add(1, SeqCst),
                    (Ok(_), ..) => either.fetch_add(1, SeqCst),
                    (Err(_), 1, _) => u64::from(refused_after.fetch_add(1, SeqCst)),
                    (Err(_), ..) => 0,
                };
            }
        };
        together(&[&turn, &acquire, &acquire]);
        let stats = router.stats("a").unwrap();
        let (before, after, either) = (before.load(SeqCst), after.load(SeqCst), either.load(SeqCst));
        assert!(before <= RPM && after <= stats.rpm_current && stats.rpm_current <= RPM, "{before} {after} {stats:?}");
        assert!(stats.rpm_current <= after + either && before + after + either <= 2 * RPM);
        assert_eq!(stats.tpm_current, 2 * stats.rpm_current);
        assert!(refused_after.load(SeqCst) == 0 || stats.rpm_current == RPM);
        let left = (0..4).filter(|_| router.acquire("model", &request(2)).is_ok()).count() as u64;
        assert_eq!(stats.rpm_current + left, RPM);
        assert_settled(&router);
    });
}

#[test]
fn what_one_minute_took_is_not_given_back_to_the_next() {
    explore(4_000, || {
        let (clock, router) = router(Strategy::UsageBased);
        add(&router, deployment("a", "model").with_rpm_limit(Some(4)).unwrap().with_tpm_limit(Some(40)).unwrap());
        let unused = router.acquire("model", &request(10)).unwrap();
        let settled = router.acquire("model", &request(10)).unwrap();
        let turn = || {
            clock.advance(MINUTE);
            unused.release(true);
        };
        let after = AtomicU64::new(0);
        let acquire = || {
            for _ in 0..2 {
                let called_in = clock.reading() / MINUTE;
                router.acquire("model", &request(10)).unwrap();
                after.fetch_add(called_in, SeqCst);
            }
        };
        let settle = || {
            settled.success(Some(0), None, None);
        };
        together(&[&turn, &acquire, &settle]);
        let stats = router.stats("a").unwrap();
        let after = after.load(SeqCst);
        assert!(after <= stats.rpm_current && stats.rpm_current <= 2, "{after} {stats:?}");
        assert_eq!(stats.tpm_current, 10 * stats.rpm_current);
        assert_settled(&router);
    });
}

#[test]
fn a_minute_that_begins_is_not_seen_with_the_counts_of_the_last() {
    explore_strategies(500, |strategy| {
        let (clock, router) = router(strategy);
        add(&router, deployment("a", "model").with_rpm_limit(Some(2)).unwrap());
        add(&router, deployment("b", "model").with_tpm_limit(Some(6)).unwrap());
        (0..4).for_each(|_| assert!(router.acquire("model", &request(3)).is_ok()));
        clock.advance(MINUTE);
        // Each has room for two and takes one at most, so each thread that looks finds both.
        let first = || assert!(router.acquire("model", &without(["b"])).is_ok());
        let second = || assert!(router.acquire("model", &without(["a"])).is_ok());
        let look = || {
            for id in ["a", "b"] {
                assert_ne!(select(&router, "model", &without([id])).unwrap(), id);
            }
            let explained = router.explain("model", &request(3)).unwrap();
            assert!(explained.verdicts.iter().all(|(_, verdict)| matches!(verdict, Verdict::Candidate { .. })), "{explained:?}");
        };
        together(&[&first, &second, &look]);
        assert_settled(&router);
    });
}

// === the lease ===

#[test]
fn a_lease_ends_once_and_counts_once() {
    explore(5_000, || {
        let (_, router) = router(Strategy::LeastBusy);
        add(&router, deployment("a", "model"));
        let lease = router.acquire("model", &request(5)).unwrap();
        let ended_by = shuttle::sync::Mutex::new(Vec::new());
        let end = |name: &'static str, ended: bool| {
            if ended {
                ended_by.lock().unwrap().push(name);
            }
        };
        together(&[
            &|| end("success", lease.success(Some(7), None, Some(9))),
            &|| end("failure", lease.failure(FailureKind::Error, None, &[], None)),
            &|| end("release", lease.release(true)),
        ]);
        let stats = router.stats("a").unwrap();
        let counted = (stats.rpm_current, stats.tpm_current, stats.total_requests, stats.total_successes, stats.total_failures);
        let expected = match ended_by.lock().unwrap()[..] {
            ["success"] => (1, 7, 1, 1, 0),
            ["failure"] => (1, 5, 1, 0, 1),
            ["release"] => (0, 0, 0, 0, 0),
            ref others => panic!("ended by {others:?}"),
        };
        assert_eq!(counted, expected);
        assert_eq!(stats.total_tokens, if stats.total_successes == 1 { 7 } else { 0 });
        assert!(lease.has_ended() && !lease.release(false));
        drop(lease);
        assert_settled(&router);
    });
}

#[test]
fn a_lease_ends_where_its_counters_have_gone() {
    let changes: [fn(&Router<()>); 6] = [
        // Replaced, in its place.
        |router| add(router, deployment("a", "one").with_max_parallel_requests(Some(1)).unwrap().with_priority(1)),
        // Moved, and back.
        |router| {
            add(router, deployment("a", "two").with_max_parallel_requests(Some(2)).unwrap());
            add(router, deployment("a", "one").with_max_parallel_requests(Some(1)).unwrap());
        },
        |router| drop(router.remove("a").unwrap()),
        // Removed, and another one of the same name added.
        |router| {
            drop(router.remove("a").unwrap());
            add(router, deployment("a", "two").with_max_parallel_requests(Some(1)).unwrap());
        },
        // All replaced: in another order, and one moved.
        |router| {
            let all = [("b", "one"), ("a", "one"), ("c", "one"), ("d", "two")];
            drop(router.replace_all(all.map(|(id, name)| (deployment(id, name), ())).into()).unwrap());
        },
        |router| {
            let all = [("c", "one"), ("a", "two"), ("d", "two")];
            drop(router.replace_all(all.map(|(id, name)| (deployment(id, name), ())).into()).unwrap());
        },
    ];
    for change in changes {
        explore_strategies(200, move |strategy| {
            let (_, router) = router(strategy);
            for (id, name) in [("a", "one"), ("b", "one"), ("c", "two"), ("d", "two")] {
                add(&router, deployment(id, name).with_max_parallel_requests(Some(1)).unwrap());
            }
            let leases = [router.acquire("one", &request(3)).unwrap(), router.acquire("one", &request(3)).unwrap()];
            let leases = leases.map(|lease| shuttle::sync::Mutex::new(Some(lease)));
            let kept = shuttle::sync::Mutex::new(Vec::new());
            let again = || {
                drop(leases[0].lock().unwrap().take());
                let lease = router.acquire("one", &if random(2) == 0 { request(2) } else { tagged(2) });
                kept.lock().unwrap().extend(lease);
            };
            let end = || {
                if let Some(lease) = leases[1].lock().unwrap().take() {
                    lease.success(None, None, Some(10));
                }
            };
            together(&[&again, &end, &|| change(&router)]);
            assert_index_is_walk(&router);
            drop(kept.into_inner());
            assert_settled(&router);
        });
    }
}

#[test]
fn a_lease_ends_where_its_deployment_has_moved_up_to() {
    explore_strategies(500, |strategy| {
        let (_, router) = router(strategy);
        // So many empty places that the next one makes the others move up.
        let gone: Vec<_> = (0..18).map(|i| format!("gone {i}")).collect();
        let all = gone.iter().map(|id| &**id).chain(["a", "b", "c"]);
        let all = all.map(|id| (deployment(id, "model").with_max_parallel_requests(Some(1)).unwrap(), ()));
        drop(router.replace_all(all.collect()).unwrap());
        gone.iter().for_each(|id| drop(router.remove(id).unwrap()));
        let leases = [router.acquire("model", &without(["c"])).unwrap(), router.acquire("model", &without(["c"])).unwrap()];
        together(&[
            &|| assert!(leases[0].success(None, None, Some(10))),
            &|| assert!(leases[1].failure(FailureKind::Error, None, &[], None)),
            &|| drop(router.remove("c").unwrap()),
        ]);
        assert_settled(&router);
    });
}

// === picks amid changes ===

const IDS: [&str; 4] = ["a", "b", "c", "d"];

/// All of one group, in an order that differs.
fn turned(by: usize) -> Vec<(Deployment, ())> {
    (0..IDS.len()).map(|i| (deployment(IDS[(i + by) % IDS.len()], "model"), ())).collect()
}

#[test]
fn picks_go_on_amid_changes() {
    explore_strategies(1_000, |strategy| {
        let (_, router) = router(strategy);
        drop(router.replace_all(turned(0)).unwrap());
        // "a" stays available, and "b" is excluded or out of service.
        let pick = || {
            let request = without(["b"]);
            assert_ne!(select(&router, "model", &request).unwrap(), "b");
            let lease = router.acquire("model", &request).unwrap();
            assert_ne!(lease.deployment().id(), "b");
        };
        let change = || match random(4) {
            0 => drop(router.replace_all(turned(1 + random(3))).unwrap()),
            1 => {
                drop(router.remove("c").unwrap());
                drop(router.replace_all(turned(2)).unwrap());
            }
            2 => {
                add(&router, deployment("d", "other"));
                add(&router, deployment("b", "other"));
                add(&router, deployment("b", "model"));
            }
            _ => {
                drop(router.remove("b").unwrap());
                add(&router, deployment("b", "model"));
                add(&router, deployment("a", "model"));
            }
        };
        together(&[&pick, &change, &pick]);
        assert_settled(&router);
    });
}

#[test]
fn whoever_is_out_of_service_is_not_picked_amid_changes() {
    explore_strategies(1_000, |strategy| {
        let (_, router) = router(strategy);
        drop(router.replace_all(turned(0)).unwrap());
        router.report_health("b", false).unwrap();
        router.cool_down("c", MINUTE).unwrap();
        let lease = router.acquire("model", &request(1)).unwrap();
        let pick = || {
            let picked = select(&router, "model", &request(0)).unwrap();
            assert!(picked == "a" || picked == "d", "{picked}");
            let lease = router.acquire("model", &request(0)).unwrap();
            assert!(["a", "d"].contains(&lease.deployment().id()));
        };
        let change = || drop(router.replace_all(turned(1 + random(3))).unwrap());
        let end = || {
            lease.success(None, None, None);
        };
        together(&[&pick, &change, &end]);
        assert_settled(&router);
    });
}

// === waiting ===

/// Where a thread sleeps until it is woken. One that sleeps for ever is a deadlock, which shuttle reports.
#[derive(Default)]
struct Bell {
    rung: shuttle::sync::Mutex<bool>,
    sleeper: shuttle::sync::Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() = true;
        self.sleeper.notify_one();
    }
}

impl Bell {
    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.sleeper.wait(rung).unwrap();
        }
        *rung = false;
    }
}

struct Asking<'a> {
    router: &'a Router<()>,
    bell: Arc<Bell>,
    waiter: Waiter<()>,
}

impl<'a> Asking<'a> {
    fn new(router: &'a Router<()>, request: Request) -> Self {
        let bell = Arc::<Bell>::default();
        let waiter = router.wait("model", request, Patience::default(), Waker::from(Arc::clone(&bell))).unwrap();
        Self { router, bell, waiter }
    }

    /// Whether it has its lease.
    fn look(&self) -> Option<Lease<()>> {
        match self.router.poll(&self.waiter).unwrap() {
            Progress::Served(lease) => Some(lease),
            Progress::Waits(at_most) => at_most.map(|_| unreachable!("the clock is a manual one")),
        }
    }

    fn wait(&self) -> Lease<()> {
        loop {
            if let Some(lease) = self.look() {
                return lease;
            }
            self.bell.sleep();
        }
    }
}

fn wait(router: &Router<()>, request: Request) -> Lease<()> {
    Asking::new(router, request).wait()
}

fn single() -> Deployment {
    deployment("a", "model").with_max_parallel_requests(Some(1)).unwrap()
}

/// Frees capacity, and returns what ends when all have been served.
type Free = fn(&ManualClock, &Router<()>, Lease<()>) -> Option<Lease<()>>;

#[test]
fn nobody_sleeps_while_capacity_is_free() {
    let frees: [Free; 8] = [
        |_, _, lease| {
            lease.release(false);
            None
        },
        |_, _, lease| {
            lease.success(None, None, None);
            None
        },
        |clock, _, lease| {
            lease.failure(FailureKind::RateLimit, Some(SECOND), &[], None);
            clock.advance(SECOND);
            None
        },
        |_, router, lease| {
            router.report_health("a", false).unwrap();
            lease.release(false);
            router.report_health("a", true).unwrap();
            None
        },
        |_, router, lease| {
            add(router, deployment("b", "model"));
            Some(lease)
        },
        |_, router, lease| {
            drop(router.replace_all(vec![(deployment("a", "other"), ()), (deployment("b", "model"), ())]).unwrap());
            Some(lease)
        },
        |_, router, lease| {
            drop(router.replace_all(vec![(deployment("b", "other"), ()), (single(), ())]).unwrap());
            lease.release(false);
            None
        },
        |clock, router, lease| {
            router.cool_down("a", MINUTE).unwrap();
            lease.release(false);
            clock.advance(MINUTE);
            None
        },
    ];
    for free in frees {
        explore(1_000, move || {
            let (clock, router) = router(Strategy::LeastBusy);
            add(&router, single());
            let lease = shuttle::sync::Mutex::new(router.acquire("model", &request(1)).ok());
            let free = || {
                let held = lease.lock().unwrap().take().unwrap();
                *lease.lock().unwrap() = free(&clock, &router, held);
            };
            let ask = |request: Request| drop(wait(&router, request));
            together(&[&free, &|| ask(request(1)), &|| ask(tagged(1))]);
            drop(lease.into_inner());
            assert_eq!(router.waiting("model"), Ok(0));
            assert_settled(&router);
        });
    }
}

#[test]
fn those_of_a_class_are_served_in_order_and_never_overtaken() {
    explore(3_000, || {
        let (_, router) = router(Strategy::SimpleShuffle);
        add(&router, single());
        let lease = router.acquire("model", &request(1)).unwrap();
        let waiters = [Asking::new(&router, request(1)), Asking::new(&router, request(1))];
        assert!(waiters.iter().all(|waiter| waiter.look().is_none()));
        let order = shuttle::sync::Mutex::new(Vec::new());
        let serve = |i: usize| {
            let _lease = waiters[i].wait();
            order.lock().unwrap().push(i);
        };
        let overtake = || {
            if let Ok(_lease) = router.acquire("model", &request(1)) {
                order.lock().unwrap().push(2);
            }
        };
        let release = || {
            lease.release(false);
        };
        together(&[&release, &overtake, &|| serve(1), &|| serve(0)]);
        let order = order.into_inner().unwrap();
        assert!(order == [0, 1] || order == [0, 1, 2], "{order:?}");
        assert_settled(&router);
    });
}

#[test]
fn whoever_gives_up_leaves_nothing_and_holds_up_nobody() {
    explore(3_000, || {
        let (_, router) = router(Strategy::SimpleShuffle);
        add(&router, single().with_tpm_limit(Some(100)).unwrap());
        let lease = router.acquire("model", &request(1)).unwrap();
        let give_up = |request: Request| {
            let waiter = Asking::new(&router, request);
            drop((0..random(3)).find_map(|_| waiter.look()));
        };
        let release = || {
            lease.release(true);
        };
        together(&[&release, &|| give_up(request(7)), &|| give_up(tagged(7)), &|| drop(wait(&router, request(5)))]);
        assert_eq!(router.metrics().waiting, 0);
        assert_settled(&router);
    });
}

/// A waiter whose rings are lost, and which looks by itself.
fn wait_without_rings(router: &Router<()>, request: Request) -> Lease<()> {
    let waiter = router.wait("model", request, Patience::default(), Waker::noop().clone()).unwrap();
    loop {
        match router.poll(&waiter).unwrap() {
            Progress::Served(lease) => return lease,
            Progress::Waits(_) => thread::yield_now(),
        }
    }
}

#[test]
fn rings_that_are_lost_hold_up_nobody() {
    explore(3_000, || {
        let (_, router) = router(Strategy::SimpleShuffle);
        add(&router, single());
        let lease = router.acquire("model", &request(1)).unwrap();
        let release = || {
            lease.release(false);
        };
        let deaf = |request: Request| drop(wait_without_rings(&router, request));
        together(&[&release, &|| deaf(request(1)), &|| deaf(tagged(1)), &|| drop(wait(&router, request(1)))]);
        assert_eq!(router.metrics().waiting, 0);
        assert_settled(&router);
    });
}

#[test]
fn an_id_that_is_registered_later_makes_a_class_of_its_own() {
    explore(3_000, || {
        let (_, router) = router(Strategy::SimpleShuffle);
        add(&router, single());
        let lease = router.acquire("model", &request(1)).unwrap();
        let join = || add(&router, deployment("late", "model").with_max_parallel_requests(Some(1)).unwrap());
        // Nothing but the newcomer can serve it: the other place is freed only then.
        let served_late = || {
            assert_eq!(wait(&router, request(1)).deployment().id(), "late");
            lease.release(false);
        };
        together(&[&join, &served_late, &|| drop(wait(&router, without(["late"])))]);
        assert_eq!(router.metrics().waiting, 0);
        assert_settled(&router);
    });
}

#[test]
fn nobody_misses_a_minute_that_begins() {
    explore(2_000, || {
        let (clock, router) = router(Strategy::RoundRobin);
        add(&router, deployment("a", "model").with_rpm_limit(Some(2)).unwrap());
        (0..2).for_each(|_| drop(router.acquire("model", &request(1)).unwrap()));
        let ask = |request: Request| {
            let _lease = wait(&router, request);
            assert_eq!(clock.reading(), MINUTE);
        };
        let turn = || {
            clock.advance(MINUTE);
        };
        together(&[&turn, &|| ask(request(1)), &|| ask(request(1))]);
        assert_settled(&router);
    });
}

// === anything ===

/// One call drawn from all there are.
fn act(router: &Router<()>, clock: &ManualClock, leases: &mut Vec<Lease<()>>) {
    const MODELS: [&str; 2] = ["one", "two"];
    let id = IDS[random(IDS.len())];
    let model_name = MODELS[random(2)];
    let limits = |id: &str, model_name: &str| {
        let deployment = deployment(id, model_name).with_max_parallel_requests([None, Some(1), Some(2)][random(3)]).unwrap();
        let deployment = deployment.with_tags(["tag"].into_iter().take(random(2))).unwrap();
        let deployment =
            deployment.with_tpm_limit([None, Some(9)][random(2)]).unwrap().with_rpm_limit([None, Some(3)][random(2)]).unwrap();
        let sliding = [limit(Unit::Tokens, 9, LimitKind::Sliding)];
        let shared = [Quota::new("q", &[limit(Unit::Requests, 9, LimitKind::Bucket { burst: 1 })]).unwrap()];
        let deployment = deployment.with_domain([None, Some("east")][random(2)]).unwrap();
        let own =
            [None, Some(Rules::Health(HealthRules { window: 30 * SECOND, slow_start: 9 * SECOND, ..HealthRules::default() }))];
        let deployment = deployment.with_health(own[random(2)]).unwrap();
        deployment.with_limits(&sliding[random(2)..]).with_quotas(&shared[random(2)..]).unwrap()
    };
    match random(17) {
        0..4 => leases.extend(router.acquire(model_name, &request(random(5) as u64))),
        12 => leases.extend(router.acquire(model_name, &tagged(random(5) as u64))),
        4 | 5 => {
            if let Some(lease) = leases.pop() {
                match random(4) {
                    0 => lease.success(Some(random(9) as u64), None, Some(random(100) as u64)),
                    1 => {
                        lease.failure(FailureKind::ALL[random(FailureKind::ALL.len())], Some(random(2) as u64 * SECOND), &[], None)
                    }
                    2 => lease.release(true),
                    _ => lease.release(false),
                };
            }
        }
        6 => {
            let _ = router.record_success(id, 2, Some(random(100) as u64));
        }
        7 => {
            let _ = router.report_health(id, random(3) > 0);
        }
        8 => {
            clock.advance(random(40) as u64 * SECOND);
        }
        9 => drop(router.remove(id)),
        13 => {
            let _ = router.record_failure(id, FailureKind::Connection, None, None);
        }
        14 => {
            let _ = router.cool_down(id, random(40) as u64 * SECOND);
        }
        15 => {
            let said = |unit| Observed { unit, limit: None, remaining: random(5) as u64, reset: Some(random(60) as u64 * SECOND) };
            let said = [said(Unit::Requests), said(Unit::Tokens)];
            let pause = Some(SECOND).filter(|_| random(4) == 0);
            match leases.last() {
                Some(lease) => lease.observe(&said[random(2)..], pause),
                None => drop(router.observe(id, &said[random(2)..], pause)),
            }
        }
        16 => {
            let rules = HealthRules {
                consecutive_failures: Some(1 + random(2) as u32),
                window: [60, 30][random(2)] * SECOND,
                slow_start: [0, 50 * SECOND][random(2)],
                panic_threshold: [0.0, 0.5][random(2)],
                outlier_factor: [None, Some(2.0)][random(2)],
                ..HealthRules::default()
            };
            let health = [None, Some(Rules::Health(rules)), Some(Rules::Minute(MinuteRules::default()))][random(3)];
            let strategy = [None, Some(Strategy::ALL[random(Strategy::ALL.len())])][random(2)];
            router.configure(Changed { strategy, health, ..Changed::default() }).unwrap();
        }
        10 => add(router, limits(id, model_name)),
        _ => {
            let from = random(IDS.len());
            let all = (0..random(IDS.len() + 1)).map(|i| (limits(IDS[(from + i) % IDS.len()], MODELS[random(2)]), ()));
            drop(router.replace_all(all.collect()).unwrap());
        }
    }
}

#[test]
fn the_index_and_the_walk_agree_after_anything() {
    explore_strategies(3_000, |strategy| {
        let rules = HealthRules {
            consecutive_failures: Some(1),
            slow_start: 100 * SECOND,
            panic_threshold: 0.5,
            outlier_factor: Some(2.0),
            ..HealthRules::default()
        };
        let (clock, router) = if random(2) == 0 { router(strategy) } else { with_health(strategy, rules, &[]) };
        for id in IDS {
            add(&router, deployment(id, "one"));
        }
        let kept = shuttle::sync::Mutex::new(Vec::new());
        let work = || {
            let mut leases = Vec::new();
            (0..3).for_each(|_| act(&router, &clock, &mut leases));
            kept.lock().unwrap().extend(leases);
        };
        together(&[&work, &work, &work]);
        assert_index_is_walk(&router);
        drop(kept.into_inner());
        assert_settled(&router);
    });
}

// === health ===

fn with_health(strategy: Strategy, rules: HealthRules, ids: &[&str]) -> (Arc<ManualClock>, Router<()>) {
    let clock = Arc::new(ManualClock::new(SECOND));
    let health = Rules::Health(HealthRules { cooldown_jitter: 0.0, ..rules });
    let settings = Settings { strategy, health, seed: Some(5), clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() };
    let router = Router::new(settings).unwrap();
    for id in ids {
        add(&router, deployment(id, "model").with_domain(Some("domain")).unwrap());
    }
    (clock, router)
}

#[test]
fn one_probe_at_a_time_and_none_is_lost() {
    explore_strategies(300, |strategy| {
        let rules = HealthRules { success_threshold: 100, cool_last: true, ..HealthRules::default() };
        let (clock, router) = with_health(strategy, rules, &["a"]);
        router.cool_down("a", SECOND).unwrap();
        clock.advance(SECOND);
        let (inside, got) = (AtomicU32::new(0), AtomicU32::new(0));
        let probe = || {
            for _ in 0..2 {
                let Ok(lease) = router.acquire("model", &request(1)) else { continue };
                assert_eq!(inside.fetch_add(1, SeqCst), 0);
                got.fetch_add(1, SeqCst);
                thread::yield_now();
                inside.fetch_sub(1, SeqCst);
                match random(4) {
                    0 => assert!(lease.success(None, None, None)),
                    1 => assert!(lease.failure(FailureKind::Cancelled, None, &[], None)),
                    2 => assert!(lease.release(true)),
                    _ => drop(lease),
                }
            }
        };
        let change = || match random(2) {
            0 => drop(router.replace_all(vec![(deployment("a", "model").with_weight(2), ())]).unwrap()),
            _ => add(&router, deployment("a", "model").with_weight(3)),
        };
        together(&[&probe, &probe, &probe, &change]);
        assert!(got.load(SeqCst) > 0);
        assert_eq!(router.stats("a").unwrap().in_flight, 0);
        // The place is free again, and the index knows.
        drop(router.acquire("model", &request(1)).unwrap());
    });
}

#[test]
fn failures_at_once_never_take_out_all() {
    explore_strategies(300, |strategy| {
        let rules = HealthRules { consecutive_failures: Some(1), panic_threshold: 0.6, ..HealthRules::default() };
        let (_clock, router) = with_health(strategy, rules, &["a", "b", "c"]);
        let panics = AtomicU32::new(0);
        let fail = |id: &'static str| {
            let router = &router;
            move || {
                let kind = if random(2) == 0 { FailureKind::Error } else { FailureKind::Connection };
                router.record_failure(id, kind, None, None).unwrap();
                router.record_failure(id, FailureKind::Timeout, None, None).unwrap();
            }
        };
        let pick = || {
            for _ in 0..2 {
                panics.fetch_add(u32::from(router.explain("model", &request(0)).unwrap().panic), SeqCst);
                drop(router.acquire("model", &request(0)).unwrap());
            }
        };
        together(&[&fail("a"), &fail("b"), &fail("c"), &pick]);
        let out = router.snapshot().iter().filter(|stats| stats.status == turnout::Status::CoolingDown).count();
        assert_eq!(out, 2, "{:?}", router.snapshot());
        assert!(router.explain("model", &request(0)).unwrap().panic);
        assert_eq!(router.metrics().panicking.len(), 1);
        assert_settled(&router);
    });
}

#[test]
fn what_happens_is_told_once() {
    explore(500, || {
        let rules = HealthRules { consecutive_failures: Some(1), panic_threshold: 0.5, ..HealthRules::default() };
        let (_clock, router) = with_health(Strategy::SimpleShuffle, rules, &["a", "b", "c"]);
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let subscription = router.subscribe({
            let told = Arc::clone(&told);
            move |event| told.lock().unwrap().push((event.kind, event.deployment_id.clone()))
        });
        let fail = |id: &'static str| {
            let router = &router;
            move || router.record_failure(id, FailureKind::Auth, None, None).unwrap()
        };
        together(&[&fail("a"), &fail("b"), &fail("c")]);
        // An event that came while another thread was telling is told by the next call.
        router.record_success("a", 0, None).unwrap();
        subscription.end();
        let told = told.lock().unwrap();
        let count = |kind| told.iter().filter(|(other, _)| *other == kind).count();
        assert_eq!((count(turnout::EventKind::Cooldown), count(turnout::EventKind::Panic)), (3, 1), "{told:?}");
    });
}

// --- limits that processes share ---

/// Routers that share the limits of one deployment through a store in memory. The time is just before the end
/// of a minute.
fn sharing(deployment: &Deployment) -> (Arc<ManualClock>, [Router<()>; 2]) {
    let (clock, memory) = (Arc::new(ManualClock::new(10 * MINUTE - SECOND)), Arc::new(Memory::default()));
    let router = || {
        let shared = Some(Sharing::through(Arc::clone(&memory)));
        let settings = Settings { seed: Some(5), clock: Clock::Manual(Arc::clone(&clock)), shared, ..Settings::default() };
        let router = Router::new(settings).unwrap();
        add(&router, deployment.clone());
        router
    };
    let routers = [router(), router()];
    (clock, routers)
}

/// An acquire, an answer of the store and the turn of a window meet in any order.
#[test]
fn a_window_that_is_shared_is_one_limit_whatever_comes_first() {
    explore(150, || {
        let (clock, routers) = sharing(&deployment("a", "m").with_rpm_limit(Some(3)).unwrap());
        let admitted: [AtomicU32; 2] = Default::default();
        let ask = |router: &Router<()>| {
            for _ in 0..3 {
                if let Ok(lease) = router.acquire("m", &request(0)) {
                    let window = (lease.acquired_at() / MINUTE - 9) as usize;
                    admitted[window].fetch_add(1, SeqCst);
                    lease.release(false);
                }
            }
        };
        together(&[&|| ask(&routers[0]), &|| ask(&routers[1]), &|| _ = clock.advance(2 * SECOND)]);
        for window in &admitted {
            assert!(window.load(SeqCst) <= 3, "{admitted:?}");
        }
        // What is left is there for anybody, once nothing is kept for requests that were refused.
        clock.advance(2 * SECOND);
        let left = 3 - admitted[1].load(SeqCst);
        let mut leases = Vec::new();
        while let Ok(lease) = routers[0].acquire("m", &request(0)) {
            leases.push(lease);
        }
        assert_eq!(leases.len() as u32, left, "{admitted:?}");
    });
}

#[test]
fn places_that_are_shared_are_never_given_twice() {
    explore(150, || {
        let (_, routers) = sharing(&deployment("a", "m").with_max_parallel_requests(Some(2)).unwrap());
        let in_flight = AtomicU32::new(0);
        let ask = |router: &Router<()>| {
            for _ in 0..3 {
                if let Ok(lease) = router.acquire("m", &request(0)) {
                    assert!(in_flight.fetch_add(1, SeqCst) < 2);
                    thread::yield_now();
                    in_flight.fetch_sub(1, SeqCst);
                    lease.release(false);
                }
            }
        };
        together(&[&|| ask(&routers[0]), &|| ask(&routers[1]), &|| ask(&routers[0])]);
        assert_eq!(in_flight.load(SeqCst), 0);
    });
}
