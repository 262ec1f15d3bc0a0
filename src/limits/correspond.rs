//! The talk with a shared store about one owner: what this process says, and what it takes.

use std::sync::Arc;

use super::hand::{Hand, Outlook, Plan};
use super::pace::Pace;
use super::share::Share;
use super::signals::Heard;
use super::talk::{FIRST_PAUSE, LONGEST_PAUSE, PLACES, RESTOCKS_AFTER, Talk, Terms};
use super::unit::Unit;
use crate::base::sync::atomic::Ordering;
use crate::base::sync::hold;
use crate::base::time::{Nanos, SECOND};
use crate::shared::{Ask, Kind, Message, Micros, Reply, Row};

impl Share {
    /// Returns a message if the store should hear one now. No other is made until its reply has come or was
    /// lost.
    pub(super) fn message(&self, process: &Arc<str>, terms: &Terms, answer: Nanos, now: Nanos) -> Option<Message> {
        let held = self.hold();
        let mut talk = hold(&self.common.talk);
        if talk.is_asking {
            return None;
        }
        let time = self.time.at(now);
        let outlook = Outlook {
            now: time,
            error: self.time.error(),
            time: now,
            horizon: terms.horizon,
            answer,
            may_repeat: time >= talk.repeats_at,
            may_restock: time >= talk.restocks_at,
            is_wanted: talk.is_wanted,
        };
        let requests = self.common.requests.load(Ordering::Relaxed);
        let mut is_due = talk.tells_all;
        let plans: Vec<_> = self
            .hands
            .iter()
            .map(|hand| {
                let pace = talk.paces.entry(hand.meter()).or_default();
                pace.look(now, requests, hand.asked());
                let plan = hand.plan(pace, &self.activity, &outlook);
                is_due |= plan.is_due;
                plan
            })
            .collect();
        let places = self.places.map(|limit| {
            let pace = talk.paces.entry(PLACES).or_default();
            pace.look(now, requests, requests);
            (limit, self.places_row(&outlook, terms, *pace, talk.places_granted < limit / 2, &mut is_due))
        });
        let is_old = time.saturating_sub(talk.asked_at) > terms.ttl / 5000;
        let has_places = places.as_ref().is_some_and(|(_, row)| row.have > 0);
        let is_used = self.activity.is_in_use(now);
        // Who is in use hears of cooldowns, even if it holds nothing.
        let is_member = has_places || is_used || self.hands.iter().any(|hand| hand.is_engaged(time) || hand.remembers(time));
        is_due |= self.common.signals.is_due(time, is_used, self.time.compares());
        let must_beat = is_old && is_member;
        if !is_due && !must_beat {
            return None;
        }
        let everything = talk.is_learning;
        let mut asks: Vec<_> = Vec::with_capacity(plans.len() + 1);
        // Windows have their names by the store's time. So the first message asks for nothing but the time.
        if self.time.is_known() {
            if let Some((limit, row)) = places {
                self.common.places.store(row.have, Ordering::Relaxed);
                asks.push(Ask { meter: PLACES, kind: Kind::Places, limit, rows: vec![row] });
            }
            asks.extend(self.hands.iter().zip(plans).map(|(hand, plan)| hand.ask(plan, &outlook, everything)));
            asks.extend(self.common.signals.asks(time, self.is_deployment.then(|| self.common.in_flight()), is_used));
        }
        talk.number += 1;
        talk.is_asking = true;
        talk.asked_at = time;
        drop(held);
        Some(Message {
            owner: Arc::clone(&self.owner),
            process: Arc::clone(process),
            number: talk.number,
            life: talk.life,
            lease: terms.ttl / 1000,
            busy_for: terms.busy_for / 1000,
            asks,
        })
    }

    fn places_row(&self, outlook: &Outlook, terms: &Terms, pace: Pace, spares: bool, is_due: &mut bool) -> Row {
        let common = &*self.common;
        let (time, error) = (outlook.now, outlook.error);
        let (held, busy) = (common.places.load(Ordering::Relaxed), common.busy.load(Ordering::Relaxed));
        let left = self.places_left(time, error);
        let is_needed = time < common.needs_place_until.load(Ordering::Relaxed);
        // What was granted for a request stays here until that asks again.
        let (needs, kept) = (is_needed && left == 0, u64::from(is_needed));
        let stock = pace.stock(terms.horizon, spares, &self.activity, Unit::Requests, outlook.time).max(kept);
        let runs_low = left == 0 && stock > 0;
        let surplus = left > kept && (outlook.is_wanted || left > stock.saturating_mul(2).max(1));
        *is_due |= (needs && outlook.may_repeat) || ((runs_low || surplus) && outlook.may_restock);
        *is_due |= surplus && outlook.is_wanted;
        let keeps = left > stock && !surplus;
        let target = busy.saturating_add(if needs {
            stock.max(1)
        } else if keeps {
            left
        } else {
            stock
        });
        let target = if outlook.is_wanted && !needs { busy.saturating_add(kept) } else { target };
        let is_valid = time.saturating_add(error) < common.places_until.load(Ordering::Relaxed);
        let have = if is_valid { held } else { busy };
        let least = if needs { busy.saturating_add(1) } else { 0 };
        Row { have: have.min(target.max(busy)), least, target, used: busy, ..Row::default() }
    }

    /// Takes a reply to a message. Returns whether there may be more room than before, and what others have
    /// told.
    pub(super) fn apply(&self, message: &Message, reply: &Reply, asked_at: Micros) -> (bool, Vec<Heard>) {
        let _held = self.hold();
        let mut talk = hold(&self.common.talk);
        let mut heard = Vec::new();
        if talk.number != message.number {
            return (false, heard);
        }
        let (mut gained, mut lacks, mut is_wanted, mut is_freed) = (false, false, false, false);
        let (asks, answers) = (&message.asks, &reply.answers);
        // The lease counts from the sending: the store has taken the message later.
        let held_until = asked_at.saturating_add(message.lease);
        for (ask, answer) in asks.iter().zip(answers) {
            let mut rows = ask.rows.iter().zip(&answer.rows);
            let hand = self.hands.iter().find(|hand| hand.meter() == ask.meter);
            if hand.is_none() && ask.meter != PLACES {
                is_freed |= self.common.signals.apply(ask, answer, held_until, reply.now, &mut heard);
                continue;
            }
            is_wanted |= answer.wanted;
            lacks |= rows.any(|(row, piece)| row.least > 0 && piece.held < row.least && piece.window == row.window);
            if ask.kind == Kind::Places {
                if let Some(piece) = answer.rows.first() {
                    let places = &self.common.places;
                    gained |= piece.held > places.swap(piece.held, Ordering::Relaxed);
                    talk.places_granted = piece.granted;
                }
            } else if let Some(hand) = hand {
                gained |= hand.apply(ask, answer, held_until);
            }
        }
        self.common.places_until.store(held_until, Ordering::Relaxed);
        let knew_life = talk.life == reply.life;
        talk.life = reply.life;
        talk.members = reply.members.max(1);
        talk.is_learning = reply.learning > 0;
        talk.tells_all = talk.is_learning && !knew_life;
        talk.is_asking = false;
        talk.is_wanted = is_wanted;
        talk.pause = if lacks && knew_life { talk.pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE) } else { 0 };
        talk.repeats_at = if lacks { reply.now.saturating_add(talk.pause) } else { 0 };
        talk.restocks_at = if gained { 0 } else { reply.now.saturating_add(RESTOCKS_AFTER) };
        (gained || is_freed, heard)
    }

    /// Notes that the reply to a message will not come.
    pub(super) fn lose(&self, message: &Message) {
        let mut talk = hold(&self.common.talk);
        if talk.number == message.number {
            talk.is_asking = false;
        }
    }

    /// Asks again at once for what was refused: something may have come back.
    pub(super) fn hear_news(&self, now: Nanos) {
        let mut talk = hold(&self.common.talk);
        (talk.repeats_at, talk.restocks_at, talk.pause) = (0, 0, 0);
        if self.activity.is_in_use(now) || self.is_engaged(now) {
            self.common.signals.hear_news();
        }
    }

    /// Returns whether other processes may want what it holds, so that it looks for news.
    pub(super) fn is_engaged(&self, now: Nanos) -> bool {
        let time = self.time.at(now);
        self.common.places.load(Ordering::Relaxed) > 0 || self.hands.iter().any(|hand| hand.is_engaged(time))
    }

    /// Forgets what it took without the store, in windows that had their names by another clock.
    pub(super) fn forget_guesses(&self) {
        let _held = self.hold();
        self.hands.iter().for_each(Hand::forget_pieces);
    }

    /// Returns whether it has used units that still count: see [`Hand::remembers`].
    pub(super) fn remembers(&self, now: Nanos) -> bool {
        let time = self.time.at(now);
        self.hands.iter().any(|hand| hand.remembers(time))
    }

    /// Gives up all but the places of requests that are in flight, and returns the message that says so. If
    /// there are none, the process leaves with it.
    pub(super) fn farewell(&self, process: &Arc<str>, terms: &Terms, now: Nanos) -> Option<Message> {
        let _held = self.hold();
        let mut talk = hold(&self.common.talk);
        if talk.life == 0 {
            return None;
        }
        let outlook = Outlook {
            now: self.time.at(now),
            time: now,
            error: 0,
            horizon: 0,
            answer: 0,
            may_repeat: true,
            may_restock: true,
            is_wanted: true,
        };
        self.hands.iter().for_each(Hand::drop_all);
        let mut asks: Vec<_> = self.hands.iter().map(|hand| hand.ask(Plan::default(), &outlook, true)).collect();
        let busy = if self.places.is_some() { self.common.in_flight() } else { 0 };
        self.common.places.store(busy, Ordering::Relaxed);
        if let Some(limit) = self.places {
            let row = Row { have: busy, target: busy, used: busy, ..Row::default() };
            asks.push(Ask { meter: PLACES, kind: Kind::Places, limit, rows: vec![row] });
        }
        let (lease, busy_for) = if busy > 0 { (terms.ttl / 1000, terms.busy_for / 1000) } else { (0, 0) };
        talk.number += 1;
        let (number, life) = (talk.number, talk.life);
        talk.life = 0;
        Some(Message { owner: Arc::clone(&self.owner), process: Arc::clone(process), number, life, lease, busy_for, asks })
    }

    /// Takes a part without the store, which is lost.
    pub(super) fn fend(&self, now: Nanos) {
        let _held = self.hold();
        let members = hold(&self.common.talk).members.max(1);
        let time = self.time.at(now);
        self.hands.iter().for_each(|hand| hand.fend(time, members));
        if let Some(limit) = self.places {
            let common = &*self.common;
            let valid = common.places_until.load(Ordering::Relaxed) > time;
            let held = if valid { common.places.load(Ordering::Relaxed) } else { 0 };
            common.places.store(held.max(limit / members), Ordering::Relaxed);
            common.places_until.store(time.saturating_add(SECOND / 1000), Ordering::Relaxed);
        }
    }

    /// Forgets everything, in a forked child: it is the parent's. No other thread runs.
    pub(super) fn after_fork(&self) {
        self.hands.iter().for_each(Hand::clear);
        let common = &*self.common;
        for word in [&common.places, &common.busy, &common.places_until, &common.needs_place_until] {
            word.store(0, Ordering::Relaxed);
        }
        common.signals.clear();
        *hold(&common.talk) = Talk::default();
    }

    /// Returns whether the store learns what it has lost.
    pub(super) fn is_learning(&self) -> bool {
        hold(&self.common.talk).is_learning
    }
}
