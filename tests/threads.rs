//! Real threads on one router: limits hold, nothing leaks, nothing is lost.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a failure is meant to stop it
#![allow(clippy::pedantic)] // written to be read next to the code it checks

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock, Weak};

use turnout::{
    Attachment, Clock, Deployment, FailureKind, HealthRules, Limit, LimitKind, ManualClock, Quota, Request, Router, Rules,
    Settings, Start, Status, Strategy, Unit,
};

const THREADS: usize = 8;

fn deployment(id: usize) -> Deployment {
    Deployment::new(&id.to_string(), "model").unwrap()
}

/// Runs `work` in eight threads that start together; it gets the thread's number.
fn together(work: impl Fn(usize) + Sync) {
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(thread);
            });
        }
    });
}

#[test]
fn admitted_never_exceeds_any_limit() {
    const DEPLOYMENTS: usize = 4;
    const RPM: u64 = 250;
    const TPM: u64 = 3_000;
    const PARALLEL: u32 = 3;
    for strategy in Strategy::ALL {
        let clock = Arc::new(ManualClock::new(0));
        let router = Router::new(Settings { strategy, clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() }).unwrap();
        for id in 0..DEPLOYMENTS {
            let deployment = deployment(id).with_rpm_limit(Some(RPM)).unwrap().with_tpm_limit(Some(TPM)).unwrap();
            drop(router.add(deployment.with_max_parallel_requests(Some(PARALLEL)).unwrap(), ()).unwrap());
        }
        let requests: [AtomicU64; DEPLOYMENTS] = Default::default();
        let tokens: [AtomicU64; DEPLOYMENTS] = Default::default();
        let live: [AtomicU32; DEPLOYMENTS] = Default::default();
        together(|thread| {
            for i in 0..1_000 {
                let asked = ((i * 7 + thread) % 23) as u64;
                let Ok(lease) = router.acquire("model", &Request { tokens: asked, split: None, wishes: None }) else { continue };
                let id: usize = lease.deployment().id().parse().unwrap();
                assert!(live[id].fetch_add(1, Ordering::SeqCst) < PARALLEL);
                assert!(requests[id].fetch_add(1, Ordering::SeqCst) < RPM);
                assert!(tokens[id].fetch_add(asked, Ordering::SeqCst) + asked <= TPM);
                if i % 3 == 0 {
                    std::thread::yield_now();
                }
                live[id].fetch_sub(1, Ordering::SeqCst);
                assert!(if i % 2 == 0 { lease.release(false) } else { lease.success(None, None, None) });
            }
        });
        for stats in router.snapshot() {
            let id: usize = stats.deployment_id.parse().unwrap();
            assert_eq!(stats.in_flight, 0);
            assert_eq!(stats.rpm_current, requests[id].load(Ordering::SeqCst));
            assert_eq!(stats.tpm_current, tokens[id].load(Ordering::SeqCst));
        }
        // Exactly as many as fit: the smallest ask is refused only when requests or tokens are spent.
        assert!(router.snapshot().iter().all(|stats| stats.rpm_current == RPM || stats.tpm_current + 23 > TPM), "{strategy}");
    }
}

#[test]
fn exactly_as_many_as_the_limit_are_admitted() {
    for strategy in Strategy::ALL {
        let router =
            Router::new(Settings { strategy, clock: Clock::Manual(Arc::new(ManualClock::new(0))), ..Settings::default() }).unwrap();
        for id in 0..10 {
            drop(router.add(deployment(id).with_rpm_limit(Some(10)).unwrap(), ()).unwrap());
        }
        let admitted = AtomicU32::new(0);
        together(|_| {
            for _ in 0..50 {
                admitted.fetch_add(u32::from(router.acquire("model", &Request::default()).is_ok()), Ordering::Relaxed);
            }
        });
        assert_eq!(admitted.into_inner(), 100, "{strategy}");
    }
}

/// Every kind of limit.
const KINDS: [LimitKind; 4] = [
    LimitKind::Fixed(Start::Clock),
    LimitKind::Fixed(Start::FirstUse),
    LimitKind::Sliding,
    LimitKind::Bucket { burst: 0 }, // all of it: see `limit`
];

fn limit(unit: Unit, amount: u64, kind: LimitKind) -> Limit {
    let kind = if let LimitKind::Bucket { .. } = kind { LimitKind::Bucket { burst: amount } } else { kind };
    Limit::new(unit, amount, 60_000_000_000, kind).unwrap()
}

/// What an onlooker counts of a quota: never more than there is, since it adds after and takes off before.
#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    tokens: AtomicU64,
    input: AtomicU64,
}

#[test]
fn quotas_are_never_exceeded_and_nothing_is_lost() {
    const REQUESTS: u64 = 9_000;
    const TOKENS: u64 = 90_000;
    const INPUT: u64 = 30_000;
    for (kind, strategy) in
        KINDS.into_iter().zip([Strategy::RoundRobin, Strategy::UsageBased, Strategy::LeastBusy, Strategy::SimpleShuffle])
    {
        let clock = Clock::Manual(Arc::new(ManualClock::new(90_000_000_000)));
        let router = Router::new(Settings { strategy, clock, ..Settings::default() }).unwrap();
        let a = Quota::new("a", &[limit(Unit::Requests, REQUESTS, kind), limit(Unit::Tokens, TOKENS, kind)]).unwrap();
        let b = Quota::new("b", &[limit(Unit::InputTokens, INPUT, kind), limit(Unit::Requests, REQUESTS, kind)]).unwrap();
        // In the order in which the locks of one would wait for those of the other.
        let quotas = [[a.clone(), b.clone()], [b, a]];
        // Each in a group of its own, lest the lock of its index keep them apart.
        let models = ["0", "1", "2", "3", "4", "5", "6", "7"];
        for id in 0..THREADS {
            let deployment = Deployment::new(&id.to_string(), models[id]).unwrap().with_quotas(&quotas[id % 2]).unwrap();
            drop(router.add(deployment, ()).unwrap());
        }
        let seen = Seen::default();
        let (admitted, refused) = (AtomicU32::new(0), AtomicU32::new(0));
        together(|thread| {
            for i in 0..5_000 {
                let (input, output) = (((i * 7 + thread) % 5) as u64, (i % 11) as u64);
                let request = Request { tokens: input + output, split: Some((input, output)), wishes: None };
                let Ok(lease) = router.acquire(models[(i / 700 + thread) % models.len()], &request) else {
                    refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                admitted.fetch_add(1, Ordering::Relaxed);
                assert!(seen.requests.fetch_add(1, Ordering::SeqCst) < REQUESTS);
                assert!(seen.tokens.fetch_add(input + output, Ordering::SeqCst) + input + output <= TOKENS);
                assert!(seen.input.fetch_add(input, Ordering::SeqCst) + input <= INPUT);
                if i % 3 == 0 {
                    std::thread::yield_now();
                }
                match (i / 2) % 4 {
                    0 => {
                        seen.requests.fetch_sub(1, Ordering::SeqCst);
                        seen.tokens.fetch_sub(input + output, Ordering::SeqCst);
                        seen.input.fetch_sub(input, Ordering::SeqCst);
                        assert!(lease.release(true));
                    }
                    1 => {
                        seen.tokens.fetch_sub(output / 2, Ordering::SeqCst);
                        assert!(lease.success(None, Some((input, output - output / 2)), None));
                    }
                    2 => assert!(lease.failure(FailureKind::BadRequest, None, &[], None)),
                    _ => assert!(lease.release(false)),
                }
            }
        });
        let counted = [&seen.requests, &seen.tokens, &seen.input].map(|seen| seen.load(Ordering::SeqCst));
        assert!(refused.into_inner() > 0 && u64::from(admitted.into_inner()) > REQUESTS, "the limits are met: {kind:?}");
        for stats in router.snapshot() {
            assert_eq!(stats.in_flight, 0);
            for limit in stats.limits {
                let seen = match limit.limit.unit() {
                    Unit::Requests => counted[0],
                    Unit::Tokens => counted[1],
                    _ => counted[2],
                };
                if let LimitKind::Bucket { .. } = kind {
                    // Of very many charges at once it may keep a few in a hundred that were given back.
                    assert!((seen..=seen + seen / 20).contains(&limit.used), "{limit:?} {seen}");
                } else {
                    assert_eq!(limit.used, seen, "{limit:?}");
                }
            }
        }
    }
}

#[test]
fn a_quota_whose_limits_change_loses_nothing() {
    for kind in KINDS {
        let router =
            Router::new(Settings { clock: Clock::Manual(Arc::new(ManualClock::new(90_000_000_000))), ..Settings::default() })
                .unwrap();
        let all = |amount: u64| {
            let quota = Quota::new("q", &[limit(Unit::Requests, amount, kind)]).unwrap();
            (0..4).map(|id| (deployment(id).with_quotas(std::slice::from_ref(&quota)).unwrap(), ())).collect::<Vec<_>>()
        };
        drop(router.replace_all(all(2_000)).unwrap());
        let kept = AtomicU64::new(0);
        together(|thread| {
            for i in 0..200 {
                if thread == 0 {
                    drop(router.replace_all(all(2_000 + i % 3)).unwrap());
                } else {
                    let lease = router.acquire("model", &Request::default()).unwrap();
                    let unused = i % 2 == 0;
                    kept.fetch_add(u64::from(!unused), Ordering::Relaxed);
                    assert!(lease.release(unused));
                }
            }
        });
        let (used, kept) = (router.stats("0").unwrap().limits[0].used, kept.into_inner());
        // A bucket's interval is rounded, and so is what is used at each change of it.
        let most = if matches!(kind, LimitKind::Bucket { .. }) { kept + kept / 5 } else { kept };
        assert!((kept..=most).contains(&used), "{kind:?}: {used} {kept}");
    }
}

#[test]
fn a_limit_that_is_written_another_way_meanwhile_admits_no_more() {
    const MOST: u64 = 1_000;
    let a_minute = || limit(Unit::Requests, MOST, LimitKind::Fixed(Start::Clock));
    let spellings: [&(dyn Fn() -> Deployment + Sync); 4] = [
        &|| deployment(0).with_rpm_limit(Some(MOST)).unwrap(),
        &|| deployment(0).with_limits(&[a_minute()]),
        &|| deployment(0).with_limits(&[limit(Unit::Requests, MOST, LimitKind::Sliding)]),
        &|| deployment(0).with_limits(&[limit(Unit::Requests, MOST, LimitKind::Fixed(Start::FirstUse))]),
    ];
    for round in 0..30 {
        let clock = Clock::Manual(Arc::new(ManualClock::new(90_000_000_000)));
        let router = Router::new(Settings { clock, ..Settings::default() }).unwrap();
        drop(router.add(spellings[round % 4](), ()).unwrap());
        let admitted = AtomicU64::new(0);
        together(|thread| {
            for i in 0..300 {
                if thread == 0 {
                    drop(router.replace_all(vec![(spellings[(round + i) % 4](), ())]).unwrap());
                } else if let Ok(lease) = router.acquire("model", &Request::default()) {
                    admitted.fetch_add(1, Ordering::Relaxed);
                    lease.release(false);
                }
            }
        });
        assert!(admitted.into_inner() <= MOST);
    }
}

#[test]
fn picks_go_on_while_deployments_change() {
    for strategy in Strategy::ALL {
        let router = Router::new(Settings { strategy, ..Settings::default() }).unwrap();
        for id in 0..20 {
            drop(router.add(deployment(id), ()).unwrap());
        }
        together(|thread| {
            for i in 0..400 {
                match thread {
                    0 => drop(router.remove(&(10 + i % 10).to_string())),
                    1 => drop(router.add(deployment(10 + i % 10), ()).unwrap()),
                    // Moves to another model name and back.
                    2 => {
                        let away = Deployment::new(&(i % 5).to_string(), "other").unwrap();
                        drop(router.add(away, ()).unwrap());
                        drop(router.add(deployment(i % 5), ()).unwrap());
                    }
                    3 if i % 20 == 0 => {
                        drop(router.replace_all((0..20).map(|id| (deployment(id), ())).collect()).unwrap());
                    }
                    _ => {
                        // Deployments 5 to 9 are always there.
                        let lease = router.acquire("model", &Request::default()).unwrap();
                        let _ = router.explain("model", &Request::default()).unwrap();
                        if i % 3 == 0 {
                            lease.failure(FailureKind::BadRequest, None, &[], None)
                        } else {
                            lease.success(None, None, None)
                        };
                    }
                }
            }
        });
        assert!(router.snapshot().iter().all(|stats| stats.in_flight == 0));
        // With nobody disturbing, the index and the walk agree again.
        for _ in 0..100 {
            let winner = router.explain("model", &Request::default()).unwrap().winner.unwrap();
            let lease = router.acquire("model", &Request::default()).unwrap();
            if !matches!(strategy, Strategy::SimpleShuffle | Strategy::LeastBusy) {
                assert_eq!(lease.deployment().id(), winner.deployment().id(), "{strategy}");
            }
        }
    }
}

#[test]
fn a_lease_ends_once_whoever_ends_it() {
    let router = Router::new(Settings::default()).unwrap();
    drop(router.add(deployment(0), ()).unwrap());
    for i in 0..500 {
        let lease = router.acquire("model", &Request::default()).unwrap();
        let ended = AtomicU32::new(0);
        together(|thread| {
            let ends = match (thread + i) % 3 {
                0 => lease.release(false),
                1 => lease.success(None, None, None),
                _ => lease.failure(FailureKind::BadRequest, None, &[], None),
            };
            ended.fetch_add(u32::from(ends), Ordering::Relaxed);
        });
        assert_eq!(ended.into_inner(), 1);
        assert_eq!(router.stats("0").unwrap().in_flight, 0);
    }
}

#[test]
fn what_is_excluded_is_never_picked_while_deployments_change() {
    for strategy in [Strategy::PriorityBased, Strategy::LeastBusy] {
        let router = Router::new(Settings { strategy, ..Settings::default() }).unwrap();
        let all = |shift: usize| (0..12).map(|id| (deployment((id + shift) % 12), ())).collect::<Vec<_>>();
        drop(router.replace_all(all(0)).unwrap());
        let request = Request {
            split: None,
            tokens: 0,
            wishes: Some(Box::new(turnout::Wishes {
                exclude: ["3".to_owned(), "7".to_owned()].into_iter().collect(),
                ..Default::default()
            })),
        };
        together(|thread| {
            for i in 0..300 {
                if thread == 0 {
                    drop(router.replace_all(all(i)).unwrap());
                } else {
                    let picked = router.select("model", &request, |id| id.to_string()).unwrap();
                    assert!(picked != "3" && picked != "7");
                    let lease = router.acquire("model", &request).unwrap();
                    assert!(!["3", "7"].contains(&lease.deployment().id()));
                }
            }
        });
        assert!(router.snapshot().iter().all(|stats| stats.in_flight == 0));
    }
}

/// An id that uses the router when it is dropped.
#[derive(Debug)]
struct Nosy(Arc<OnceLock<Weak<Router<Attached>>>>);

impl Drop for Nosy {
    fn drop(&mut self) {
        if let Some(router) = self.0.get().and_then(Weak::upgrade) {
            let _ = router.models();
            drop(router.remove("nobody"));
        }
    }
}

#[derive(Debug)]
struct Attached(Arc<OnceLock<Weak<Router<Self>>>>);

impl Attachment for Attached {
    type Id = Nosy;

    fn id(&self, _: &Deployment) -> Nosy {
        Nosy(Arc::clone(&self.0))
    }
}

#[test]
fn what_a_change_takes_out_is_dropped_when_no_lock_is_held() {
    let handle = Arc::default();
    let attached = || Attached(Arc::clone(&handle));
    let router = Arc::new(Router::new(Settings::default()).unwrap());
    assert!(handle.set(Arc::downgrade(&router)).is_ok());
    for id in 0..60 {
        drop(router.add(deployment(id), attached()).unwrap());
    }
    drop(router.add(deployment(3), attached()).unwrap());
    drop(router.add(Deployment::new("4", "other").unwrap(), attached()).unwrap());
    drop(router.replace_all((0..50).map(|id| (deployment(id), attached())).collect()).unwrap());
    for id in 0..50 {
        drop(router.remove(&id.to_string()).unwrap());
    }
    assert!(router.is_empty());
}

fn with_health(strategy: Strategy, rules: HealthRules, deployments: usize) -> (Arc<ManualClock>, Router<()>) {
    let clock = Arc::new(ManualClock::new(1));
    let health = Rules::Health(HealthRules { cooldown_jitter: 0.0, ..rules });
    let settings = Settings { strategy, health, clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() };
    let router = Router::new(settings).unwrap();
    for id in 0..deployments {
        drop(router.add(deployment(id), ()).unwrap());
    }
    (clock, router)
}

#[test]
fn one_probe_at_a_time_and_none_is_lost() {
    for strategy in Strategy::ALL {
        let rules = HealthRules { success_threshold: u32::MAX, ..HealthRules::default() };
        let (clock, router) = with_health(strategy, rules, 1);
        router.cool_down("0", 10).unwrap();
        clock.advance(10);
        let (inside, got) = (AtomicU32::new(0), AtomicU32::new(0));
        together(|thread| {
            for i in 0..2_000 {
                if thread == 0 && i % 50 == 0 {
                    drop(router.replace_all(vec![(deployment(0).with_weight(i), ())]).unwrap());
                }
                let Ok(lease) = router.acquire("model", &Request::default()) else { continue };
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                got.fetch_add(1, Ordering::SeqCst);
                inside.fetch_sub(1, Ordering::SeqCst);
                match i % 4 {
                    0 => assert!(lease.success(None, None, None)),
                    1 => assert!(lease.failure(FailureKind::BadRequest, None, &[], None)),
                    2 => assert!(lease.release(true)),
                    _ => drop(lease),
                }
            }
        });
        assert!(got.load(Ordering::SeqCst) > 0);
        assert_eq!(router.stats("0").unwrap().in_flight, 0);
        assert!(router.acquire("model", &Request::default()).is_ok());
    }
}

#[test]
fn failures_at_once_never_take_out_all() {
    for round in 0..200 {
        let (_clock, router) = with_health(Strategy::ALL[round % 7], HealthRules::default(), THREADS);
        together(|thread| {
            for _ in 0..10 {
                router.record_failure(&thread.to_string(), FailureKind::Error, None, None).unwrap();
            }
        });
        let out = router.snapshot().iter().filter(|stats| stats.status == Status::CoolingDown).count();
        assert_eq!(out, THREADS - 1);
    }
}
