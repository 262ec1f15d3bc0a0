//! The cost of a pick in plain Rust: `cargo bench --no-default-features`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a failure is meant to stop it
#![allow(clippy::pedantic)] // written to be read next to the code it checks

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use turnout::{Deployment, Request, Router, Settings, Strategy};

const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];

fn router(strategy: Strategy, models: &[&str], n: usize) -> Router<()> {
    let router = Router::new(Settings { strategy, seed: Some(1), ..Settings::default() }).unwrap();
    let deployments = models.iter().flat_map(|model| {
        (0..n).map(move |i| {
            let weight = 1 + u32::try_from(i % 7).unwrap();
            (Deployment::new(&format!("{model}-{i}"), model).unwrap().with_weight(weight), ())
        })
    });
    drop(router.replace_all(deployments.collect()).unwrap());
    router
}

fn picks(c: &mut Criterion) {
    for strategy in Strategy::ALL {
        let mut group = c.benchmark_group(strategy.name());
        for n in SIZES {
            let router = router(strategy, &["model"], n);
            let request = Request::default();
            group.bench_function(BenchmarkId::new("select", n), |b| {
                b.iter(|| router.select(black_box("model"), &request, |id| id.len()));
            });
            group.bench_function(BenchmarkId::new("acquire+release", n), |b| {
                b.iter(|| router.acquire(black_box("model"), &request).unwrap().release(false));
            });
        }
        group.finish();
    }
}

#[allow(clippy::disallowed_methods)] // it measures time
/// Counts acquires and releases in a second, with one thread and with two, on one group and on two.
fn threads(_: &mut Criterion) {
    const SECONDS: f64 = 0.5;
    for strategy in [Strategy::SimpleShuffle, Strategy::LeastBusy, Strategy::RoundRobin] {
        let rate = |models: &[&'static str]| {
            let router = Arc::new(Router::new(Settings { strategy, ..Settings::default() }).unwrap());
            for model in ["one", "two"] {
                for i in 0..10 {
                    drop(router.add(Deployment::new(&format!("{model}-{i}"), model).unwrap(), ()).unwrap());
                }
            }
            let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let start = Instant::now();
            let threads: Vec<_> = models
                .iter()
                .map(|&model| {
                    let (router, stop, done) = (Arc::clone(&router), Arc::clone(&stop), Arc::clone(&done));
                    std::thread::spawn(move || {
                        let request = Request::default();
                        let mut count = 0;
                        while !stop.load(Ordering::Relaxed) {
                            for _ in 0..100 {
                                black_box(router.acquire(model, &request).unwrap()).release(false);
                            }
                            count += 100;
                        }
                        done.fetch_add(count, Ordering::Relaxed);
                    })
                })
                .collect();
            std::thread::sleep(std::time::Duration::from_secs_f64(SECONDS));
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            #[allow(clippy::cast_precision_loss)]
            let rate = done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64() / 1e6;
            rate
        };
        let (one, different, same) = (rate(&["one"]), rate(&["one", "two"]), rate(&["one", "one"]));
        // budgets.py reads this line.
        println!(
            "threads/{strategy}: one thread {one:.2} M/s; two on different groups {different:.2} M/s ({:.2} x), on one group {same:.2} M/s ({:.2} x)",
            different / one,
            same / one
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(std::time::Duration::from_millis(200)).measurement_time(std::time::Duration::from_millis(600)).sample_size(20);
    targets = picks, threads
}
criterion_main!(benches);
