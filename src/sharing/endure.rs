//! Millions of requests of many processes in virtual time, while one kind of fault goes on all the time.
//!
//! Run them with `make test-endurance`. `TURNOUT_REQUESTS` tells how many four processes send under each kind of
//! fault. Sixty-four processes, and eight under a sliding window, send a quarter of that each.

use std::collections::VecDeque;

use super::tests::{Fate, Fleet, Step, limited};
use crate::base::rng::Rng;
use crate::base::time::{Nanos, SECOND};
use crate::limits::{LimitKind, Start};

const PER: Nanos = 10 * SECOND;
const AMOUNT: u64 = 2_000;
/// Half more than the limit are asked for.
const STEP: Nanos = PER / (AMOUNT * 3 / 2);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// This becomes of every third batch.
    Network(Fate),
    /// A process dies and another one begins, some times a window.
    Kills,
    /// The store forgets everything, about once a window.
    Losses,
    /// A process says nothing for longer than its lease, now and then.
    Silence,
}

/// Counts what is admitted, and says whether a window or a stretch has too much.
struct Count {
    kind: LimitKind,
    times: VecDeque<Nanos>,
}

impl Count {
    fn admit(&mut self, now: Nanos) -> u64 {
        self.times.push_back(now);
        let begin = if self.kind == LimitKind::Sliding { now.saturating_sub(PER) + 1 } else { now / PER * PER };
        while self.times.front().is_some_and(|&time| time < begin) {
            self.times.pop_front();
        }
        self.times.len() as u64
    }
}

fn endure(processes: usize, kind: LimitKind, fault: Fault, requests: u64) {
    let (mut fleet, mut count) = (Fleet::new(processes, limited(AMOUNT, PER, kind)), Count { kind, times: VecDeque::new() });
    let (rng, began) = (Rng::new(Some(14)), fleet.now());
    let below = |n: u64| rng.below(n);
    let (mut admitted, mut most) = (0_u64, 0);
    let mut silent = (0, 0);
    for asked in 0..requests {
        fleet.wait(STEP);
        let nth = usize::try_from(asked).unwrap() % processes;
        match fault {
            Fault::Kills if below(AMOUNT / 4) == 0 => fleet.kill(usize::try_from(below(processes as u64)).unwrap()),
            Fault::Losses if below(AMOUNT * 2) == 0 => fleet.step(&Step::Lose),
            Fault::Silence if below(AMOUNT * 2) == 0 => silent = (below(processes as u64), asked + 12 * SECOND / STEP),
            _ => {}
        }
        if fault == Fault::Silence && silent.0 == nth as u64 && asked < silent.1 {
            continue;
        }
        let fate = match fault {
            Fault::Network(fate) if below(3) == 0 => fate,
            _ => Fate::Arrives,
        };
        for _ in 0..2 {
            if fleet.asks(nth) {
                admitted += 1;
                most = count.admit(fleet.now()).max(most);
                assert!(most <= AMOUNT, "{most} of {AMOUNT} after {asked} requests of {processes} processes under {fault:?}");
                break;
            }
            fleet.sync(nth, fate);
        }
    }
    let windows = fleet.now() / PER - began / PER + 1;
    #[allow(clippy::cast_precision_loss)] // a part of a hundred
    let used = admitted as f64 / (windows * AMOUNT) as f64 * 100.0;
    println!("{processes:>3} processes, {kind:?}, {fault:?}: {requests} asked, {admitted} admitted ({used:.1} %), 0 over");
    assert!(used > 40.0, "{used} % used");
}

#[test]
#[ignore = "minutes: make test-endurance"]
fn no_fault_of_a_kind_admits_one_more_in_millions_of_requests() {
    let requests = std::env::var("TURNOUT_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let network = [Fate::RequestIsLost, Fate::ReplyIsLost, Fate::IsDoubled, Fate::IsLate].map(Fault::Network);
    for fault in [Fault::None, Fault::Kills, Fault::Losses, Fault::Silence].into_iter().chain(network) {
        endure(4, LimitKind::Fixed(Start::Clock), fault, requests);
        endure(64, LimitKind::Fixed(Start::Clock), fault, requests / 4);
        endure(8, LimitKind::Sliding, fault, requests / 4);
    }
}
