//! The books: what all processes hold of all owners' limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::board::{Notices, Tally};
use super::message::{Answer, Ask, Kind, Message, Micros, Piece, Reply, Row};
use super::pieces::{Granted, Pieces, Terms as Granting, Windows};
use super::pot::Pot;

/// How long it is remembered that a process lacks units. A process that still lacks them asks again.
const WANTED_FOR: Micros = 500_000;

/// What the books must know of the store that keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The store's time.
    pub(crate) now: Micros,
    /// A name of the store's run. Another run may have lost what an earlier one was told.
    pub(crate) run: u64,
    /// The name of a life that begins now. It must differ from all others, and from 0.
    pub(crate) life: u64,
    /// How long the books learn after a loss, at most.
    pub(crate) learn: Micros,
}

/// The books: what all processes hold of all owners' limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(super) owners: BTreeMap<Arc<str>, Owner>,
    /// How often something changed that a process may wait for.
    pub(super) news: u64,
}

/// What all processes hold of one owner's limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) run: u64,
    pub(super) life: u64,
    /// When learning is over at the latest; 0 if it is over.
    pub(super) learns_until: Micros,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    pub(super) meters: BTreeMap<u64, Meter>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Member {
    /// The number of its last message.
    pub(super) number: u64,
    /// When its lease ends.
    pub(super) until: Micros,
    /// When its places come back, if it does not speak again: they may be used for so long.
    pub(super) busy_until: Micros,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meter {
    /// When a process last lacked units, and which: 0 and an empty name for none.
    pub(super) wanted_at: Micros,
    pub(super) wanted_by: Arc<str>,
    pub(super) held: Held,
}

/// What processes hold of a meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    Windows(Windows),
    Pot { unit: u64, pot: Pot },
    Places(Pieces),
    Tally(Tally),
    Notices(Notices),
}

impl Books {
    /// Returns how often something changed that a process may wait for: one lacks units, or some came back
    /// that another lacks.
    pub(crate) fn news(&self) -> u64 {
        self.news
    }

    /// Returns the news, and begins to count anew.
    pub(crate) fn take_news(&mut self) -> u64 {
        std::mem::take(&mut self.news)
    }

    /// Handles a message.
    pub(crate) fn sync(&mut self, message: &Message, terms: Terms) -> Reply {
        let owner = self.owners.entry(Arc::clone(&message.owner)).or_default();
        owner.settle_down(terms);
        let (reply, is_news) = owner.sync(message, terms);
        if owner.is_forgotten() {
            self.owners.remove(&message.owner);
        }
        self.news = self.news.saturating_add(u64::from(is_news));
        reply
    }

    /// Forgets a process that has ended, of all owners: its places come back at once.
    pub(crate) fn bury(&mut self, process: &str) {
        let mut is_news = false;
        for owner in self.owners.values_mut() {
            if let Some((process, _)) = owner.members.remove_entry(process) {
                is_news |= owner.forget(&process, true);
            }
        }
        self.owners.retain(|_, owner| !owner.is_forgotten());
        self.news = self.news.saturating_add(u64::from(is_news));
    }

    /// Forgets what has no effect any more, also of owners of whom nobody speaks: members whose leases are
    /// over, and windows that nobody needs to remember.
    pub(crate) fn tidy(&mut self, now: Micros) {
        for owner in self.owners.values_mut() {
            owner.forget_idle(now);
            owner.meters.values_mut().for_each(|meter| meter.tidy(now));
            owner.meters.retain(|_, meter| !meter.is_empty());
        }
        self.owners.retain(|_, owner| !owner.is_forgotten());
    }

    /// Returns whether there is nothing in the books.
    pub(crate) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Returns the processes that any owner knows.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<str>> {
        self.owners.values().flat_map(|owner| owner.members.keys())
    }
}

impl Owner {
    /// Begins a life if there is none, learns after a loss, and forgets members whose leases are over.
    fn settle_down(&mut self, terms: Terms) {
        if self.life == 0 || self.run != terms.run {
            // Nobody knows who held pieces: a record that is older than the loss lacks those who came after
            // it.
            self.learns_until = if terms.learn == 0 { 0 } else { terms.now.saturating_add(terms.learn) };
            self.run = terms.run;
            self.life = terms.life;
        }
        // A clock that stepped back must not prolong it.
        if terms.now >= self.learns_until || self.learns_until > terms.now.saturating_add(terms.learn) {
            self.learns_until = 0;
        }
        self.forget_idle(terms.now);
    }

    /// Forgets members whose leases are over.
    fn forget_idle(&mut self, now: Micros) {
        let idle: Vec<_> = self.members.iter().filter(|(_, member)| now >= member.until).collect();
        let idle: Vec<_> = idle.into_iter().map(|(process, member)| (Arc::clone(process), *member)).collect();
        for (process, member) in idle {
            let is_gone = now >= member.busy_until;
            self.forget(&process, is_gone);
            if is_gone {
                self.members.remove(&process);
            }
        }
    }

    /// Takes back what a process holds and may not use any more. Windows keep their counts: it may have used
    /// its pieces. Places are used for long, so they come back only when the process is `gone`. Returns
    /// whether somebody may wait for it.
    fn forget(&mut self, process: &Arc<str>, gone: bool) -> bool {
        let mut came_back = false;
        for meter in self.meters.values_mut() {
            match &mut meter.held {
                Held::Pot { unit, pot } => pot.forget(process, *unit),
                Held::Places(pieces) if gone => came_back |= pieces.take_back(process),
                Held::Tally(tally) if gone => tally.forget(process),
                Held::Windows(_) | Held::Places(_) | Held::Tally(_) | Held::Notices(_) => {}
            }
        }
        came_back
    }

    fn is_forgotten(&self) -> bool {
        self.members.is_empty() && self.meters.is_empty()
    }

    fn sync(&mut self, message: &Message, terms: Terms) -> (Reply, bool) {
        let known = self.members.get(&message.process).copied().unwrap_or_default();
        let is_late = message.number <= known.number;
        if !is_late {
            let until = terms.now.saturating_add(message.lease);
            let member = Member { number: message.number, until, busy_until: until.saturating_add(message.busy_for) };
            self.members.insert(Arc::clone(&message.process), member);
        }
        let members = self.members.values().filter(|member| terms.now < member.until).count() as u64;
        // Who speaks of another life does not know what it may still hold of this one.
        let knows_life = message.life == self.life || message.life == 0;
        let granting = Granting { now: terms.now, grants: self.learns_until == 0 && knows_life, members: members.max(1) };
        let (mut answers, mut is_news) = (Vec::with_capacity(message.asks.len()), false);
        for ask in &message.asks {
            let meter = self.meters.entry(ask.meter).or_insert_with(|| Meter::new(ask, self.learns_until != 0, terms.now));
            answers.push(meter.sync(&message.process, ask, is_late, granting, &mut is_news));
        }
        if message.lease == 0 && !is_late {
            self.members.remove(&message.process);
            is_news |= self.forget(&message.process, true);
        }
        self.meters.retain(|_, meter| !meter.is_empty());
        let learning = self.learns_until.saturating_sub(terms.now);
        (Reply { now: terms.now, life: self.life, learning, members, answers }, is_news)
    }
}

impl Meter {
    fn new(ask: &Ask, is_learning: bool, now: Micros) -> Self {
        let held = match ask.kind {
            Kind::Fixed | Kind::FirstUse { .. } | Kind::Sliding => Held::Windows(Windows::default()),
            Kind::Bucket { unit, .. } if is_learning => Held::Pot { unit, pot: Pot::empty(ask.limit, unit, now) },
            Kind::Bucket { unit, .. } => Held::Pot { unit, pot: Pot { at: now, ..Pot::default() } },
            Kind::Places => Held::Places(Pieces::default()),
            Kind::Tally => Held::Tally(Tally::default()),
            Kind::Notice => Held::Notices(Notices::default()),
        };
        Self { wanted_at: 0, wanted_by: "".into(), held }
    }

    /// Handles an ask. A late one changes nothing.
    fn sync(&mut self, process: &Arc<str>, ask: &Ask, is_late: bool, terms: Granting, is_news: &mut bool) -> Answer {
        let mut answer = Answer::default();
        let (mut lacks, mut came_back) = (false, false);
        for row in &ask.rows {
            let (window, until, done) =
                if is_late { self.look(process, row, terms.now) } else { self.row(process, ask, row, terms) };
            lacks |= done.lacks;
            came_back |= done.came_back;
            answer.rows.push(match &mut self.held {
                Held::Windows(windows) => {
                    let granted = windows.granted(window, ask.kind == Kind::Sliding, terms.now);
                    Piece { window, until, held: done.held, granted }
                }
                Held::Pot { unit, pot } => Piece { window, until, held: done.held, granted: pot.missing(*unit) },
                Held::Places(pieces) => Piece { window, until, held: done.held, granted: pieces.granted },
                Held::Tally(tally) => tally.sync(process, row, is_late, terms.now),
                Held::Notices(notices) => notices.sync(row, is_late, terms.now, is_news),
            });
        }
        if lacks {
            // Those who hold what this one lacks are told once, and again while it asks.
            *is_news |= !self.is_wanted(terms.now);
            (self.wanted_at, self.wanted_by) = (terms.now, Arc::clone(process));
        } else {
            *is_news |= came_back && self.is_wanted(terms.now);
            if self.wanted_by == *process && !is_late {
                self.wanted_at = 0;
            }
        }
        answer.wanted = self.is_wanted(terms.now) && self.wanted_by != *process;
        answer
    }

    /// Handles a row. Returns its window, when that ends, and what has become of it.
    fn row(&mut self, process: &Arc<str>, ask: &Ask, row: &Row, terms: Granting) -> (u64, Micros, Granted) {
        let nothing = Granted { held: row.used, lacks: false, came_back: false };
        match (&mut self.held, ask.kind) {
            (Held::Windows(windows), Kind::FirstUse { per }) => {
                let opens = terms.grants && row.target.max(row.least) > 0;
                match windows.open(row, per, opens, terms.now) {
                    // The window that the process knows has ended, and none is open.
                    None => (0, 0, Granted { held: 0, lacks: row.least > 0, came_back: false }),
                    Some(open) if open == row.window || row.window == 0 => {
                        let row = Row { window: open, until: open, ..*row };
                        (open, open, windows.sync(process, &row, ask.limit, false, terms))
                    }
                    // What it tells is about another window. What it asks for is for its next requests.
                    Some(open) => {
                        let (least, target) = (row.least.saturating_sub(row.used), row.target.saturating_sub(row.used));
                        let row = Row { window: open, until: open, have: 0, least, target, used: 0 };
                        (open, open, windows.sync(process, &row, ask.limit, false, terms))
                    }
                }
            }
            (Held::Windows(windows), Kind::Fixed | Kind::Sliding) => {
                let shares = ask.kind == Kind::Sliding;
                (row.window, row.until, windows.sync(process, row, ask.limit, shares, terms))
            }
            (Held::Pot { unit, pot }, Kind::Bucket { refill, unit: asked }) => {
                if *unit != asked {
                    pot.rescale(*unit, asked);
                    *unit = asked;
                }
                (row.window, row.until, pot.sync(process, row, (ask.limit, refill, asked), terms))
            }
            (Held::Places(pieces), Kind::Places) => {
                (0, 0, pieces.sync(process, row, |granted| ask.limit.saturating_sub(granted), terms))
            }
            // The number of a meter stands for its kind too: this is no message of ours.
            _ => (row.window, row.until, nothing),
        }
    }

    /// Answers without a change.
    fn look(&self, process: &Arc<str>, row: &Row, now: Micros) -> (u64, Micros, Granted) {
        let (window, until, held) = match &self.held {
            Held::Windows(windows) => {
                let pieces = windows.0.get(&row.window).filter(|pieces| now < pieces.until);
                (row.window, row.until, pieces.and_then(|pieces| pieces.held.get(process)).copied())
            }
            Held::Pot { pot, .. } => (row.window, row.until, pot.accounts.get(process).map(|account| account.granted)),
            Held::Places(pieces) => (0, 0, pieces.held.get(process).copied()),
            Held::Tally(_) | Held::Notices(_) => (row.window, row.until, None),
        };
        (window, until, Granted { held: held.unwrap_or(0), lacks: false, came_back: false })
    }

    /// Forgets what nobody needs to remember.
    fn tidy(&mut self, now: Micros) {
        match &mut self.held {
            Held::Windows(windows) => windows.tidy(now),
            Held::Tally(tally) => tally.tidy(now),
            Held::Notices(notices) => notices.tidy(now),
            Held::Pot { .. } | Held::Places { .. } => {}
        }
    }

    fn is_wanted(&self, now: Micros) -> bool {
        self.wanted_at != 0 && now.saturating_sub(self.wanted_at) < WANTED_FOR
    }

    fn is_empty(&self) -> bool {
        match &self.held {
            Held::Windows(windows) => windows.0.is_empty(),
            Held::Pot { pot, .. } => pot.spent == 0 && pot.accounts.is_empty(),
            Held::Places(pieces) => pieces.held.is_empty(),
            Held::Tally(tally) => tally.is_empty(),
            Held::Notices(notices) => notices.is_empty(),
        }
    }
}
