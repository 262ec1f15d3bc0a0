//! Properties that examples cannot cover, against models simple enough to be seen right.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a failure is meant to stop it
#![allow(clippy::pedantic)] // written to be read next to the code it checks

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use proptest::prelude::*;
use turnout::strategy::{
    RoundRobinCounters, least_busy, lowest_latency, lowest_priority, lowest_usage, rate_limit_aware, round_robin, weighted_random,
};
use turnout::{
    Clock, Deployment, Error, FailureKind, Gate, HealthRules, Lease, Limit, LimitKind, ManualClock, MinuteRules, Observed,
    Patience, Progress, Quota, Refusal, Request, Rng, Router, RoutingContext, Rules, Settings, Start, Status, Strategy as Rule,
    Unit, Verdict, Wishes,
};

const SECOND: u64 = 1_000_000_000;

// === the strategies as functions ===

fn edgy_u32() -> impl Strategy<Value = u32> {
    prop_oneof![0..4_u32, any::<u32>(), (u32::MAX - 3)..=u32::MAX]
}

fn edgy_u64() -> impl Strategy<Value = u64> {
    prop_oneof![0..200_u64, any::<u64>(), (u64::MAX - 3)..=u64::MAX]
}

prop_compose! {
    fn context()(
        weight in edgy_u32(), priority in edgy_u32(), active_requests in edgy_u32(),
        tpm_current in edgy_u64(), tpm_limit in proptest::option::of(edgy_u64()),
        rpm_current in edgy_u64(), rpm_limit in proptest::option::of(edgy_u64()),
        avg_latency_us in edgy_u64(),
    ) -> RoutingContext {
        RoutingContext {
            weight, priority, active_requests, tpm_current, tpm_limit, rpm_current, rpm_limit, avg_latency_us,
            ..RoutingContext::new("a")
        }
    }
}

/// The first index of the least key, written the slow way.
fn first_least<K: PartialOrd>(keys: impl IntoIterator<Item = K>) -> Option<usize> {
    let keys: Vec<K> = keys.into_iter().collect();
    (0..keys.len()).find(|&i| keys.iter().all(|key| *key >= keys[i]))
}

proptest! {
    #[test]
    fn deterministic_strategies_take_the_first_least(contexts in prop::collection::vec(context(), 0..12)) {
        prop_assert_eq!(lowest_priority(&contexts), first_least(contexts.iter().map(|c| c.priority)));

        let percent = |c: &RoutingContext| match c.tpm_limit {
            None | Some(0) => 0,
            Some(limit) => u128::from(c.tpm_current) * 100 / u128::from(limit),
        };
        prop_assert_eq!(lowest_usage(&contexts), first_least(contexts.iter().map(percent)));

        let known: Vec<u128> = contexts.iter().map(|c| u128::from(c.avg_latency_us)).filter(|&l| l > 0).collect();
        let mean = if known.is_empty() { 0 } else { known.iter().sum::<u128>() / known.len() as u128 };
        let latency = |c: &RoutingContext| if c.avg_latency_us == 0 { mean } else { u128::from(c.avg_latency_us) };
        prop_assert_eq!(lowest_latency(&contexts), first_least(contexts.iter().map(latency)));

        #[allow(clippy::cast_precision_loss)]
        let remaining = |current: u64, limit: Option<u64>| match limit {
            None | Some(0) => 1.0,
            Some(limit) => limit.saturating_sub(current) as f64 / limit as f64,
        };
        let distance = |c: &RoutingContext| remaining(c.tpm_current, c.tpm_limit).min(remaining(c.rpm_current, c.rpm_limit));
        prop_assert_eq!(rate_limit_aware(&contexts), first_least(contexts.iter().map(|c| -distance(c))));
    }

    #[test]
    fn least_busy_takes_one_of_the_least_busy(contexts in prop::collection::vec(context(), 0..12), seed: u64) {
        let fewest = contexts.iter().map(|c| c.active_requests).min();
        let picked = least_busy(&contexts, &Rng::new(Some(seed)));
        prop_assert_eq!(picked.map(|i| contexts[i].active_requests), fewest);
    }

    #[test]
    fn weights_never_overflow_and_zero_is_never_taken_before_more(contexts in prop::collection::vec(context(), 1..40), seed: u64) {
        let picked = weighted_random(&contexts, &Rng::new(Some(seed))).unwrap();
        prop_assert!(contexts[picked].weight > 0 || contexts.iter().all(|c| c.weight == 0));
    }

    #[test]
    fn the_round_robin_counter_wraps_around(n in 2..9_u64, before in 0..9_u64) {
        let contexts = vec![RoutingContext::new("a"); usize::try_from(n).unwrap()];
        let counters = RoundRobinCounters::new();
        let start = u64::MAX - before;
        counters.set("model", start);
        for i in 0..20 {
            let turn = start.wrapping_add(i) % n;
            prop_assert_eq!(round_robin("model", &contexts, &counters), Some(usize::try_from(turn).unwrap()));
        }
    }
}

#[test]
fn the_largest_weights_share_evenly() {
    let contexts = vec![RoutingContext { weight: u32::MAX, ..RoutingContext::new("a") }; 1000];
    let rng = Rng::new(Some(9));
    let mut counts = vec![0_u32; 1000];
    (0..1_000_000).for_each(|_| counts[weighted_random(&contexts, &rng).unwrap()] += 1);
    // Chi-square with 999 degrees of freedom: mean 999, standard deviation 44.7; five of them.
    let chi: f64 = counts.iter().map(|&count| (f64::from(count) - 1000.0).powi(2) / 1000.0).sum();
    assert!((chi - 999.0).abs() < 5.0 * 44.7, "{chi}");
}

// === the router against a walk over all members, and against the limits ===

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Acquire { tokens: Tokens, tags: Tags, exclude: Vec<usize> },
    Select { tokens: Tokens, tags: Tags, exclude: Vec<usize> },
    Succeed { lease: usize, tokens: Option<u64>, split: Option<(u64, u64)> },
    Observe { lease: usize, said: Observed, retry_after: Option<u64> },
    Fail { lease: usize, kind: usize, retry_after: Option<u64> },
    Release { lease: usize, unused: bool },
    Record { id: usize, failed: bool },
    CoolDown { id: usize, seconds: u64 },
    Report { id: usize, healthy: bool },
    Add { id: usize, model: usize, limits: (u8, u8, u8), metered: Metered },
    Remove { id: usize },
    ReplaceAll { ids: Vec<(usize, usize, Metered)>, quota: u64 },
    Advance { tenths: u64 },
}

/// The tokens of a request, and those of its prompt if that is known.
type Tokens = (u64, Option<u64>);

/// Which of some limits, and which quotas: a bit each.
type Metered = (u16, u8);

/// The tags that a request asks for, and whether one of them is enough.
type Tags = (Vec<usize>, bool);

const IDS: usize = 9;
const MODELS: [&str; 2] = ["one", "two"];
const TAGS: [&str; 4] = ["a", "b", "c", "d"];

fn step() -> impl Strategy<Value = Step> {
    let id = 0..IDS;
    let tokens = prop_oneof![3 => Just((0, None)), 3 => (1..60_u64).prop_map(|tokens| (tokens, None)), 1 => (0..60_u64, any::<prop::sample::Index>())
        .prop_map(|(tokens, input)| (tokens, Some([0, tokens / 2, tokens][input.index(3)])))];
    let metered =
        || prop_oneof![2 => Just((0, 0)), 2 => ((0..METERED).prop_map(|nth| 1 << nth), 0..4_u8), 1 => (any::<u16>(), 0..4_u8)];
    let unit = (0..Unit::ALL.len()).prop_map(|nth| Unit::ALL[nth]);
    let said = (unit, 0..30_u64, prop::option::of(0..300_u64)).prop_map(|(unit, remaining, reset)| Observed {
        unit,
        limit: None,
        remaining,
        reset: reset.map(|tenths| tenths * SECOND / 10),
    });
    let exclude = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(0..IDS, 0..4)];
    // Some sets again and again, so that they get trees of their own, and others now and then, so that there
    // are more sets than trees.
    let tags = prop_oneof![
        4 => Just((vec![], false)),
        2 => (0..3_usize).prop_map(|tag| (vec![tag], false)),
        1 => (prop::collection::vec(0..TAGS.len(), 1..4), any::<bool>()),
    ];
    prop_oneof![
        8 => (tokens.clone(), tags.clone(), exclude.clone()).prop_map(|(tokens, tags, exclude)| Step::Acquire { tokens, tags, exclude }),
        6 => (tokens, tags, exclude).prop_map(|(tokens, tags, exclude)| Step::Select { tokens, tags, exclude }),
        3 => (any::<usize>(), prop::option::of(0..90_u64), prop::option::of((0..40_u64, 0..40_u64))).prop_map(|(lease, tokens, split)| {
            let tokens = tokens.map(|tokens| tokens.max(split.map_or(0, |(input, output)| input + output)));
            Step::Succeed { lease, tokens, split }
        }),
        1 => (any::<usize>(), said, prop_oneof![5 => Just(None), 1 => (0..300_u64).prop_map(Some)])
            .prop_map(|(lease, said, retry_after)| Step::Observe { lease, said, retry_after }),
        2 => (any::<usize>(), 0..FailureKind::ALL.len(), prop::option::of(0..90_u64)).prop_map(|(lease, kind, retry_after)| Step::Fail { lease, kind, retry_after }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(lease, unused)| Step::Release { lease, unused }),
        1 => (id.clone(), any::<bool>()).prop_map(|(id, failed)| Step::Record { id, failed }),
        1 => (id.clone(), 0..80_u64).prop_map(|(id, seconds)| Step::CoolDown { id, seconds }),
        1 => (id.clone(), any::<bool>()).prop_map(|(id, healthy)| Step::Report { id, healthy }),
        2 => (id.clone(), 0..2_usize, (0..6_u8, 0..200_u8, 0..4_u8), metered())
            .prop_map(|(id, model, limits, metered)| Step::Add { id, model, limits, metered }),
        1 => id.prop_map(|id| Step::Remove { id }),
        1 => (prop::collection::vec((0..IDS, 0..2_usize, metered()), 0..IDS), 1..4_u64).prop_map(|(ids, quota)| Step::ReplaceAll { ids, quota }),
        2 => (0..400_u64).prop_map(|tenths| Step::Advance { tenths }),
    ]
}

fn deployment(id: usize, model: usize, (rpm, tpm, parallel): (u8, u8, u8)) -> Deployment {
    let limit = |limit: u8| Some(u64::from(limit)).filter(|&limit| limit > 0);
    // So that facts which replace others may have other tags.
    let limits_odd = tpm % 2 == 1;
    Deployment::new(&format!("d{id}"), MODELS[model])
        .unwrap()
        .with_weight(u32::try_from(id % 4).unwrap())
        .with_priority(u32::try_from(id % 3).unwrap())
        .with_rpm_limit(limit(rpm))
        .unwrap()
        .with_tpm_limit(limit(tpm))
        .unwrap()
        .with_max_parallel_requests(limit(parallel).map(|limit| u32::try_from(limit).unwrap()))
        .unwrap()
        .with_domain([None, Some("east"), Some("west")][id % 3])
        .unwrap()
        .with_tags((0..TAGS.len()).filter(|tag| (id >> tag) & 1 == 0 || (limits_odd && *tag == 0)).map(|tag| TAGS[tag]))
        .unwrap()
}

/// So many limits there are to choose from.
const METERED: usize = 10;

/// With some of the limits, and under some of the quotas; `quota` says how large these are.
fn metered(deployment: Deployment, (limits, quotas): Metered, quota: u64) -> Deployment {
    let (fixed, first_use) = (LimitKind::Fixed(Start::Clock), LimitKind::Fixed(Start::FirstUse));
    let limit = |unit, amount, per, kind| Limit::new(unit, amount, per * SECOND, kind).unwrap();
    let all: [Limit; METERED] = [
        limit(Unit::Requests, 2, 1, fixed),
        limit(Unit::Requests, 4, 20, first_use),
        limit(Unit::Requests, 3, 30, LimitKind::Sliding),
        limit(Unit::Requests, 6, 60, LimitKind::Bucket { burst: 2 }),
        limit(Unit::Tokens, 90, 60, first_use),
        limit(Unit::Tokens, 70, 7, LimitKind::Sliding),
        limit(Unit::Tokens, 77, 60, LimitKind::Bucket { burst: 60 }),
        limit(Unit::InputTokens, 50, 60, fixed),
        limit(Unit::OutputTokens, 60, 60, LimitKind::Sliding),
        limit(Unit::OutputTokens, 100, 60, LimitKind::Bucket { burst: 40 }),
    ];
    let limits: Vec<_> = all.into_iter().enumerate().filter(|(nth, _)| limits >> nth & 1 == 1).map(|(_, limit)| limit).collect();
    let all = [
        ("a", [limit(Unit::Tokens, 60 * quota, 60, LimitKind::Sliding), limit(Unit::Requests, 5 * quota, 10, first_use)]),
        (
            "b",
            [
                limit(Unit::Requests, 6 * quota, 60, LimitKind::Bucket { burst: 4 * quota }),
                limit(Unit::InputTokens, 50 * quota, 60, LimitKind::Bucket { burst: 60 }),
            ],
        ),
    ];
    let quotas: Vec<_> = all.iter().enumerate().filter(|(nth, _)| quotas >> nth & 1 == 1).collect();
    let quotas: Vec<_> = quotas.into_iter().map(|(_, (id, limits))| Quota::new(id, limits).unwrap()).collect();
    deployment.with_limits(&limits).with_quotas(&quotas).unwrap()
}

fn request((tokens, input): Tokens, (tags, any_tag): &Tags, exclude: &[usize]) -> Request {
    let wishes = (!tags.is_empty() || !exclude.is_empty()).then(|| {
        Box::new(Wishes {
            tags: tags.iter().map(|&tag| TAGS[tag].to_owned()).collect(),
            any_tag: *any_tag,
            exclude: exclude.iter().map(|id| format!("d{id}")).collect(),
            ..Wishes::default()
        })
    });
    Request { tokens, split: input.map(|input| (input, tokens - input)), wishes }
}

/// Whether places in flight may be wanting, beside whatever a time is known for.
fn places_may_lack(router: &Router<()>, model: &str) -> bool {
    let lacks = |stats: turnout::Stats| stats.max_parallel_requests.or(stats.learnt_parallel_requests).is_some();
    router.group(model).unwrap().iter().any(|member| lacks(router.stats(member.deployment().id()).unwrap()))
}

/// All that requests use, of every deployment.
fn counted(router: &Router<()>) -> impl PartialEq + std::fmt::Debug {
    let counted = |stats: turnout::Stats| {
        let limits: Vec<_> = stats.limits.iter().map(|limit| (limit.used, limit.remaining)).collect();
        let observed: Vec<_> = stats.observed.iter().map(|observed| observed.remaining).collect();
        (stats.in_flight, stats.rpm_current, stats.tpm_current, stats.total_requests, limits, observed)
    };
    router.snapshot().into_iter().map(counted).collect::<Vec<_>>()
}

/// What explain, which walks over all members, says that the next pick takes.
fn foretold(router: &Router<()>, model: &str, request: &Request) -> Option<String> {
    router.explain(model, request).unwrap().winner.map(|winner| winner.deployment().id().to_owned())
}

/// What explain, which walks over all members, says of a refusal: how many members each gate stops, and when
/// one may be available. None if one is available now.
fn refused(router: &Router<()>, model: &str, request: &Request) -> Option<(HashMap<Gate, usize>, Option<f64>)> {
    let explanation = router.explain(model, request).unwrap();
    let mut reasons = HashMap::new();
    for (_, verdict) in &explanation.verdicts {
        let Verdict::Stopped(refusal) = verdict else { return None };
        *reasons.entry(refusal.gate()).or_default() += 1;
    }
    Some((reasons, explanation.retry_after))
}

/// Health options that come to bear within the steps of a history.
fn breaker() -> impl Strategy<Value = Option<HealthRules>> {
    let rules = (
        prop::option::of(1..4_u32),
        prop::option::of(0.3..1.0_f64),
        prop_oneof![Just(0), Just(40 * SECOND)],
        prop_oneof![Just(0.0), Just(0.5), 0.0..1.0_f64],
        any::<bool>(),
        prop_oneof![Just(0), Just(25 * SECOND)],
        prop::option::of(1.0..3.0_f64),
    );
    let rules = rules.prop_map(
        |(consecutive_failures, failure_rate, slow_start, panic_threshold, cool_last, failure_penalty, outlier_factor)| {
            HealthRules {
                consecutive_failures,
                failure_rate,
                window: 30 * SECOND,
                min_volume: 3,
                cooldown_time: 7 * SECOND,
                slow_start,
                panic_threshold,
                cool_last,
                failure_penalty,
                outlier_factor,
                ..HealthRules::default()
            }
        },
    );
    prop_oneof![1 => Just(None), 4 => rules.prop_map(Some)]
}

/// Whether a deployment with the place of its probation taken stands in the way: when that frees is not
/// known.
fn may_stay_shut(router: &Router<()>, model: &str) -> bool {
    is_probed(router, model) || router.explain(model, &Request::default()).unwrap().panic
}

fn is_probed(router: &Router<()>, model: &str) -> bool {
    let explanation = router.explain(model, &Request::default()).unwrap();
    explanation.verdicts.iter().any(|(_, verdict)| *verdict == Verdict::Stopped(Refusal::Probation))
}

/// `crowd` more deployments stand in each group, so that its index has as many levels as that takes.
fn run(rule: Rule, tiers: bool, crowd: usize, breaker: Option<HealthRules>, steps: Vec<Step>) {
    let clock = Arc::new(ManualClock::new(30 * SECOND));
    let health = MinuteRules { allowed_fails: 2, min_requests: 3, cooldown_time: 7 * SECOND, success_threshold: 2, majority: true };
    let health = breaker.map_or(Rules::Minute(health), Rules::Health);
    let settings =
        Settings { strategy: rule, tiers, health, seed: Some(5), clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() };
    let router = Router::new(settings).unwrap();
    let member = |id: usize| if id < IDS { deployment(id, id % 2, (0, 0, 0)) } else { deployment(id, id % 2, (1, 60, 1)) };
    for id in 0..IDS + 2 * crowd {
        drop(router.add(member(id), ()).unwrap());
    }
    let mut leases: Vec<Lease<()>> = Vec::new();
    let mut quota = 1;
    for step in steps {
        match step {
            Step::Acquire { tokens, tags, exclude } => {
                for model in MODELS.iter().filter(|model| router.resolve(model).is_ok()) {
                    let request = request(tokens, &tags, &exclude);
                    let before = counted(&router);
                    if let Ok(unused) = router.acquire(model, &request) {
                        unused.release(true);
                    }
                    assert_eq!(counted(&router), before);
                    let expected = foretold(&router, model, &request);
                    match router.acquire(model, &request) {
                        Ok(lease) => {
                            assert_eq!(Some(lease.deployment().id()), expected.as_deref());
                            leases.push(lease);
                        }
                        Err(error) => {
                            assert_eq!(expected, None, "{error}");
                            let by_walk = refused(&router, model, &request).unwrap();
                            let Error::NoAvailableDeployment(refused) = error else { continue };
                            assert_eq!((refused.reasons.iter().collect(), refused.retry_after), by_walk);
                            if let Some(seconds) = refused.retry_after {
                                // Not a nanosecond before, and then unless a place in flight is wanting too.
                                // Whom a panic lets pass, its end may stop.
                                let wait = turnout::nanos(seconds).unwrap();
                                let panics = router.explain(model, &request).unwrap().panic;
                                assert!(clock.advance(wait - 1));
                                assert!(router.select(model, &request, |_| ()).is_err());
                                assert!(clock.advance(1));
                                if !panics && !may_stay_shut(&router, model) && !places_may_lack(&router, model) {
                                    assert!(router.select(model, &request, |_| ()).is_ok(), "after {seconds} s");
                                }
                            }
                        }
                    }
                }
            }
            Step::Select { tokens, tags, exclude } => {
                for model in MODELS.iter().filter(|model| router.resolve(model).is_ok()) {
                    let request = request(tokens, &tags, &exclude);
                    let expected = foretold(&router, model, &request);
                    let picked = router.select(model, &request, |id| id.to_string());
                    assert_eq!(picked.clone().ok(), expected, "{picked:?}");
                }
            }
            Step::Succeed { lease, tokens, split } if !leases.is_empty() => {
                let lease = leases.swap_remove(lease % leases.len());
                assert!(lease.success(tokens, split, None) && !lease.release(false));
            }
            Step::Observe { lease, said, retry_after } if !leases.is_empty() => {
                leases[lease % leases.len()].observe(&[said], retry_after.map(|tenths| tenths * SECOND / 10));
            }
            Step::Fail { lease, kind, retry_after } if !leases.is_empty() => {
                let lease = leases.swap_remove(lease % leases.len());
                assert!(
                    lease.failure(FailureKind::ALL[kind], retry_after.map(|seconds| seconds * SECOND), &[], None)
                        && lease.has_ended()
                );
            }
            Step::Release { lease, unused } if !leases.is_empty() => {
                assert!(leases.swap_remove(lease % leases.len()).release(unused));
            }
            Step::Succeed { .. } | Step::Observe { .. } | Step::Fail { .. } | Step::Release { .. } => {}
            Step::Record { id, failed } => {
                let id = format!("d{id}");
                let done = if failed {
                    router.record_failure(&id, FailureKind::Error, None, None)
                } else {
                    router.record_success(&id, 5, Some(9))
                };
                assert_eq!(done.is_ok(), router.contains(&id));
            }
            Step::CoolDown { id, seconds } => drop(router.cool_down(&format!("d{id}"), seconds * SECOND)),
            Step::Report { id, healthy } => drop(router.report_health(&format!("d{id}"), healthy)),
            Step::Add { id, model, limits, metered: by } => {
                drop(router.add(metered(deployment(id, model, limits), by, quota), ()).unwrap());
            }
            Step::Remove { id } => drop(router.remove(&format!("d{id}"))),
            Step::ReplaceAll { mut ids, quota: other } => {
                ids.sort_unstable();
                ids.dedup_by_key(|(id, ..)| *id);
                ids.reverse();
                quota = other;
                let some = ids.into_iter().map(|(id, model, by)| (metered(deployment(id, model, (3, 90, 2)), by, quota), ()));
                let crowd = (IDS..IDS + 2 * crowd).map(|id| (member(id), ()));
                drop(router.replace_all(some.chain(crowd).collect()).unwrap());
            }
            Step::Advance { tenths } => assert!(clock.advance(tenths * SECOND / 10)),
        }
        in_flight_is_what_is_leased(&router, &leases);
    }
    drop(leases);
    in_flight_is_what_is_leased(&router, &[]);
    assert!(!MODELS.iter().any(|model| router.resolve(model).is_ok() && is_probed(&router, model)));
}

/// A deployment that was removed and added again starts anew, so its earlier leases count only up to what it
/// shows.
fn in_flight_is_what_is_leased(router: &Router<()>, leases: &[Lease<()>]) {
    let mut expected: HashMap<&str, u32> = HashMap::new();
    leases.iter().for_each(|lease| *expected.entry(lease.deployment().id()).or_default() += 1);
    for stats in router.snapshot() {
        assert!(stats.in_flight <= expected.get(&*stats.deployment_id).copied().unwrap_or(0), "{stats:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_index_picks_what_a_walk_picks(breaker in breaker(), steps in prop::collection::vec(step(), 1..120)) {
        for rule in Rule::ALL {
            for tiers in [false, true] {
                run(rule, tiers, 0, breaker, steps.clone());
            }
        }
    }

    #[test]
    fn no_limit_is_ever_exceeded(
        limits in prop::collection::vec((0..6_u64, 0..200_u64, 0..4_u32), 1..6),
        requests in prop::collection::vec((0..70_u64, 0..4_u8, 0..250_u64), 1..200),
        rule in 0..7_usize,
    ) {
        let clock = Arc::new(ManualClock::new(0));
        let router = Router::new(Settings { strategy: Rule::ALL[rule], clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() }).unwrap();
        let limit = |limit: u64| Some(limit).filter(|&limit| limit > 0);
        for (i, &(rpm, tpm, parallel)) in limits.iter().enumerate() {
            let deployment = Deployment::new(&i.to_string(), "model").unwrap()
                .with_rpm_limit(limit(rpm)).unwrap()
                .with_tpm_limit(limit(tpm)).unwrap()
                .with_max_parallel_requests(Some(parallel).filter(|&parallel| parallel > 0)).unwrap();
            drop(router.add(deployment, ()).unwrap());
        }
        // Admitted requests and tokens by deployment and minute, and leases in flight, as an onlooker counts
        // them.
        let mut minutes: HashMap<(String, u64), (u64, u64)> = HashMap::new();
        let mut live: Vec<Lease<()>> = Vec::new();
        for (tokens, end, tenths) in requests {
            clock.advance(tenths * SECOND / 100);
            let minute = clock.reading() / (60 * SECOND);
            match router.acquire("model", &Request { tokens, split: None, wishes: None }) {
                Ok(lease) => {
                    let i: usize = lease.deployment().id().parse().unwrap();
                    let counted = minutes.entry((lease.deployment().id().to_owned(), minute)).or_default();
                    counted.0 += 1;
                    counted.1 += tokens;
                    prop_assert!(limits[i].0 == 0 || counted.0 <= limits[i].0);
                    prop_assert!(limits[i].1 == 0 || counted.1 <= limits[i].1);
                    live.push(lease);
                    let in_flight = live.iter().filter(|lease| lease.deployment().id() == i.to_string()).count();
                    prop_assert!(limits[i].2 == 0 || in_flight <= limits[i].2 as usize);
                }
                Err(Error::RequestTooLarge(too_large)) => {
                    prop_assert!(limits.iter().all(|&(_, tpm, _)| tpm > 0 && tpm < tokens));
                    prop_assert_eq!(Some(too_large.largest_limit), limits.iter().map(|limits| limits.1).max());
                }
                Err(_) => {
                    // Refused only where every deployment is full.
                    for (i, &(rpm, tpm, parallel)) in limits.iter().enumerate() {
                        let (requests, used) = minutes.get(&(i.to_string(), minute)).copied().unwrap_or_default();
                        let in_flight = live.iter().filter(|lease| lease.deployment().id() == i.to_string()).count();
                        prop_assert!(
                            (rpm > 0 && requests >= rpm) || (tpm > 0 && used + tokens.max(1) > tpm)
                                || (parallel > 0 && in_flight >= parallel as usize)
                        );
                    }
                }
            }
            if end > 1 && !live.is_empty() {
                // Keeps what was reserved, so that the onlooker's counts stay right.
                live.swap_remove(0).release(false);
            }
        }
    }

    #[test]
    fn health_follows_its_rules(outcomes in prop::collection::vec((0..=FailureKind::ALL.len(), 0..80_u64), 1..120)) {
        let clock = Arc::new(ManualClock::new(0));
        let rules = MinuteRules { allowed_fails: 3, min_requests: 5, cooldown_time: 4 * SECOND, success_threshold: 2, majority: true };
        let router = Router::new(Settings { health: Rules::Minute(rules), clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() }).unwrap();
        drop(router.add(Deployment::new("d", "model").unwrap(), ()).unwrap());
        let (mut minute, mut requests, mut fails, mut streak, mut degraded, mut until) = (0, 0, 0, 0, false, 0);
        for (outcome, tenths) in outcomes {
            clock.advance(tenths * SECOND / 10);
            let now = clock.reading();
            if now / (60 * SECOND) != minute {
                (minute, requests, fails) = (now / (60 * SECOND), 0, 0);
            }
            requests += 1;
            match FailureKind::ALL.get(outcome) {
                None => {
                    router.record_success("d", 0, None).unwrap();
                    if now >= until {
                        streak += 1;
                        if streak >= rules.success_threshold {
                            (degraded, until) = (false, 0);
                        }
                    }
                }
                Some(&kind) => {
                    router.record_failure("d", kind, None, None).unwrap();
                    use FailureKind::{Auth, BadRequest, Cancelled, ContentPolicy, ContextWindow, Manual, NotFound, RateLimit, Timeout};
                    if !matches!(kind, BadRequest | ContentPolicy | ContextWindow | Cancelled) {
                        (fails, streak, degraded) = (fails + 1, 0, true);
                        let at_once = matches!(kind, RateLimit | Auth | NotFound | Timeout | Manual);
                        if at_once || (fails >= 3 && requests >= 5) || (requests >= 10 && fails * 2 > requests) {
                            until = until.max(now + rules.cooldown_time);
                        }
                    }
                }
            }
            let status = match () {
                () if now < until => Status::CoolingDown,
                () if degraded => Status::Degraded,
                () => Status::Available,
            };
            let stats = router.stats("d").unwrap();
            prop_assert_eq!((stats.status, stats.fails_this_minute, stats.consecutive_successes), (status, fails, streak));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn a_large_index_picks_what_a_walk_picks(
        crowd in prop_oneof![Just(70_usize), Just(520)], rule in 0..7_usize, tiers in any::<bool>(), breaker in breaker(), steps in prop::collection::vec(step(), 1..80),
    ) {
        run(Rule::ALL[rule], tiers, crowd, breaker, steps);
    }
}

// === what histories seldom meet ===

fn at(seconds: u64) -> (Arc<ManualClock>, Router<()>) {
    let clock = Arc::new(ManualClock::new(seconds * SECOND));
    let health = Rules::Minute(MinuteRules::default());
    let router = Router::new(Settings { health, clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() }).unwrap();
    drop(router.add(Deployment::new("d", "model").unwrap(), ()).unwrap());
    (clock, router)
}

#[test]
fn what_a_minute_took_changes_in_that_minute_only() {
    let (clock, router) = at(59);
    let request = Request { tokens: 30, split: None, wishes: None };
    let (settled, unused) = (router.acquire("model", &request).unwrap(), router.acquire("model", &request).unwrap());
    clock.advance(SECOND);
    let _late = router.acquire("model", &request).unwrap();
    settled.success(Some(1), None, None);
    unused.release(true);
    let stats = router.stats("d").unwrap();
    assert_eq!((stats.rpm_current, stats.tpm_current), (1, 30));
}

#[test]
fn requests_of_the_minute_before_count_when_they_fail_in_this_one() {
    let (clock, router) = at(59);
    let leases: Vec<_> = (0..10).map(|_| router.acquire("model", &Request::default()).unwrap()).collect();
    clock.advance(SECOND);
    for (i, lease) in leases.into_iter().enumerate() {
        assert_ne!(router.stats("d").unwrap().status, Status::CoolingDown, "after {i}");
        lease.failure(FailureKind::Error, None, &[], None);
    }
    assert_eq!(router.stats("d").unwrap().status, Status::CoolingDown);
}

#[test]
fn half_of_the_requests_is_not_the_majority() {
    let settings =
        || Settings { health: Rules::Minute(MinuteRules { allowed_fails: 1000, ..MinuteRules::default() }), ..Settings::default() };
    for (successes, cools) in [(6, false), (5, true)] {
        let router = Router::new(Settings { clock: Clock::Manual(Arc::new(ManualClock::new(0))), ..settings() }).unwrap();
        drop(router.add(Deployment::new("d", "model").unwrap(), ()).unwrap());
        for _ in 0..successes {
            router.record_success("d", 0, None).unwrap();
        }
        for _ in 0..6 {
            router.record_failure("d", FailureKind::Error, None, None).unwrap();
        }
        assert_eq!(router.stats("d").unwrap().status == Status::CoolingDown, cools);
    }
}

#[test]
fn a_cooldown_is_over_at_its_end() {
    for rule in Rule::ALL {
        let clock = Arc::new(ManualClock::new(0));
        let router =
            Router::new(Settings { strategy: rule, clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() }).unwrap();
        drop(router.add(Deployment::new("d", "model").unwrap(), ()).unwrap());
        router.cool_down("d", 3 * SECOND).unwrap();
        clock.advance(3 * SECOND - 1);
        assert!(router.acquire("model", &Request::default()).is_err());
        clock.advance(1);
        assert!(router.acquire("model", &Request::default()).is_ok());
    }
}

#[test]
fn places_close_up_when_most_members_have_left() {
    for rule in Rule::ALL {
        let router = Router::new(Settings { strategy: rule, seed: Some(1), ..Settings::default() }).unwrap();
        for id in 0..200 {
            drop(router.add(deployment(id, 0, (0, 0, 1)), ()).unwrap());
        }
        let leases: Vec<_> = (0..200).map(|_| router.acquire(MODELS[0], &Request::default()).unwrap()).collect();
        for id in (0..200).filter(|id| id % 10 != 3) {
            drop(router.remove(&format!("d{id}")).unwrap());
        }
        assert!(router.acquire(MODELS[0], &Request::default()).is_err());
        for lease in leases {
            lease.release(false);
        }
        let mut again = Vec::new();
        for _ in 0..20 {
            let expected = foretold(&router, MODELS[0], &Request::default());
            again.push(router.acquire(MODELS[0], &Request::default()).unwrap());
            assert_eq!(again.last().map(|lease| lease.deployment().id()), expected.as_deref());
        }
        assert!(router.acquire(MODELS[0], &Request::default()).is_err());
    }
}

/// A router by the rules of `Health`, whose cooldowns are as long as they say.
fn with_health(rule: Rule, rules: HealthRules, deployments: &[Deployment]) -> Router<()> {
    let clock = Clock::Manual(Arc::new(ManualClock::new(100 * SECOND)));
    let health = Rules::Health(HealthRules { cooldown_jitter: 0.0, ..rules });
    let router = Router::new(Settings { strategy: rule, health, clock, seed: Some(1), ..Settings::default() }).unwrap();
    deployments.iter().for_each(|deployment| drop(router.add(deployment.clone(), ()).unwrap()));
    router
}

fn in_group(id: &str, model: &str) -> Deployment {
    Deployment::new(id, model).unwrap()
}

#[test]
fn who_fails_fast_is_not_the_least_busy_in_a_panic_either() {
    let rules = HealthRules { panic_threshold: 0.6, ..HealthRules::default() };
    let router = with_health(Rule::LeastBusy, rules, &["hole", "a", "b", "c"].map(|id| in_group(id, "model")));
    ["hole", "a"].iter().for_each(|id| router.cool_down(id, 100 * SECOND).unwrap());
    assert!(router.explain("model", &Request::default()).unwrap().panic);
    let leases: Vec<_> = (0..200)
        .map(|_| router.acquire("model", &Request::default()).unwrap())
        .filter(|lease| lease.deployment().id() != "hole" || !lease.failure(FailureKind::Error, None, &[], None))
        .collect();
    // As many as each of the others.
    assert!((145..=155).contains(&leases.len()), "{}", leases.len());
}

fn said(unit: Unit, remaining: u64) -> Observed {
    Observed { unit, limit: None, remaining, reset: Some(60 * SECOND) }
}

/// What a provider said is left follows what becomes of a request as the limits that are configured do, of a
/// quota too.
#[test]
fn what_was_observed_is_settled() {
    let limits = [Unit::Requests, Unit::Tokens].map(|unit| Limit::new(unit, 1000, SECOND, LimitKind::Sliding).unwrap());
    let quota = Quota::new("q", &limits).unwrap();
    for quotas in [vec![], vec![quota]] {
        let (_, router) = at(0);
        drop(router.add(in_group("d", "model").with_quotas(&quotas).unwrap(), ()).unwrap());
        let left = || router.stats("d").unwrap().observed.iter().map(|observed| observed.remaining).collect::<Vec<_>>();
        let acquire = |tokens| router.acquire("model", &Request { tokens, split: None, wishes: None }).unwrap();
        let before = acquire(70);
        router.observe("d", &[said(Unit::Requests, 9), said(Unit::Tokens, 100)], None).unwrap();
        // The provider has counted it, and does not give back what we do.
        before.release(true);
        assert_eq!(left(), [9, 100]);
        let (unused, settled, asked) = (acquire(10), acquire(20), acquire(30));
        assert_eq!(left(), [6, 40]);
        unused.release(true);
        assert_eq!(left(), [7, 50]);
        settled.success(Some(25), None, None);
        assert_eq!(left(), [7, 45]);
        asked.observe(&[said(Unit::Tokens, 60)], None);
        asked.success(Some(1), None, None);
        assert_eq!(left(), [7, 60]);
        router.record_success("d", 8, None).unwrap();
        assert_eq!(left(), [6, 52]);
    }
}

#[test]
fn one_of_a_domain_that_cannot_be_reached_takes_none_with_it() {
    let rules = HealthRules { consecutive_failures: None, ..HealthRules::default() };
    let members = ["a", "b", "c", "d"].map(|id| in_group(id, "model").with_domain(Some("east").filter(|_| id != "d")).unwrap());
    let router = with_health(Rule::LeastBusy, rules, &members);
    let out = || router.snapshot().iter().filter(|stats| stats.status == Status::CoolingDown).count();
    for _ in 0..9 {
        router.record_failure("a", FailureKind::Connection, None, None).unwrap();
        router.record_success("b", 0, None).unwrap();
    }
    assert_eq!(out(), 0);
    // With another one it is the domain's.
    router.record_failure("c", FailureKind::Connection, None, None).unwrap();
    assert_eq!(out(), 3);
}

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn whoever_waits_is_told_when_a_domain_makes_the_group_panic() {
    let rules = HealthRules { panic_threshold: 0.5, consecutive_failures: Some(2), ..HealthRules::default() };
    let in_domain = |id, model| in_group(id, model).with_domain(Some("east")).unwrap();
    let single = |deployment: Deployment| deployment.with_max_parallel_requests(Some(1)).unwrap();
    let router = with_health(
        Rule::LeastBusy,
        rules,
        &[
            in_domain("a", "one"),
            in_domain("b", "one"),
            single(in_domain("c", "two")),
            single(in_group("d", "two")),
            single(in_group("e", "two")),
        ],
    );
    router.cool_down("e", 1000 * SECOND).unwrap();
    let _leases = [(); 2].map(|()| router.acquire("two", &Request::default()).unwrap());
    let bell = Arc::<Bell>::default();
    let patience = Patience { timeout: None, priority: 0 };
    let waiter = router.wait("two", Request::default(), patience, Waker::from(Arc::clone(&bell))).unwrap();
    assert!(matches!(router.poll(&waiter), Ok(Progress::Waits(_))));
    ["a", "b"].iter().for_each(|id| router.record_failure(id, FailureKind::Connection, None, None).unwrap());
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    assert!(matches!(router.poll(&waiter), Ok(Progress::Served(lease)) if lease.deployment().id() == "e"));
}

#[test]
fn outcomes_go_where_their_deployment_goes() {
    let rules = HealthRules {
        outlier_factor: Some(3.0),
        consecutive_failures: None,
        failure_rate: None,
        cool_last: true,
        ..HealthRules::default()
    };
    let cools = |change: &dyn Fn(&Router<()>)| {
        let router = with_health(Rule::LeastBusy, rules, &[in_group("a", "one"), in_group("b", "one"), in_group("c", "two")]);
        let record = |id, failures, successes| {
            (0..successes).for_each(|_| router.record_success(id, 0, None).unwrap());
            (0..failures).for_each(|_| router.record_failure(id, FailureKind::Error, None, None).unwrap());
        };
        record("b", 10, 90);
        record("c", 100, 0);
        change(&router);
        record("a", 10, 10);
        router.stats("a").unwrap().status == Status::CoolingDown
    };
    assert!(cools(&|_| ()));
    // Among peers that fail as often it is no outlier.
    assert!(!cools(&|router| drop(router.add(in_group("c", "one"), ()).unwrap())));
    // What has left is none of them, by whichever way.
    assert!(cools(&|router| {
        drop(router.add(in_group("c", "one"), ()).unwrap());
        drop(router.remove("c").unwrap());
    }));
    assert!(cools(&|router| {
        drop(router.add(in_group("c", "one"), ()).unwrap());
        drop(router.replace_all(["a", "b"].map(|id| (in_group(id, "one"), ())).into()).unwrap());
    }));
    assert!(cools(&|router| {
        drop(router.add(in_group("c", "one"), ()).unwrap());
        router.cool_down("c", SECOND).unwrap();
    }));
}

// === the draws ===

#[test]
fn the_index_draws_in_proportion() {
    for (rule, shares) in [(Rule::SimpleShuffle, [1, 2, 3, 4, 0]), (Rule::LeastBusy, [0, 1, 1, 0, 1])] {
        let router = Router::new(Settings { strategy: rule, seed: Some(3), ..Settings::default() }).unwrap();
        for (i, share) in shares.into_iter().enumerate() {
            let deployment = Deployment::new(&i.to_string(), "model").unwrap().with_weight(share);
            drop(router.add(deployment, ()).unwrap());
        }
        // Under least busy those without a share are kept busy.
        let _busy: Vec<_> = if rule == Rule::LeastBusy {
            let busy = |except: &[usize]| {
                let exclude = except.iter().map(ToString::to_string).collect();
                router
                    .acquire(
                        "model",
                        &Request { tokens: 0, split: None, wishes: Some(Box::new(Wishes { exclude, ..Wishes::default() })) },
                    )
                    .unwrap()
            };
            vec![busy(&[1, 2, 3, 4]), busy(&[0, 1, 2, 4])]
        } else {
            vec![]
        };
        let (total, n) = (f64::from(shares.iter().sum::<u32>()), 100_000);
        let mut counts = [0_u32; 5];
        for _ in 0..n {
            let i: usize = router.select("model", &Request::default(), |id| id.parse().unwrap()).unwrap();
            counts[i] += 1;
        }
        for (count, share) in counts.into_iter().zip(shares) {
            let (n, p) = (f64::from(n), f64::from(share) / total);
            assert!((f64::from(count) - n * p).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt(), "{rule}: {counts:?}");
        }
    }
}
