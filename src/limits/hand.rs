//! The pieces of one limit that this process holds.
//!
//! All times here are microseconds of the store's clock.

use std::sync::Arc;

use super::fixed::Fixed;
use super::limit::{Limit, LimitKind, Start};
use super::pace::{Activity, Pace};
use super::unit::Unit;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::time::{Nanos, SECOND};
use crate::shared::{Answer, Ask, Kind, MOST, Micros, Row};

/// The next window is asked for so long before it begins.
const AHEAD_OF_TURN: Micros = 200_000;

/// The shortest time in which a piece of a sliding window can be used.
const SHORTEST: Micros = 100_000;

/// Slices of a sliding window, as in [`sliding`](super::sliding).
const SLICES: u64 = 60;

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

#[derive(Debug)]
enum Shape {
    Fixed(Fixed),
    FirstUse { per: Micros },
    Sliding { slice: Micros, per: Micros },
    Bucket { refill: u64, unit: u64 },
}

#[derive(Debug)]
struct Words {
    pieces: Box<[Piece]>,
    /// The piece that was used last.
    front: AtomicU64,
    /// The units that a waiting request needs, and until when.
    need: AtomicU64,
    needed_until: AtomicU64,
    /// The units that requests asked for, in all.
    asked: AtomicU64,
    /// Of a bucket: the units that were charged and then given back, in all, and when the first of them was
    /// charged since that was last told.
    refunded: AtomicU64,
    refunded_since: AtomicU64,
    told_at: AtomicU64,
}

#[derive(Debug, Default)]
struct Piece {
    /// The name of the window, which is the end of its use; 0 for no piece. A bucket has one piece, and this is
    /// the end of the lease under which the store keeps it.
    window: AtomicU64,
    /// The window begins then; 0 if it has begun.
    from: AtomicU64,
    until: AtomicU64,
    has: AtomicU64,
    used: AtomicU64,
    /// The units of all processes, by the last answer.
    granted: AtomicU64,
    /// Whether this process has taken its part by itself, since the store was lost.
    is_own: AtomicU64,
}

fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

impl Piece {
    fn left(&self) -> u64 {
        get(&self.has).saturating_sub(get(&self.used))
    }

    /// Returns whether its units may be used, though the time may be off by `error`.
    fn is_open(&self, now: Micros, error: Micros) -> bool {
        now.saturating_add(error) < get(&self.window) && now >= get(&self.from).saturating_add(error.min(get(&self.from)))
    }

    fn begin(&self, window: u64, from: Micros, until: Micros) {
        for word in [&self.has, &self.used, &self.granted, &self.is_own] {
            set(word, 0);
        }
        set(&self.from, from);
        set(&self.until, until);
        set(&self.window, window);
    }
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
            Shape::FirstUse { .. } => self.words.pieces.iter().map(|piece| get(&piece.window)).find(|&window| now < window).unwrap_or(0),
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
        let turns = next.is_some_and(|next| self.known(next).is_none_or(|piece| get(&piece.has) == 0 && get(&piece.granted) < most));
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
                rows.push(self.row(piece, plan, elsewhere, is_wanted));
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

    fn row(&self, piece: &Piece, plan: Plan, elsewhere: u64, is_wanted: bool) -> Row {
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
                piece.iter().for_each(|piece| set(&piece.until, row.used));
                piece.iter().for_each(|piece| set(&piece.window, held_until));
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

fn told(piece: &Piece) -> Row {
    let has = get(&piece.has);
    Row {
        window: get(&piece.window),
        until: get(&piece.until),
        have: has,
        least: 0,
        target: has.max(get(&piece.used)),
        used: get(&piece.used),
    }
}

impl Words {
    fn new(pieces: usize) -> Self {
        Self {
            pieces: (0..pieces).map(|_| Piece::default()).collect(),
            front: AtomicU64::new(0),
            need: AtomicU64::new(0),
            needed_until: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            refunded: AtomicU64::new(0),
            refunded_since: AtomicU64::new(0),
            told_at: AtomicU64::new(0),
        }
    }
}

impl Shape {
    /// Returns the shape of a limit, and how many pieces it has at most.
    fn of(limit: &Limit) -> (Self, usize) {
        match limit.kind() {
            LimitKind::Fixed(Start::FirstUse) => (Self::FirstUse { per: (limit.per() / 1000).max(1) }, 3),
            LimitKind::Fixed(start) => (Self::Fixed(Fixed::new(limit.per(), start, None)), 3),
            LimitKind::Sliding => {
                let per = limit.per().div_ceil(1000);
                let slice = per.div_ceil(SLICES).max(1);
                // Those of the window, and those that are used now.
                let pieces = SLICES + 3 + SHORTEST.div_ceil(slice).min(200);
                (Self::Sliding { slice, per }, usize::try_from(pieces).unwrap_or(usize::MAX))
            }
            LimitKind::Bucket { burst } => {
                let (refill, unit) = refill(limit.amount(), limit.per(), burst);
                (Self::Bucket { refill, unit }, 1)
            }
        }
    }
}

/// Returns the parts that refill in a microsecond, and the parts of a unit. They are rounded so that the
/// bucket is slower than its limit, if at all, and so that all parts of a bucket are at most [`MOST`].
fn refill(amount: u64, per: Nanos, burst: u64) -> (u64, u64) {
    let (refill, unit) = (u128::from(amount) * 1000, u128::from(per));
    let common = gcd(refill, unit);
    let (refill, unit) = (refill / common, unit / common);
    let most = u128::from(MOST) / u128::from(burst.max(1));
    let (refill, unit) = if unit <= most { (refill, unit) } else { (refill * most.max(1) / unit, most.max(1)) };
    (u64::try_from(refill).unwrap_or(u64::MAX).max(1), u64::try_from(unit).unwrap_or(u64::MAX))
}

fn gcd(one: u128, other: u128) -> u128 {
    if other == 0 { one.max(1) } else { gcd(other, one % other) }
}

/// Returns a number that tells a limit from others: a digest of its unit, time and kind, and `nth`. The
/// amount does not count: a limit that is raised keeps what is granted. All processes must agree on it, so it
/// is FNV-1a, which no build changes.
fn meter(limit: &Limit, nth: u64) -> u64 {
    let kind = match limit.kind() {
        LimitKind::Fixed(start) => match start {
            Start::Clock => "clock".to_owned(),
            Start::Offset(offset) => format!("offset {offset}"),
            Start::Midnight(zone) => format!("midnight {}", zone.name()),
            Start::FirstUse => "first use".to_owned(),
        },
        LimitKind::Sliding => "sliding".to_owned(),
        LimitKind::Bucket { .. } => "bucket".to_owned(),
    };
    digest(&format!("{} {} {kind} {nth}", limit.unit(), limit.per()))
}

pub(super) const fn digest(text: &str) -> u64 {
    let (mut digest, mut rest) = (0xcbf2_9ce4_8422_2325_u64, text.as_bytes());
    while let [byte, others @ ..] = rest {
        digest = (digest ^ *byte as u64).wrapping_mul(0x0100_0000_01b3);
        rest = others;
    }
    (digest ^ (digest >> 32)) % (MOST / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_is_used_before_its_window_has_begun_for_certain() {
        let limit = Limit::new(Unit::Requests, 10, SECOND, LimitKind::Fixed(Start::Clock)).unwrap();
        let hand = Hand::new(limit, 0, &[]);
        // By this machine's estimate the window has just begun, but it may be wrong by five milliseconds.
        let (now, error) = (7_000_001, 5_000);
        let (time, horizon) = (now * 1000, SECOND / 4);
        let outlook =
            Outlook { now, error, time, horizon, answer: 0, may_repeat: true, may_restock: true, is_wanted: false };
        let ask = hand.ask(Plan { stock: 4, ..Plan::default() }, &outlook, false);
        let rows = vec![crate::shared::Piece { window: 8_000_000, until: 8_000_000, held: 4, granted: 4 }];
        assert!(hand.apply(&ask, &Answer { wanted: false, rows }, Micros::MAX));
        assert!(!hand.has_room(now + error - 1, error, 1) && hand.has_room(now + error, error, 1));
        assert!(hand.has_room(8_000_000 - error - 1, error, 1) && !hand.has_room(8_000_000 - error, error, 1));
    }
}
