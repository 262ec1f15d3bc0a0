//! Routers that share limits over a network that loses, doubles and delays messages.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::base::manual_clock::ManualClock;
use crate::base::time::MINUTE;
use crate::facts::{Deployment, Request};
use crate::lease::Lease;
use crate::limits::{Batch, Limit, LimitKind, Quota, Start, Unit};
use crate::router::Router;
use crate::settings::Settings;
use crate::shared::{Books, Message, Reply, Terms as BooksTerms};

/// The first moment of a test: within a minute and a day.
const BEGIN: Nanos = 28_000_000 * MINUTE + 37 * SECOND;

/// What happens to a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate {
    Arrives,
    RequestIsLost,
    ReplyIsLost,
    IsDoubled,
    /// It arrives, a reply does not come back, and it arrives again with the next batch.
    IsLate,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Wait(u64),
    Acquire(prop::sample::Index, u64),
    End(prop::sample::Index, Option<u64>),
    Sync(prop::sample::Index, Fate),
    /// A process dies, and another one begins.
    Kill(prop::sample::Index),
    /// The store forgets everything.
    Lose,
}

/// A request that a router admitted.
struct Admitted {
    at: Nanos,
    units: u64,
}

pub(super) struct Process {
    router: Router<()>,
    /// Its leases, each with its tokens and the number of its admission.
    leases: Vec<(Lease<()>, u64, usize)>,
    late: Vec<Message>,
    heard_at: Nanos,
}

pub(super) struct Fleet {
    clock: Arc<ManualClock>,
    deployments: Vec<Deployment>,
    processes: Vec<Process>,
    books: Books,
    run: u64,
    lives: u64,
    learn: u64,
    log: Vec<Admitted>,
}

impl Fleet {
    pub(super) fn new(processes: usize, deployments: Vec<Deployment>) -> Self {
        let mut fleet = Self {
            clock: Arc::new(ManualClock::new(BEGIN)),
            deployments,
            processes: Vec::new(),
            books: Books::default(),
            run: 1,
            lives: 0,
            learn: 0,
            log: Vec::new(),
        };
        fleet.processes = (0..processes).map(|_| fleet.process()).collect();
        fleet
    }

    pub(super) fn process(&self) -> Process {
        let clock = Clock::Manual(Arc::clone(&self.clock));
        let router = Router::new(Settings { clock, shared: Some(Sharing::default()), ..Settings::default() }).unwrap();
        for deployment in &self.deployments {
            drop(router.add(deployment.clone(), ()).unwrap());
        }
        Process { router, leases: Vec::new(), late: Vec::new(), heard_at: self.now() }
    }

    pub(super) fn wait(&self, length: Nanos) {
        self.clock.set(self.now() + length);
    }

    pub(super) fn now(&self) -> Nanos {
        self.clock.time()
    }

    /// A process that has not been heard for long speaks: while it lives it is never silent for longer than
    /// its requests take.
    fn beat(&mut self) {
        for nth in 0..self.processes.len() {
            if self.now() - self.processes[nth].heard_at > 30 * SECOND {
                self.sync(nth, Fate::Arrives);
                self.processes[nth].heard_at = self.now();
            }
        }
    }

    fn answer(&mut self, messages: &[Message]) -> Vec<Reply> {
        self.lives += 1;
        let terms = BooksTerms { now: self.now() / 1000, run: self.run, life: self.lives, learn: self.learn };
        messages.iter().map(|message| self.books.sync(message, terms)).collect()
    }

    pub(super) fn sync(&mut self, nth: usize, fate: Fate) {
        let now = self.now();
        let desk = Arc::clone(self.processes[nth].router.desk().unwrap());
        desk.hear_news();
        let Some(batch) = desk.batch(now) else { return };
        let Batch { messages, .. } = &batch;
        let late = std::mem::take(&mut self.processes[nth].late);
        if matches!(fate, Fate::RequestIsLost) {
            desk.lose(&batch, now);
            return;
        }
        let replies = self.answer(messages);
        if matches!(fate, Fate::IsDoubled) {
            self.answer(messages);
        }
        // What was late comes after what was sent later.
        self.answer(&late);
        match fate {
            Fate::ReplyIsLost => desk.lose(&batch, now),
            Fate::IsLate => {
                self.processes[nth].late = messages.clone();
                desk.lose(&batch, now);
            }
            _ => desk.take(&batch, &replies.into_iter().map(Some).collect::<Vec<_>>(), now),
        }
        self.processes[nth].heard_at = now;
    }

    /// Asks for one unit, and ends the request at once. It is not in the log.
    pub(super) fn asks(&self, nth: usize) -> bool {
        let lease = self.processes[nth].router.acquire("m", &Request { tokens: 1, ..Request::default() });
        lease.map(|lease| lease.success(Some(1), None, None)).is_ok()
    }

    /// Lets a process die, and another one begin.
    pub(super) fn kill(&mut self, nth: usize) {
        self.processes[nth] = self.process();
    }

    fn acquire(&mut self, nth: usize, tokens: u64) -> bool {
        let (at, process) = (self.clock.time(), &mut self.processes[nth]);
        let Ok(lease) = process.router.acquire("m", &Request { tokens, ..Request::default() }) else { return false };
        process.leases.push((lease, tokens, self.log.len()));
        self.log.push(Admitted { at, units: tokens });
        true
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Wait(millis) => {
                self.wait(millis * SECOND / 1000);
                self.beat();
            }
            Step::Acquire(who, tokens) => _ = self.acquire(who.index(self.processes.len()), tokens),
            Step::End(which, actual) => {
                let nth = which.index(self.processes.len());
                let process = &mut self.processes[nth];
                if process.leases.is_empty() {
                    return;
                }
                let (lease, tokens, number) = process.leases.swap_remove(which.index(process.leases.len()));
                let actual = actual.map_or(tokens, |actual| actual.min(tokens));
                lease.success(Some(actual), None, None);
                self.log[number].units = actual;
            }
            Step::Sync(who, fate) => self.sync(who.index(self.processes.len()), fate),
            Step::Kill(who) => {
                let nth = who.index(self.processes.len());
                self.kill(nth);
            }
            Step::Lose => {
                self.books = Books::default();
                self.run += 1;
                self.learn = 3_000_000;
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.processes.iter().map(|process| process.leases.len()).sum()
    }

    /// Returns the most units that any stretch of this length took. Units count as they were settled: the
    /// provider never counted the rest.
    fn most_in(&self, length: Nanos) -> u64 {
        let from = |first: &Admitted| {
            let in_stretch = self.log.iter().filter(|other| other.at >= first.at && other.at < first.at + length);
            in_stretch.map(|admitted| admitted.units).sum()
        };
        self.log.iter().map(from).max().unwrap_or(0)
    }

    fn used_in(&self, from: Nanos, to: Nanos) -> u64 {
        self.log.iter().filter(|admitted| (from..to).contains(&admitted.at)).map(|admitted| admitted.units).sum()
    }
}

fn deployment(id: &str) -> Deployment {
    Deployment::new(id, "m").unwrap()
}

pub(super) fn limited(amount: u64, per: Nanos, kind: LimitKind) -> Vec<Deployment> {
    let limit = Limit::new(Unit::Tokens, amount, per, kind).unwrap();
    vec![deployment("a").with_limits(&[limit])]
}

fn fates() -> impl Strategy<Value = Fate> {
    use Fate::{Arrives, IsDoubled, IsLate, ReplyIsLost, RequestIsLost};
    prop_oneof![4 => Just(Arrives), 1 => Just(RequestIsLost), 1 => Just(ReplyIsLost), 1 => Just(IsDoubled), 1 => Just(IsLate)]
}

fn steps(longest: u64, kills: u32, losses: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..longest).prop_map(Step::Wait),
        16 => (any::<prop::sample::Index>(), 1..9_u64).prop_map(|(who, tokens)| Step::Acquire(who, tokens)),
        5 => (any::<prop::sample::Index>(), prop::option::of(0..9_u64)).prop_map(|(which, actual)| Step::End(which, actual)),
        12 => (any::<prop::sample::Index>(), fates()).prop_map(|(who, fate)| Step::Sync(who, fate)),
        kills => any::<prop::sample::Index>().prop_map(Step::Kill),
        losses => Just(Step::Lose),
    ];
    prop::collection::vec(step, 1..160)
}

/// Every process asks and syncs until nobody is admitted any more.
fn saturate(fleet: &mut Fleet, tokens: u64) -> u64 {
    let before = fleet.log.len();
    for _ in 0..200 {
        for nth in 0..fleet.processes.len() {
            while fleet.acquire(nth, tokens) {}
            fleet.sync(nth, Fate::Arrives);
        }
    }
    fleet.log[before..].iter().map(|admitted| admitted.units).sum()
}

proptest! {
    #[test]
    fn windows_of_the_clock_are_never_exceeded(steps in steps(9_000, 1, 0), amount in 5..80_u64) {
        let mut fleet = Fleet::new(3, limited(amount, 10 * SECOND, LimitKind::Fixed(Start::Clock)));
        for step in &steps {
            fleet.step(step);
            let begin = fleet.now() / (10 * SECOND) * (10 * SECOND);
            let used = fleet.used_in(begin, begin + 10 * SECOND);
            prop_assert!(used <= amount, "{used} of {amount} after {step:?}");
        }
    }

    #[test]
    fn a_store_that_forgets_everything_admits_no_more(steps in steps(4_000, 0, 2), amount in 5..80_u64) {
        let mut fleet = Fleet::new(3, limited(amount, 10 * SECOND, LimitKind::Fixed(Start::Clock)));
        for step in &steps {
            fleet.step(step);
            let begin = fleet.now() / (10 * SECOND) * (10 * SECOND);
            // Those that were granted something speak within three seconds: they look all the time.
            if matches!(step, Step::Lose) {
                (0..3).for_each(|nth| fleet.sync(nth, Fate::Arrives));
                (0..3).for_each(|nth| fleet.sync(nth, Fate::Arrives));
            }
            let used = fleet.used_in(begin, begin + 10 * SECOND);
            prop_assert!(used <= amount, "{used} of {amount} after {step:?}");
        }
    }

    #[test]
    fn windows_of_use_are_never_exceeded(steps in steps(9_000, 1, 0), amount in 5..80_u64) {
        let mut fleet = Fleet::new(3, limited(amount, 10 * SECOND, LimitKind::Fixed(Start::FirstUse)));
        for step in &steps {
            fleet.step(step);
        }
        // Each window begins with its first use, or a little earlier: with the grant. So two follow each
        // other within one length at most.
        let most = fleet.most_in(10 * SECOND);
        prop_assert!(most <= 2 * amount, "{most} of {amount}");
    }

    #[test]
    fn no_stretch_of_a_sliding_window_is_exceeded(steps in steps(9_000, 1, 0), amount in 5..80_u64) {
        let mut fleet = Fleet::new(3, limited(amount, 10 * SECOND, LimitKind::Sliding));
        for step in &steps {
            fleet.step(step);
        }
        let most = fleet.most_in(10 * SECOND);
        prop_assert!(most <= amount, "{most} of {amount}");
    }

    #[test]
    fn no_stretch_takes_more_than_a_bucket_has(steps in steps(9_000, 1, 0), amount in 5..80_u64, burst in 5..40_u64) {
        let mut fleet = Fleet::new(3, limited(amount, 10 * SECOND, LimitKind::Bucket { burst }));
        for step in &steps {
            fleet.step(step);
        }
        for first in &fleet.log {
            for last in fleet.log.iter().filter(|last| last.at >= first.at) {
                let taken = fleet.used_in(first.at, last.at + 1);
                let refilled = (last.at - first.at) * amount / (10 * SECOND) + 1;
                prop_assert!(taken <= burst + refilled, "{taken} of {burst} and {refilled}");
            }
        }
    }

    #[test]
    fn places_are_never_given_twice(steps in steps(9_000, 1, 0), places in 1..12_u32) {
        let mut fleet = Fleet::new(3, vec![deployment("a").with_max_parallel_requests(Some(places)).unwrap()]);
        for step in &steps {
            fleet.step(step);
            prop_assert!(fleet.in_flight() <= places as usize, "after {step:?}");
        }
    }

    #[test]
    fn a_quota_of_two_deployments_is_one(steps in steps(9_000, 1, 0), amount in 5..80_u64) {
        let limit = Limit::new(Unit::Tokens, amount, 10 * SECOND, LimitKind::Fixed(Start::Clock)).unwrap();
        let quota = Quota::new("account", &[limit]).unwrap();
        let under = |id| deployment(id).with_quotas(std::slice::from_ref(&quota)).unwrap();
        let mut fleet = Fleet::new(3, vec![under("a"), under("b")]);
        for step in &steps {
            fleet.step(step);
            let begin = fleet.now() / (10 * SECOND) * (10 * SECOND);
            prop_assert!(fleet.used_in(begin, begin + 10 * SECOND) <= amount);
        }
    }

    #[test]
    fn everything_is_used_if_all_ask(
        steps in steps(9_000, 0, 0), processes in 1..6_usize, amount in 5..80_u64, kind in 0..4_u32,
    ) {
        let kind = match kind {
            0 => LimitKind::Fixed(Start::Clock),
            1 => LimitKind::Fixed(Start::FirstUse),
            2 => LimitKind::Sliding,
            _ => LimitKind::Bucket { burst: amount },
        };
        let mut fleet = Fleet::new(processes, limited(amount, 10 * SECOND, kind));
        for step in &steps {
            fleet.step(step);
        }
        // Late messages arrive, leases end, all windows end.
        for nth in 0..processes {
            fleet.processes[nth].leases.clear();
            fleet.sync(nth, Fate::Arrives);
        }
        fleet.wait(30 * SECOND);
        let used = saturate(&mut fleet, 1);
        prop_assert!(used == amount, "{used} of {amount}: {:?}", fleet.books);
    }
}

#[test]
fn all_places_are_used_and_come_back() {
    let mut fleet = Fleet::new(4, vec![deployment("a").with_max_parallel_requests(Some(20)).unwrap()]);
    for _ in 0..3 {
        assert_eq!(saturate(&mut fleet, 1), 20);
        fleet.processes.iter_mut().for_each(|process| process.leases.clear());
        fleet.wait(SECOND);
    }
}

#[test]
fn the_places_of_a_process_that_died_come_back_after_its_lease() {
    let mut fleet = Fleet::new(2, vec![deployment("a").with_max_parallel_requests(Some(8)).unwrap()]);
    while fleet.in_flight() < 8 {
        fleet.acquire(0, 1);
        fleet.sync(0, Fate::Arrives);
    }
    fleet.processes[0] = fleet.process();
    fleet.wait(9 * SECOND);
    assert_eq!(saturate(&mut fleet, 1), 0);
    fleet.wait(70 * SECOND);
    assert_eq!(saturate(&mut fleet, 1), 8);
}

#[test]
fn who_leaves_with_requests_in_flight_keeps_their_places() {
    let mut fleet = Fleet::new(2, vec![deployment("a").with_max_parallel_requests(Some(8)).unwrap()]);
    while fleet.processes[0].leases.len() < 3 {
        fleet.acquire(0, 1);
        fleet.sync(0, Fate::Arrives);
    }
    let now = fleet.now();
    let farewell = fleet.processes[0].router.desk().unwrap().farewell(now).unwrap();
    fleet.answer(&farewell.messages);
    for _ in 0..40 {
        while fleet.acquire(1, 1) {}
        fleet.sync(1, Fate::Arrives);
    }
    assert_eq!(fleet.processes.iter().map(|process| process.leases.len()).collect::<Vec<_>>(), [3, 5]);
}

#[test]
fn a_deployment_on_probation_is_tried_though_the_store_is_lost() {
    let mut fleet = Fleet::new(1, vec![deployment("a")]);
    fleet.acquire(0, 1);
    fleet.sync(0, Fate::Arrives);
    fleet.processes[0].router.cool_down("a", SECOND).unwrap();
    fleet.wait(2 * SECOND);
    assert!(!fleet.acquire(0, 1), "the store was not asked for the place of the probation");
    fleet.sync(0, Fate::RequestIsLost);
    assert!(fleet.acquire(0, 1));
}

#[test]
fn a_limit_that_is_raised_keeps_what_is_granted() {
    let mut fleet = Fleet::new(2, vec![deployment("a").with_rpm_limit(Some(10)).unwrap()]);
    assert_eq!(saturate(&mut fleet, 1), 10);
    for process in &fleet.processes {
        let raised = deployment("a").with_rpm_limit(Some(15)).unwrap();
        drop(process.router.replace_all(vec![(raised, ())]).unwrap());
    }
    assert_eq!(saturate(&mut fleet, 1), 5);
}

#[test]
fn what_a_quiet_process_has_used_is_not_lost_with_the_store() {
    for kind in [LimitKind::Fixed(Start::Clock), LimitKind::Fixed(Start::FirstUse), LimitKind::Sliding] {
        let mut fleet = Fleet::new(2, limited(100, MINUTE / 2, kind));
        while fleet.log.len() < 40 {
            fleet.acquire(0, 1);
            fleet.sync(0, Fate::Arrives);
        }
        // It gives back what it does not need.
        for _ in 0..20 {
            fleet.wait(SECOND / 10);
            fleet.sync(0, Fate::Arrives);
        }
        fleet.step(&Step::Lose);
        for _ in 0..40 {
            fleet.wait(SECOND / 10);
            fleet.acquire(1, 1);
            (0..2).for_each(|nth| fleet.sync(nth, Fate::Arrives));
        }
        saturate(&mut fleet, 1);
        let most = fleet.most_in(MINUTE / 2);
        assert!((99..=100).contains(&most), "{most} under {kind:?}");
    }
}

#[test]
fn no_window_is_asked_for_by_the_name_that_this_machine_gives_it() {
    // The clock of the store is an hour behind.
    let now = || u64::try_from(crate::base::wall::micros()).unwrap() - 3_600_000_000;
    let router = Router::new(Settings { shared: Some(Sharing::default()), ..Settings::default() }).unwrap();
    drop(router.add(deployment("a").with_rpm_limit(Some(60)).unwrap(), ()).unwrap());
    let (desk, mut books) = (Arc::clone(router.desk().unwrap()), Books::default());
    let mut admitted = 0;
    for _ in 0..20 {
        admitted += usize::from(router.acquire("m", &Request::default()).is_ok());
        let Some(batch) = desk.batch(desk.now()) else { continue };
        let rows = || batch.messages.iter().flat_map(|message| &message.asks).flat_map(|ask| &ask.rows);
        assert!(rows().all(|row| row.window <= now() + 120_000_000));
        let terms = BooksTerms { now: now(), run: 1, life: 1, learn: 0 };
        let replies: Vec<_> = batch.messages.iter().map(|message| Some(books.sync(message, terms))).collect();
        desk.take(&batch, &replies, desk.now());
    }
    assert!(admitted > 0);
}

#[test]
fn what_a_request_was_granted_is_not_given_back_before_it_asks_again() {
    let mut fleet = Fleet::new(2, limited(70, 10 * SECOND, LimitKind::Fixed(Start::Clock)));
    // Both are refused often, and ask again only after some messages.
    for _ in 0..150 {
        for nth in 0..2 {
            fleet.acquire(nth, 7);
            for _ in 0..5 {
                fleet.sync(nth, Fate::Arrives);
            }
        }
        fleet.wait(SECOND / 60);
    }
    assert_eq!(fleet.log.len(), 10);
}
