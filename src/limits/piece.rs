//! The words of the pieces that this process holds of one limit.
//!
//! All times here are microseconds of the store's clock.

use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::shared::{Micros, Row};

/// The pieces of one limit, and what is asked for.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) pieces: Box<[Piece]>,
    /// The piece that was used last.
    pub(super) front: AtomicU64,
    /// The units that a waiting request needs, and until when.
    pub(super) need: AtomicU64,
    pub(super) needed_until: AtomicU64,
    /// The units that requests asked for, in all.
    pub(super) asked: AtomicU64,
    /// Of a bucket: the units that were charged and then given back, in all, and when the first of them was
    /// charged since that was last told.
    pub(super) refunded: AtomicU64,
    pub(super) refunded_since: AtomicU64,
    pub(super) told_at: AtomicU64,
}

/// The units of one window that this process may use.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// The name of the window, which is the end of its use; 0 for no piece. A bucket has one piece, and this
    /// is the end of the lease under which the store keeps it.
    pub(super) window: AtomicU64,
    /// The window begins then; 0 if it has begun.
    pub(super) from: AtomicU64,
    pub(super) until: AtomicU64,
    pub(super) has: AtomicU64,
    pub(super) used: AtomicU64,
    /// The units of all processes, by the last answer.
    pub(super) granted: AtomicU64,
    /// Whether this process has taken its part by itself, since the store was lost.
    pub(super) is_own: AtomicU64,
}

pub(super) fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

pub(super) fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

impl Piece {
    pub(super) fn left(&self) -> u64 {
        get(&self.has).saturating_sub(get(&self.used))
    }

    /// Returns whether its units may be used, though the time may be off by `error`.
    pub(super) fn is_open(&self, now: Micros, error: Micros) -> bool {
        now.saturating_add(error) < get(&self.window) && now >= get(&self.from).saturating_add(error.min(get(&self.from)))
    }

    pub(super) fn begin(&self, window: u64, from: Micros, until: Micros) {
        for word in [&self.has, &self.used, &self.granted, &self.is_own] {
            set(word, 0);
        }
        set(&self.from, from);
        set(&self.until, until);
        set(&self.window, window);
    }
}

impl Words {
    pub(super) fn new(pieces: usize) -> Self {
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

pub(super) fn told(piece: &Piece) -> Row {
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
