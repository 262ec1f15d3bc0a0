//! The golden cases of the strategies, through the functions and through a router's index.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a failure is meant to stop it
#![allow(clippy::pedantic)] // written to be read next to the code it checks

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use turnout::strategy::{
    RoundRobinCounters, least_busy, lowest_latency, lowest_priority, lowest_usage, rate_limit_aware, round_robin, weighted_random,
};
use turnout::{Clock, Deployment, ManualClock, Request, Rng, Router, RoutingContext, Settings, Strategy, Wishes};

/// The cases are kept beside the checkout, and a user's machine may not have them.
fn vectors() -> Option<Vec<Value>> {
    let shared = std::env::var_os("TURNOUT_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(shared.join("vectors/strategies.json")) else {
        eprintln!("skipped: no vectors/strategies.json in {}", shared.display());
        return None;
    };
    let mut all: Value = serde_json::from_str(&text).unwrap();
    Some(all["vectors"].as_array_mut().unwrap().drain(..).collect())
}

fn context(case: &Value) -> RoutingContext {
    let small = |name: &str| u32::try_from(case[name].as_u64().unwrap()).unwrap();
    RoutingContext {
        weight: small("weight"),
        priority: small("priority"),
        active_requests: small("active_requests"),
        tpm_current: case["tpm_current"].as_u64().unwrap(),
        tpm_limit: case["tpm_limit"].as_u64(),
        rpm_current: case["rpm_current"].as_u64().unwrap(),
        rpm_limit: case["rpm_limit"].as_u64(),
        avg_latency_us: case["avg_latency_us"].as_u64().unwrap(),
        ..RoutingContext::new("a")
    }
}

/// A router whose deployments, named by their places, look to the strategy as the contexts do; None where
/// they cannot, since they would be over a limit or it would take too many requests.
fn router(strategy: Strategy, contexts: &[RoutingContext]) -> Option<Router<()>> {
    const MANY: u64 = 20_000;
    let clock = Clock::Manual(Arc::new(ManualClock::new(0)));
    let router = Router::new(Settings { strategy, seed: Some(7), clock, ..Settings::default() }).unwrap();
    let (counts_tokens, counts_requests) = match strategy {
        Strategy::UsageBased => (true, false),
        Strategy::RateLimitAware => (true, true),
        _ => (false, false),
    };
    for (i, context) in contexts.iter().enumerate() {
        // To the strategies a limit of 0 is none.
        let tpm_limit = context.tpm_limit.filter(|&limit| counts_tokens && limit > 0);
        let rpm_limit = context.rpm_limit.filter(|&limit| counts_requests && limit > 0);
        let deployment =
            Deployment::new(&i.to_string(), "model").unwrap().with_weight(context.weight).with_priority(context.priority);
        drop(router.add(deployment.with_tpm_limit(tpm_limit).unwrap().with_rpm_limit(rpm_limit).unwrap(), ()).unwrap());
        let tokens = tpm_limit.map_or(0, |_| context.tpm_current);
        let requests = rpm_limit.map_or(u64::from(tokens > 0), |_| context.rpm_current);
        let over = tpm_limit.is_some_and(|limit| tokens >= limit) || rpm_limit.is_some_and(|limit| requests >= limit);
        if over || requests > MANY || (tokens > 0 && requests == 0) {
            return None;
        }
        for nth in 0..requests {
            router.record_success(&i.to_string(), if nth == 0 { tokens } else { 0 }, None).unwrap();
        }
        if strategy == Strategy::LatencyBased && context.avg_latency_us > 0 {
            router.record_success(&i.to_string(), 0, Some(context.avg_latency_us)).unwrap();
        }
    }
    if strategy == Strategy::LeastBusy {
        for (i, context) in contexts.iter().enumerate() {
            if u64::from(context.active_requests) > MANY {
                return None;
            }
            let others = (0..contexts.len()).filter(|&other| other != i).map(|other| other.to_string()).collect();
            let only = Request { tokens: 0, split: None, wishes: Some(Box::new(Wishes { exclude: others, ..Wishes::default() })) };
            // Never to end.
            (0..context.active_requests).for_each(|_| std::mem::forget(router.acquire("model", &only).unwrap()));
        }
    }
    Some(router)
}

/// Checks what a vector expects of picks.
fn check(vector: &Value, candidates: usize, pick: impl Fn() -> Option<usize>) {
    const DRAWS: u32 = 20_000;
    let index = |value: &Value| value.as_u64().map(|index| usize::try_from(index).unwrap());
    if let Some(probabilities) = vector["expect_probability"].as_array() {
        let mut counts = vec![0_u32; candidates];
        (0..DRAWS).for_each(|_| counts[pick().unwrap()] += 1);
        for (count, probability) in counts.into_iter().zip(probabilities) {
            let p = probability.as_f64().unwrap();
            let n = f64::from(DRAWS);
            // Five standard deviations of a binomial, and one for its discreteness.
            let bound = 5.0 * (n * p * (1.0 - p)).sqrt() + f64::from(u8::from(p > 0.0 && p < 1.0));
            assert!((f64::from(count) - n * p).abs() <= bound, "{vector}: {count} of {DRAWS}");
        }
    } else if let Some(sequence) = vector["expect_sequence"].as_array() {
        for expected in sequence {
            assert_eq!(pick(), index(expected), "{vector}");
        }
    } else {
        assert_eq!(pick(), index(&vector["expect"]), "{vector}");
    }
}

#[test]
fn every_vector_holds() {
    let Some(vectors) = vectors() else { return };
    assert!(!vectors.is_empty());
    let mut through_an_index = 0;
    for vector in &vectors {
        let contexts: Vec<_> = vector["contexts"].as_array().unwrap().iter().map(context).collect();
        let rng = Rng::new(Some(vector["id"].as_u64().unwrap()));
        let counters = RoundRobinCounters::new();
        let (strategy, pick): (_, &dyn Fn() -> Option<usize>) = match vector["strategy"].as_str().unwrap() {
            "weighted_random" => (Strategy::SimpleShuffle, &|| weighted_random(&contexts, &rng)),
            "least_busy" => (Strategy::LeastBusy, &|| least_busy(&contexts, &rng)),
            "lowest_usage" => (Strategy::UsageBased, &|| lowest_usage(&contexts)),
            "lowest_latency" => (Strategy::LatencyBased, &|| lowest_latency(&contexts)),
            "lowest_priority" => (Strategy::PriorityBased, &|| lowest_priority(&contexts)),
            "rate_limit_aware" => (Strategy::RateLimitAware, &|| rate_limit_aware(&contexts)),
            "round_robin" => (Strategy::RoundRobin, &|| round_robin("model", &contexts, &counters)),
            other => panic!("unknown strategy {other}"),
        };
        check(vector, contexts.len(), pick);
        if let Some(router) = router(strategy, &contexts).filter(|_| !contexts.is_empty()) {
            check(vector, contexts.len(), || router.select("model", &Request::default(), |id| id.parse().unwrap()).ok());
            through_an_index += 1;
        }
    }
    assert!(through_an_index > vectors.len() / 2, "only {through_an_index} of {}", vectors.len());
}
