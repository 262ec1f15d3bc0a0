//! The state of the talk with a shared store about one owner.

use rustc_hash::FxHashMap;

use super::pace::Pace;
use super::shape::digest;
use super::signals::Signals;
use crate::base::lock::Lock;
use crate::base::sync::Mutex;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::time::Nanos;
use crate::shared::Micros;

/// How a process holds pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// How long the store keeps what a process holds that does not speak.
    pub(crate) ttl: Nanos,
    /// How long its places in flight stay taken after that.
    pub(crate) busy_for: Nanos,
    /// For this time ahead a process holds what it will need.
    pub(crate) horizon: Nanos,
}

/// What stays when an owner's limits are replaced.
#[derive(Debug, Default)]
pub(super) struct Common {
    pub(super) lock: Lock,
    /// The places that this process may use, those that it uses, and until when it may.
    pub(super) places: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) places_until: AtomicU64,
    /// Until when a request needs a place.
    pub(super) needs_place_until: AtomicU64,
    /// Requests that came, in all: those that were admitted, and those that lacked something.
    pub(super) requests: AtomicU64,
    pub(super) talk: Mutex<Talk>,
    pub(super) signals: Signals,
}

impl Common {
    /// Returns how many requests of this process are in flight.
    pub(super) fn in_flight(&self) -> u64 {
        self.busy.load(Ordering::Relaxed)
    }
}

/// The talk with the store about an owner.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Talk {
    /// The number of the last message.
    pub(super) number: u64,
    /// The owner's life by the last reply.
    pub(super) life: u64,
    pub(super) members: u64,
    pub(super) is_learning: bool,
    /// Whether the store began a new life, which has to hear everything at once.
    pub(super) tells_all: bool,
    /// Whether a message is on its way.
    pub(super) is_asking: bool,
    /// When the last message was made.
    pub(super) asked_at: Micros,
    /// Whether another process lacks something of this owner's.
    pub(super) is_wanted: bool,
    /// What a request needs and was refused is not asked for again before this time. The pause is longer each
    /// time.
    pub(super) repeats_at: Micros,
    pub(super) pause: Micros,
    /// What is wanted ahead of need is not asked for before this time.
    pub(super) restocks_at: Micros,
    pub(super) paces: FxHashMap<u64, Pace>,
    pub(super) places_granted: u64,
}

/// The first pause after an answer that gave nothing, and the longest.
pub(super) const FIRST_PAUSE: Micros = 5_000;
pub(super) const LONGEST_PAUSE: Micros = 500_000;

/// The pause after an answer that gave nothing which no request waits for.
pub(super) const RESTOCKS_AFTER: Micros = 50_000;

/// The number under which places in flight are known.
pub(super) const PLACES: u64 = digest("places");
