//! The golden cases of the strategies, through the functions and through a router's index.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a failure is meant to stop it
#![allow(clippy::pedantic)] // written to be read next to the code it checks

use std::path::PathBuf;

use serde_json::Value;
use turnout::strategy::{
    RoundRobinCounters, least_busy, lowest_latency, lowest_priority, lowest_usage, rate_limit_aware, round_robin, weighted_random,
};
use turnout::{Rng, RoutingContext};

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

#[test]
fn every_vector_holds() {
    const DRAWS: u32 = 20_000;
    let Some(vectors) = vectors() else { return };
    assert!(!vectors.is_empty());
    for vector in vectors {
        let contexts: Vec<_> = vector["contexts"].as_array().unwrap().iter().map(context).collect();
        let rng = Rng::new(Some(vector["id"].as_u64().unwrap()));
        let counters = RoundRobinCounters::new();
        let pick = || match vector["strategy"].as_str().unwrap() {
            "weighted_random" => weighted_random(&contexts, &rng),
            "least_busy" => least_busy(&contexts, &rng),
            "lowest_usage" => lowest_usage(&contexts),
            "lowest_latency" => lowest_latency(&contexts),
            "lowest_priority" => lowest_priority(&contexts),
            "rate_limit_aware" => rate_limit_aware(&contexts),
            "round_robin" => round_robin("model", &contexts, &counters),
            other => panic!("unknown strategy {other}"),
        };
        let index = |value: &Value| value.as_u64().map(|index| usize::try_from(index).unwrap());
        if let Some(probabilities) = vector["expect_probability"].as_array() {
            let mut counts = vec![0_u32; contexts.len()];
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
}
