//! The time of a store that processes share limits through.

use super::bell::Bell;
use crate::base::clock::Clock;
use crate::base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::base::time::Nanos;
use crate::shared::Micros;

/// The store's time, as this process knows it, and what it does without the store.
#[derive(Debug, Default)]
pub(crate) struct StoreTime {
    pub(crate) clock: Clock,
    /// By how many microseconds the time may be wrong.
    error: AtomicU64,
    /// Whether the store has told its time.
    is_known: AtomicBool,
    /// Whether the store does not answer.
    is_lost: AtomicBool,
    /// Whether the limits are open to all: the store is lost, and the user wants that then.
    is_open: AtomicBool,
    /// Whether a strategy compares what is in flight.
    compares: AtomicBool,
    /// Wakes the carrier of the talk.
    pub(super) bell: Bell,
}

impl StoreTime {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// Returns the store's time when the router's is `now`.
    #[inline]
    pub(crate) fn at(&self, now: Nanos) -> Micros {
        self.clock.wall_at(now) / 1000
    }

    /// Returns how far the store's time is ahead of the router's. If it is behind, this is a number below
    /// zero, wrapped.
    pub(super) fn ahead(&self) -> Nanos {
        self.clock.wall().map_or(0, |wall| wall.known_ahead())
    }

    #[inline]
    pub(crate) fn error(&self) -> Micros {
        self.error.load(Ordering::Relaxed)
    }

    pub(crate) fn set_error(&self, error: Micros) {
        self.error.store(error, Ordering::Relaxed);
        self.is_known.store(true, Ordering::Relaxed);
    }

    /// Returns whether the time is the store's. Before its first reply it is this machine's, which may be off
    /// by anything. A clock that is moved by hand is the store's too.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed) || self.clock.wall().is_none()
    }

    /// Notes whether the store is lost. Returns whether it was before.
    pub(crate) fn set_lost(&self, is_lost: bool) -> bool {
        self.is_lost.swap(is_lost, Ordering::Relaxed)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    pub(crate) fn set_compares(&self, compares: bool) {
        self.compares.store(compares, Ordering::Relaxed);
    }

    pub(super) fn compares(&self) -> bool {
        self.compares.load(Ordering::Relaxed)
    }

    pub(crate) fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }
}
