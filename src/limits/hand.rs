//! The pieces of one limit that this process holds.
//!
//! All times here are microseconds of the store's clock.

use std::sync::Arc;

use super::limit::Limit;
use super::pace::{Activity, Pace};
use super::piece::{Piece, Words, get, set, told};
use super::shape::{SHORTEST, Shape, meter};
use super::unit::Unit;
use crate::base::time::{Nanos, SECOND};
use crate::shared::{Answer, Ask, Kind, MOST, Micros, Row};

/// The next window is asked for so long before it begins.
const AHEAD_OF_TURN: Micros = 200_000;

/// How often used units are told where they come back only from then on.
const TOLD_EVERY: Micros = 250_000;

/// A need that nobody repeats is over after this time.
const NEEDED_FOR: Micros = 700_000;

/// The pieces of one limit that this process holds. Any thread reads them without a lock. They are written
/// under the lock of their share.
#[derive(Debug)]
pub(super) struct Hand {
    limit: Limit,
    meter: u64,
    shape: Shape,
    /// Shared with the hand that takes this one's place when the limit's amount is changed.
    words: Arc<Words>,
}

/// What a hand should hold.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plan {
    stock: u64,
    /// The units that a waiting request lacks; 0 for none.
    need: u64,
    /// Whether the store should hear of it now.
    pub(super) is_due: bool,
}

/// What a plan depends on beside the hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outlook {
    pub(super) now: Micros,
    pub(super) error: Micros,
    /// The router's time.
    pub(super) time: Nanos,
    pub(super) horizon: Nanos,
    /// How long it takes until an answer has come.
    pub(super) answer: Nanos,
    /// Whether a request may ask again for what was refused.
    pub(super) may_repeat: bool,
    /// Whether units may be asked for that no request needs yet.
    pub(super) may_restock: bool,
    /// Whether another process lacks units.
    pub(super) is_wanted: bool,
}

impl Hand {
    /// Makes a hand of a limit. `nth` tells it from other limits of the same unit, time and kind. It goes on
    /// with the pieces of the same meter among `before`.
    pub(super) fn new(limit: Limit, nth: u64, before: &[Self]) -> Self {
        let meter = meter(&limit, nth);
        let (shape, pieces) = Shape::of(&limit);
        let known = before.iter().find(|hand| hand.meter == meter);
        let words = known.map_or_else(|| Arc::new(Words::new(pieces)), |known| Arc::clone(&known.words));
        Self { limit, meter, shape, words }
    }

    pub(super) fn limit(&self) -> &Limit {
        &self.limit
    }

    pub(super) fn meter(&self) -> u64 {
        self.meter
    }

    pub(super) fn unit(&self) -> Unit {
        self.limit.unit()
    }

    pub(super) fn opens_at_first_use(&self) -> bool {
        matches!(self.shape, Shape::FirstUse { .. })
    }

    /// Returns when a window begins or ends in which units are held.
    pub(super) fn changes_at(&self, now: Micros, error: Micros) -> Option<Micros> {
        let held = self.words.pieces.iter().filter(|piece| get(&piece.has) > 0 && now < get(&piece.window));
        let changes = held.map(|piece| match get(&piece.from).saturating_add(error) {
            begins if now < begins => begins,
            _ => get(&piece.window).saturating_sub(error).max(now.saturating_add(1)),
        });
        changes.min().filter(|&at| at < Micros::MAX / 2)
    }

    pub(super) fn asked(&self) -> u64 {
        get(&self.words.asked)
    }

    // --- the way of a request ---

    /// Returns the most units that one request may use now.
    pub(super) fn room(&self, now: Micros, error: Micros) -> u64 {
        self.open(now, error).map(Piece::left).max().unwrap_or(0)
    }

    /// Returns whether so many units may be used now.
    #[inline]
    pub(super) fn has_room(&self, now: Micros, error: Micros, units: u64) -> bool {
        self.best(now, error, units).is_some()
    }

    fn open(&self, now: Micros, error: Micros) -> impl Iterator<Item = &Piece> {
        self.words.pieces.iter().filter(move |piece| piece.is_open(now, error))
    }

    #[inline]
    fn front(&self) -> Option<&Piece> {
        self.words.pieces.get(usize::try_from(get(&self.words.front)).ok()?)
    }

    /// Returns a piece that has so many units left. Of several, it returns the one that ends first.
    #[inline]
    fn best(&self, now: Micros, error: Micros, units: u64) -> Option<&Piece> {
        let front = self.front().filter(|piece| piece.is_open(now, error) && piece.left() >= units);
        front.or_else(|| self.open(now, error).filter(|piece| piece.left() >= units).min_by_key(|piece| get(&piece.window)))
    }

    /// Counts units that a request takes. The caller has checked that there is room, or could not ask: what
    /// is above the piece is told to the store. Returns a mark of the charge, to settle it.
    #[inline]
    pub(super) fn charge(&self, now: Micros, error: Micros, units: u64) -> u64 {
        self.note_asked(units);
        set(&self.words.need, 0);
        let piece = self.best(now, error, units).or_else(|| match &self.shape {
            Shape::FirstUse { .. } => self.words.pieces.iter().find(|piece| now < get(&piece.window)),
            Shape::Fixed(_) | Shape::Sliding { .. } | Shape::Bucket { .. } => self.piece(self.window(now), self.begun(now)),
        });
        let Some(piece) = piece else { return 0 };
        set(&piece.used, get(&piece.used).saturating_add(units));
        if matches!(self.shape, Shape::Bucket { .. }) {
            return now;
        }
        let window = get(&piece.window);
        if self.front().is_none_or(|front| get(&front.window) != window) {
            let place = self.words.pieces.iter().position(|other| get(&other.window) == window).unwrap_or(0);
            set(&self.words.front, place as u64);
        }
        window
    }

    /// Replaces what was charged.
    pub(super) fn settle(&self, mark: u64, charged: u64, actual: u64) {
        if matches!(self.shape, Shape::Bucket { .. }) {
            let Some(piece) = self.words.pieces.first() else { return };
            set(&piece.used, get(&piece.used).saturating_add(actual.saturating_sub(charged)));
            let back = charged.saturating_sub(actual);
            if back > 0 {
                let since = get(&self.words.refunded_since);
                set(&self.words.refunded_since, if since == 0 { mark } else { since.min(mark) });
                set(&self.words.refunded, get(&self.words.refunded).saturating_add(back));
            }
        } else if let Some(piece) = self.words.pieces.iter().find(|piece| mark != 0 && get(&piece.window) == mark) {
            set(&piece.used, get(&piece.used).saturating_sub(charged).saturating_add(actual));
        }
    }

    /// Notes that a request lacks units.
    pub(super) fn note_need(&self, now: Micros, units: u64) {
        set(&self.words.need, self.needed(now).max(units));
        set(&self.words.needed_until, now.saturating_add(NEEDED_FOR));
    }

    /// Returns the units that a request lacked lately, if none has taken any since; otherwise 0.
    pub(super) fn needed(&self, now: Micros) -> u64 {
        if now < get(&self.words.needed_until) { get(&self.words.need) } else { 0 }
    }

    /// Counts units that a request asks for.
    pub(super) fn note_asked(&self, units: u64) {
        set(&self.words.asked, self.asked().saturating_add(units));
    }

    /// Returns the time at which units may be there that are lacking now.
    pub(super) fn frees_at(&self, now: Micros, error: Micros) -> Micros {
        let soon = now.saturating_add(20_000);
        match &self.shape {
            Shape::Fixed(_) | Shape::FirstUse { .. } => {
                let known = self.open(now, error).find(|piece| get(&piece.granted) >= self.limit.amount());
                known.map_or(soon, |piece| get(&piece.window).saturating_add(error.saturating_mul(2)).saturating_add(1))
            }
            Shape::Sliding { .. } | Shape::Bucket { .. } => soon,
        }
    }

    /// Returns the units of all processes by the last answer, if that was about the window of now.
    pub(super) fn granted(&self, now: Micros) -> Option<u64> {
        let latest = self.words.pieces.iter().filter(|piece| get(&piece.window) > now && get(&piece.from) <= now);
        latest.max_by_key(|piece| get(&piece.window)).map(|piece| get(&piece.granted))
    }

    // --- the talk with the store ---

    /// Returns the window of now, in which units are asked for.
    fn window(&self, now: Micros) -> u64 {
        match &self.shape {
            Shape::Fixed(fixed) => fixed.ends(now.saturating_mul(1000)) / 1000,
            Shape::FirstUse { .. } => {
                self.words.pieces.iter().map(|piece| get(&piece.window)).find(|&window| now < window).unwrap_or(0)
            }
            Shape::Sliding { slice, .. } => {
                let used_until = now.saturating_add((*slice).max(SHORTEST));
                (used_until - used_until % slice).saturating_add(*slice)
            }
            Shape::Bucket { .. } => 0,
        }
    }

    /// Returns the window after `window`, if it is time to ask for it.
    fn next_window(&self, now: Micros, window: u64) -> Option<u64> {
        let Shape::Fixed(fixed) = &self.shape else { return None };
        // The name of a window is its end in whole microseconds.
        let next = fixed.ends(window.saturating_mul(1000).saturating_add(999)) / 1000;
        let ahead = AHEAD_OF_TURN.min(next.saturating_sub(window) / 5);
        (now.saturating_add(ahead) >= window).then_some(next)
    }

    /// Returns from when on a piece of the window of now may be used. The time may be ahead of the store's by
    /// its error, so the window may not have begun: then all that is certain is that it has begun one error
    /// later. See [`Piece::is_open`].
    fn begun(&self, now: Micros) -> Micros {
        if let Shape::Fixed(_) = &self.shape { now } else { 0 }
    }

    /// Returns the piece of a window. If there is none, the oldest piece gives way.
    fn piece(&self, window: u64, from: Micros) -> Option<&Piece> {
        let until = match &self.shape {
            Shape::Sliding { per, .. } => window.saturating_add(*per),
            _ => window,
        };
        self.known(window).or_else(|| {
            if window == 0 {
                return None;
            }
            let oldest = self.words.pieces.iter().min_by_key(|piece| get(&piece.window))?;
            oldest.begin(window, from, until);
            Some(oldest)
        })
    }

    fn known(&self, window: u64) -> Option<&Piece> {
        if let Shape::Bucket { .. } = &self.shape {
            return self.words.pieces.first();
        }
        self.words.pieces.iter().find(|piece| window != 0 && get(&piece.window) == window)
    }

    /// Returns what it should hold. The activity is that of its group, in the router's time.
    pub(super) fn plan(&self, pace: &Pace, activity: &Activity, outlook: &Outlook) -> Plan {
        let Outlook { now, error, horizon, .. } = *outlook;
        let (room, window) = (self.room(now, error), self.window(now));
        let granted = self.granted(now).unwrap_or(0);
        let (most, time) = (self.limit.capacity(), outlook.time);
        // What was granted for a request stays here until that asks again.
        let needed = self.needed(now);
        let stock = pace.stock(horizon, granted < most / 2, activity, self.unit(), time).max(needed).min(most);
        let need = if room >= needed { 0 } else { needed };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it saturates, and is not negative
        let low = pace.need_in(outlook.answer.saturating_mul(4).saturating_add(3 * SECOND / 100)).ceil() as u64;
        // All of a fixed window is gone until it ends; of others some comes back.
        let is_exhausted = granted >= most && matches!(self.shape, Shape::Fixed(_) | Shape::FirstUse { .. });
        let runs_low = room < stock && room <= low && !is_exhausted;
        let next = self.next_window(now, window).filter(|_| pace.is_brisk(horizon));
        let turns =
            next.is_some_and(|next| self.known(next).is_none_or(|piece| get(&piece.has) == 0 && get(&piece.granted) < most));
        let has_surplus = room > 0 && (outlook.is_wanted || room > stock.saturating_mul(2));
        let is_over = self.words.pieces.iter().any(|piece| get(&piece.used) > get(&piece.has));
        let is_told = now.saturating_sub(get(&self.words.told_at)) < TOLD_EVERY;
        let has_news = match &self.shape {
            Shape::Fixed(_) | Shape::FirstUse { .. } => false,
            Shape::Sliding { .. } => self.lapsed(now, error).next().is_some(),
            Shape::Bucket { .. } => self.words.pieces.iter().any(|piece| get(&piece.until) != get(&piece.used)),
        };
        let is_due = (need > 0 && outlook.may_repeat)
            || ((runs_low || turns || has_surplus) && outlook.may_restock)
            || ((is_over || has_news) && !is_told);
        Plan { stock, need, is_due }
    }

    /// Returns the pieces of a sliding window that cannot be used any more and still have units.
    fn lapsed(&self, now: Micros, error: Micros) -> impl Iterator<Item = &Piece> {
        let pieces = self.words.pieces.iter().filter(move |piece| get(&piece.window) != 0 && now < get(&piece.until));
        pieces.filter(move |piece| !piece.is_open(now, error) && get(&piece.from) <= now && get(&piece.has) != get(&piece.used))
    }

    /// Returns what to tell the store and ask for. It gives up at once what it gives back. `everything`: the
    /// store may have lost what it was told.
    pub(super) fn ask(&self, plan: Plan, outlook: &Outlook, everything: bool) -> Ask {
        let Outlook { now, error, is_wanted, .. } = *outlook;
        let mut rows = Vec::new();
        let window = self.window(now);
        match self.piece(window, self.begun(now)) {
            Some(piece) => {
                if matches!(self.shape, Shape::Bucket { .. }) && !piece.is_open(now, error) {
                    // The store may have given it to others since.
                    set(&piece.has, get(&piece.used));
                }
                let elsewhere: u64 = self.open(now, error).filter(|other| get(&other.window) != window).map(Piece::left).sum();
                rows.push(Self::row(piece, plan, elsewhere, is_wanted));
            }
            // No window is open: the store opens one.
            None => rows.push(Row { least: plan.need, target: plan.stock.max(plan.need), ..Row::default() }),
        }
        if let Some(next) = self.next_window(now, window) {
            let target = plan.stock.max(plan.need);
            if let Some(piece) = self.piece(next, window).filter(|piece| target > 0 || get(&piece.has) > 0) {
                set(&piece.has, get(&piece.has).min(target));
                rows.push(Row { target, ..told(piece) });
            }
        }
        if let Shape::Sliding { .. } = &self.shape {
            for piece in self.lapsed(now, error) {
                set(&piece.has, get(&piece.used));
                rows.push(told(piece));
            }
            let alive = self.words.pieces.iter().filter(|piece| everything && now < get(&piece.until));
            for piece in alive {
                if rows.iter().all(|row| row.window != get(&piece.window)) {
                    rows.push(told(piece));
                }
            }
        }
        set(&self.words.told_at, now);
        if let (Shape::Bucket { .. }, Some(row)) = (&self.shape, rows.first_mut()) {
            row.window = get(&self.words.refunded);
            row.until = get(&self.words.refunded_since);
        }
        Ask { meter: self.meter, kind: self.kind(), limit: self.limit.capacity().min(MOST), rows }
    }

    fn row(piece: &Piece, plan: Plan, elsewhere: u64, is_wanted: bool) -> Row {
        let (used, left) = (get(&piece.used), piece.left());
        let (least, target) = if plan.need > 0 {
            // Who waits holds nothing but what it waits for.
            (used.saturating_add(plan.need), used.saturating_add(plan.need.max(plan.stock)))
        } else {
            let stock = plan.stock.saturating_sub(elsewhere);
            let keeps = left > stock && left <= stock.saturating_mul(2) && !is_wanted;
            (0, used.saturating_add(if keeps { left } else { stock }))
        };
        set(&piece.has, get(&piece.has).min(target.max(used)));
        Row { least, target, ..told(piece) }
    }

    fn kind(&self) -> Kind {
        match &self.shape {
            Shape::Fixed(_) => Kind::Fixed,
            Shape::FirstUse { per } => Kind::FirstUse { per: *per },
            Shape::Sliding { .. } => Kind::Sliding,
            Shape::Bucket { refill, unit } => Kind::Bucket { refill: *refill, unit: *unit },
        }
    }

    /// Takes what the store has granted, which it keeps until then if it hears no more. Returns whether there
    /// are more units than before.
    pub(super) fn apply(&self, ask: &Ask, answer: &Answer, held_until: Micros) -> bool {
        let (mut gained, is_bucket) = (false, matches!(self.shape, Shape::Bucket { .. }));
        for (row, said) in ask.rows.iter().zip(&answer.rows) {
            let piece = if is_bucket {
                if get(&self.words.refunded) == row.window {
                    set(&self.words.refunded_since, 0);
                }
                let piece = self.words.pieces.first();
                // Of a bucket these are the use that was told last, and the end of the lease.
                if let Some(piece) = piece {
                    set(&piece.until, row.used);
                    set(&piece.window, held_until);
                }
                piece
            } else {
                // Another window than the row's: the store has opened it.
                self.known(said.window).or_else(|| if said.window == row.window { None } else { self.piece(said.window, 0) })
            };
            if let Some(piece) = piece {
                gained |= said.held > get(&piece.has);
                set(&piece.has, said.held);
                set(&piece.granted, said.granted);
            }
        }
        gained
    }

    /// Gives everything up.
    pub(super) fn drop_all(&self) {
        for piece in self.words.pieces.iter().filter(|piece| get(&piece.has) > get(&piece.used)) {
            set(&piece.has, get(&piece.used));
        }
    }

    /// Forgets all pieces, and what was used of them.
    pub(super) fn forget_pieces(&self) {
        self.words.pieces.iter().for_each(|piece| piece.begin(0, 0, 0));
    }

    /// Forgets everything, in a forked child: it is the parent's.
    pub(super) fn clear(&self) {
        self.forget_pieces();
        for word in [&self.words.need, &self.words.refunded, &self.words.refunded_since] {
            set(word, 0);
        }
    }

    /// Returns whether it holds units that it has not used.
    pub(super) fn is_engaged(&self, now: Micros) -> bool {
        self.words.pieces.iter().any(|piece| piece.left() > 0 && now < get(&piece.window))
    }

    /// Returns whether it has used units that still count. If the store forgets everything, only this process
    /// knows of them. A bucket that is forgotten begins empty, so nobody has to tell of its use.
    pub(super) fn remembers(&self, now: Micros) -> bool {
        let is_bucket = matches!(self.shape, Shape::Bucket { .. });
        !is_bucket && self.words.pieces.iter().any(|piece| get(&piece.used) > 0 && now < get(&piece.until))
    }

    /// Takes one of `members` equal parts without the store, which is lost.
    pub(super) fn fend(&self, now: Micros, members: u64) {
        let (amount, members) = (self.limit.capacity(), members.max(1));
        match &self.shape {
            Shape::Fixed(_) | Shape::FirstUse { .. } => {
                let window = self.window(now);
                let window = if window == 0 { now.saturating_add(self.limit.per() / 1000) } else { window };
                let Some(piece) = self.piece(window, self.begun(now)).filter(|piece| get(&piece.is_own) == 0) else { return };
                let part = amount.saturating_sub(get(&piece.granted)) / members;
                set(&piece.has, get(&piece.has).saturating_add(part));
                set(&piece.is_own, 1);
            }
            Shape::Sliding { .. } => {
                let alive = self.words.pieces.iter().filter(|piece| now < get(&piece.until));
                let alive = alive.map(|piece| get(&piece.has).max(get(&piece.used))).fold(0, u64::saturating_add);
                if let Some(piece) = self.piece(self.window(now), 0) {
                    set(&piece.has, get(&piece.has).saturating_add((amount / members).saturating_sub(alive)));
                }
            }
            Shape::Bucket { refill, unit } => {
                let Some(piece) = self.words.pieces.first() else { return };
                let since = now.saturating_sub(get(&self.words.told_at));
                let part = since.saturating_mul(*refill) / unit / members;
                set(&piece.window, now.saturating_add(1_000_000));
                if part > 0 {
                    let most = (amount / members).saturating_sub(piece.left());
                    set(&piece.has, get(&piece.has).saturating_add(part.min(most)));
                    set(&self.words.told_at, now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::limit::{LimitKind, Start};

    #[test]
    fn no_piece_is_used_before_its_window_has_begun_for_certain() {
        let limit = Limit::new(Unit::Requests, 10, SECOND, LimitKind::Fixed(Start::Clock)).unwrap();
        let hand = Hand::new(limit, 0, &[]);
        // By this machine's estimate the window has just begun, but it may be wrong by five milliseconds.
        let (now, error) = (7_000_001, 5_000);
        let (time, horizon) = (now * 1000, SECOND / 4);
        let outlook = Outlook { now, error, time, horizon, answer: 0, may_repeat: true, may_restock: true, is_wanted: false };
        let ask = hand.ask(Plan { stock: 4, ..Plan::default() }, &outlook, false);
        let rows = vec![crate::shared::Piece { window: 8_000_000, until: 8_000_000, held: 4, granted: 4 }];
        assert!(hand.apply(&ask, &Answer { wanted: false, rows }, Micros::MAX));
        assert!(!hand.has_room(now + error - 1, error, 1) && hand.has_room(now + error, error, 1));
        assert!(hand.has_room(8_000_000 - error - 1, error, 1) && !hand.has_room(8_000_000 - error, error, 1));
    }
}
