//! What processes tell each other of an owner beside its limits: requests in flight, outcomes, cooldowns,
//! pauses, what the provider says, and who tries a deployment on probation.
//!
//! All times here are microseconds of the store's clock.

use super::shape::digest;
use super::unit::Unit;
use crate::base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::shared::{Answer, Ask, Kind, MOST, Micros, Piece, Row};

/// Numbers of others that are older say nothing.
const COUNTS_FOR: Micros = 2_000_000;

/// What is told because it has changed is told so often at most.
const TOLD_EVERY: Micros = 250_000;

/// For so long all hear that an owner is back in service.
const BACK_FOR: Micros = 10_000_000;

/// For so long a process wants to try a deployment on probation after a request came for it.
const PROBES_FOR: Micros = 1_000_000;

/// The meters of the tallies and of the place of a probation.
const IN_FLIGHT: u64 = digest("in flight");
const OUTCOMES: u64 = digest("outcomes");
const PROBE: u64 = digest("probe");

/// The meters of the notices: whether the owner takes requests, and what the provider said of each unit, in
/// the order of [`Unit::ALL`].
const NOTICES: [u64; 1 + Unit::ALL.len()] = [
    digest("out"),
    digest("observed requests"),
    digest("observed tokens"),
    digest("observed input_tokens"),
    digest("observed output_tokens"),
];

/// The pause after another process turned out to have the place of a probation.
const PROBE_ASKED_AFTER: Micros = 100_000;

/// Two times that are nearer are the same: they are converted between two clocks.
const SAME: Micros = 1_000;

/// The first number of a notice that an owner is back in service. No cause has this number.
const BACK: u64 = 1 << 32;

/// What another process has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// No requests are to be sent before this time. `cause` is a number of `health::Cause`.
    Out { until: Micros, cause: u8 },
    /// The owner is back in service.
    Back,
    /// The provider said at a time what is left of a unit, and until when that holds. A limit of 0 is not
    /// known.
    Observed { unit: Unit, at: Micros, until: Micros, remaining: u64, limit: u64 },
}

/// What processes tell each other of an owner. Any thread reads and writes it without a lock: each word is
/// the latest that anybody said.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Requests of other processes in flight, and until when that counts.
    others: AtomicU64,
    others_until: AtomicU64,
    notices: [Notice; NOTICES.len()],
    own: Outcomes,
    of_others: Outcomes,
    probe: Probe,
    told_at: AtomicU64,
    /// Whether the store has news, so that what others said must be heard.
    must_hear: AtomicBool,
}

/// The latest notice that is known of a subject.
#[derive(Debug, Default)]
struct Notice {
    /// When it was said.
    at: AtomicU64,
    until: AtomicU64,
    numbers: [AtomicU64; 2],
    is_untold: AtomicBool,
}

/// Successes and failures, and until when they count.
#[derive(Debug, Default)]
struct Outcomes {
    successes: AtomicU64,
    failures: AtomicU64,
    until: AtomicU64,
}

/// The one place of a probation.
#[derive(Debug, Default)]
struct Probe {
    /// Until when this process may use it.
    held_until: AtomicU64,
    wanted_until: AtomicU64,
    /// It is not asked for again before this time.
    asks_at: AtomicU64,
    is_used: AtomicBool,
}

impl Probe {
    /// Returns whether a request wants it, and this process lacks it.
    fn is_wanted(&self, now: Micros) -> bool {
        now < get(&self.wanted_until) && now >= get(&self.held_until)
    }
}

fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

impl Signals {
    // --- what this process says ---

    /// Says that no requests are to be sent before a time. Returns whether that is news.
    pub(super) fn say_out(&self, now: Micros, until: Micros, cause: u8) -> bool {
        let [notice, ..] = &self.notices;
        let [first, _] = &notice.numbers;
        let is_known = get(&notice.until).saturating_add(SAME) >= until && get(first) != BACK;
        if !is_known {
            notice.say(now, until, u64::from(cause), 0);
        }
        !is_known
    }

    /// Says that the owner is back in service. Returns whether that is news.
    pub(super) fn say_back(&self, now: Micros) -> bool {
        let [notice, ..] = &self.notices;
        let [first, _] = &notice.numbers;
        let is_out = get(&notice.at) != 0 && get(first) != BACK;
        if is_out {
            notice.say(now, now.saturating_add(BACK_FOR), BACK, 0);
        }
        is_out
    }

    /// Says what the provider said.
    pub(super) fn say_observed(&self, now: Micros, until: Micros, unit: Unit, remaining: u64, limit: u64) {
        if let Some(notice) = self.notices.get(1 + unit.index()) {
            notice.say(now, until, remaining, limit);
        }
    }

    /// Returns whether it last said that requests failed.
    #[inline]
    pub(super) fn has_failed(&self) -> bool {
        get(&self.own.failures) > 0
    }

    /// Says how requests ended lately.
    pub(super) fn say_outcomes(&self, successes: u64, failures: u64, until: Micros) {
        set(&self.own.successes, successes);
        set(&self.own.failures, failures);
        set(&self.own.until, until);
    }

    // --- what others said ---

    /// Returns how many requests of other processes are in flight.
    #[inline]
    pub(super) fn others(&self, now: Micros) -> u64 {
        let others = get(&self.others);
        if others == 0 || now >= get(&self.others_until) { 0 } else { others }
    }

    /// Returns when the requests of others do not count any more, if there are any.
    pub(super) fn others_until(&self, now: Micros) -> Option<Micros> {
        (self.others(now) > 0).then(|| get(&self.others_until))
    }

    /// Returns the successes and failures of other processes.
    pub(super) fn outcomes(&self, now: Micros) -> (u64, u64) {
        let of_others = &self.of_others;
        if now >= get(&of_others.until) { (0, 0) } else { (get(&of_others.successes), get(&of_others.failures)) }
    }

    // --- the probation ---

    /// Returns whether this process may try the deployment on probation. A request wants to.
    pub(super) fn has_probe(&self, now: Micros, error: Micros) -> bool {
        set(&self.probe.wanted_until, now.saturating_add(PROBES_FOR));
        now.saturating_add(error) < get(&self.probe.held_until)
    }

    /// Returns whether the store should be asked now for the place of the probation.
    pub(super) fn asks_for_probe(&self, now: Micros) -> bool {
        now >= get(&self.probe.asks_at)
    }

    pub(super) fn use_probe(&self, is_used: bool) {
        self.probe.is_used.store(is_used, Ordering::Relaxed);
    }

    // --- the talk with the store ---

    pub(super) fn hear_news(&self) {
        self.must_hear.store(true, Ordering::Relaxed);
        set(&self.probe.asks_at, 0);
    }

    /// Returns whether the store should hear of something now. `is_used`: requests come. `compares`: a
    /// strategy compares what is in flight.
    pub(super) fn is_due(&self, now: Micros, is_used: bool, compares: bool) -> bool {
        let is_old = now.saturating_sub(get(&self.told_at)) >= TOLD_EVERY;
        let is_urgent = self.notices.first().is_some_and(|out| out.is_untold.load(Ordering::Relaxed));
        let has_said = || self.notices.iter().any(|notice| notice.is_untold.load(Ordering::Relaxed));
        // While nothing fails, it is enough to tell of successes along with other things.
        let fails = |outcomes: &Outcomes| get(&outcomes.failures) > 0 && now < get(&outcomes.until);
        let counts = is_used && (compares || fails(&self.own) || fails(&self.of_others));
        let wants_probe = is_used && self.probe.is_wanted(now) && now >= get(&self.probe.asks_at);
        is_urgent || wants_probe || self.must_hear.load(Ordering::Relaxed) || (is_old && (counts || has_said()))
    }

    /// Returns what to tell and to ask. All of it is told once in a while, or if there is something new.
    /// `in_flight` are the requests of a deployment; None for a quota, which has only notices. `is_used`:
    /// requests come. Who has none does not keep the place of a probation from others.
    pub(super) fn asks(&self, now: Micros, in_flight: Option<u64>, is_used: bool) -> Vec<Ask> {
        let ask = |meter, kind, limit, rows| Ask { meter, kind, limit, rows };
        let counts_until = now.saturating_add(COUNTS_FOR);
        let number = |window, used| Row { window, until: counts_until, used, ..Row::default() };
        let mut asks: Vec<_> = in_flight.map(|used| ask(IN_FLIGHT, Kind::Tally, 0, vec![number(0, used)])).into_iter().collect();
        let is_old = now.saturating_sub(get(&self.told_at)) >= TOLD_EVERY;
        let has_said = self.notices.iter().any(|notice| notice.is_untold.load(Ordering::Relaxed));
        let wants_probe = now < get(&self.probe.wanted_until) || get(&self.probe.held_until) > now;
        let must_hear = self.must_hear.swap(false, Ordering::Relaxed);
        if !(is_old || has_said || wants_probe || must_hear) {
            return asks;
        }
        set(&self.told_at, now);
        let notices = NOTICES.into_iter().zip(&self.notices);
        asks.extend(notices.map(|(meter, notice)| ask(meter, Kind::Notice, 0, vec![notice.row(now)])));
        if in_flight.is_some() {
            let own = |window, word: &AtomicU64| Row { window, until: get(&self.own.until), used: get(word), ..Row::default() };
            asks.push(ask(OUTCOMES, Kind::Tally, 0, vec![own(0, &self.own.successes), own(1, &self.own.failures)]));
            let probes = u64::from(self.probe.is_used.load(Ordering::Relaxed));
            let holds = u64::from(now < get(&self.probe.held_until)).max(probes);
            let wants = u64::from(is_used && now < get(&self.probe.wanted_until)).max(probes);
            if wants == 0 {
                set(&self.probe.held_until, 0);
            }
            let row = Row { have: holds.min(wants), least: wants, target: wants, used: probes, ..Row::default() };
            asks.push(ask(PROBE, Kind::Places, 1, vec![row]));
        }
        asks
    }

    /// Takes the answer to one of its asks. Returns whether something is freed; adds what was heard.
    pub(super) fn apply(&self, ask: &Ask, answer: &Answer, held_until: Micros, now: Micros, heard: &mut Vec<Heard>) -> bool {
        let Some(&first) = answer.rows.first() else { return false };
        if ask.meter == IN_FLIGHT {
            let before = self.others(now);
            set(&self.others, first.granted.min(u64::from(u32::MAX)));
            set(&self.others_until, now.saturating_add(COUNTS_FOR));
            return self.others(now) != before;
        }
        if ask.meter == OUTCOMES {
            let failures = answer.rows.get(1).map_or(0, |piece| piece.granted);
            set(&self.of_others.successes, first.granted);
            set(&self.of_others.failures, failures);
            set(&self.of_others.until, now.saturating_add(COUNTS_FOR));
            return false;
        }
        if ask.meter == PROBE {
            let was_held = get(&self.probe.held_until) > now;
            let holds = first.held > 0 && ask.rows.first().is_some_and(|row| row.target > 0);
            set(&self.probe.held_until, if holds { held_until } else { 0 });
            // Another process has it. News come when that gives it back.
            set(&self.probe.asks_at, if holds { 0 } else { now.saturating_add(PROBE_ASKED_AFTER) });
            return holds && !was_held;
        }
        let nth = NOTICES.iter().position(|&meter| meter == ask.meter);
        let Some((nth, notice)) = nth.and_then(|nth| Some((nth, self.notices.get(nth)?))) else { return false };
        if notice.hear(first, ask.rows.first().map_or(0, |row| row.window)) && now < first.until {
            heard.push(match nth.checked_sub(1).and_then(|nth| Unit::ALL.get(nth)) {
                None if first.held == BACK => Heard::Back,
                None => Heard::Out { until: first.until, cause: u8::try_from(first.held).unwrap_or(0) },
                Some(&unit) => {
                    let (remaining, limit) = (first.held, first.granted);
                    Heard::Observed { unit, at: first.window, until: first.until, remaining, limit }
                }
            });
        }
        false
    }

    /// Forgets what this process said, and what it heard, in a forked child.
    pub(super) fn clear(&self) {
        for word in [&self.others, &self.told_at, &self.probe.held_until, &self.probe.asks_at] {
            set(word, 0);
        }
        self.use_probe(false);
    }
}

impl Notice {
    fn say(&self, now: Micros, until: Micros, one: u64, other: u64) {
        // A later word counts, even in the same microsecond.
        set(&self.at, now.max(get(&self.at).saturating_add(1)));
        set(&self.until, until);
        let [first, second] = &self.numbers;
        set(first, one.min(MOST));
        set(second, other.min(MOST));
        self.is_untold.store(true, Ordering::Relaxed);
    }

    fn row(&self, now: Micros) -> Row {
        self.is_untold.store(false, Ordering::Relaxed);
        let (at, until) = (get(&self.at), get(&self.until));
        if now >= until {
            return Row::default();
        }
        let [first, second] = &self.numbers;
        Row { window: at, until, have: get(first), used: get(second), ..Row::default() }
    }

    /// Takes what all hear now. Returns whether it is news. `told` is when what this process told was said.
    fn hear(&self, said: Piece, told: u64) -> bool {
        if said.window == 0 || said.window <= get(&self.at).max(told) {
            return false;
        }
        set(&self.at, said.window);
        set(&self.until, said.until);
        let [first, second] = &self.numbers;
        set(first, said.held);
        set(second, said.granted);
        true
    }
}
