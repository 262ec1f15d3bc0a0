//! The view that an index has of the members of its group.

use std::sync::Arc;

use super::leaf::Leaf;
use super::obstacle::{Obstacle, QuotaBits};
use crate::base::clock::Now;
use crate::base::labels::Labels;
use crate::base::position::Position;
use crate::base::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::base::time::Nanos;
use crate::health::Fitness;
use crate::strategy::Rule;

/// A member of a group, as its index sees it. Deployments are members by `gates::leaf`.
pub(crate) trait Member {
    /// Returns where its leaf is.
    fn place(&self) -> &Place;

    /// Returns its labels.
    fn labels(&self) -> Labels<'_>;

    /// Returns its fitness by its health.
    fn fitness(&self, now: &Now<'_>) -> Fitness;

    /// Makes the leaf that a pick without wishes sees now.
    fn leaf<R: Rule>(&self, now: &Now<'_>) -> Leaf<R::Leaf>;

    /// Returns the quotas that it is under, one bit each.
    fn quotas(&self) -> QuotaBits;

    /// Finds out what stops a request of unknown size without wishes now.
    fn obstacle(&self, now: &Now<'_>) -> Obstacle;

    /// Notes that its group has begun to panic or has ended it.
    fn announce_panic(&self, panics: bool, now: Nanos);
}

/// The members of a group by their places. A place is empty once its member has left.
pub(crate) type Members<M> = [Option<Arc<M>>];

/// Returns the members that are there, and their places.
#[inline]
pub(crate) fn members<M>(members: &Members<M>) -> impl Iterator<Item = (Position, &Arc<M>)> {
    (0..).zip(members).filter_map(|(position, place)| Some((position, place.as_ref()?)))
}

/// The place of a member's leaf, and what the index has noted of the leaf. With these notes, a renewal that
/// changes nothing touches no more memory. They are written under the index's lock.
#[derive(Debug)]
pub(crate) struct Place {
    /// The tokens in its leaf.
    tokens: AtomicU64,
    /// When time changes its leaf.
    changes_at: AtomicU64,
    position: AtomicU32,
    /// The views that it is in, one bit each.
    views: AtomicU8,
    /// Whether the census counts it as well (in good health).
    is_well: AtomicBool,
}

impl Place {
    pub(crate) fn new(position: Position) -> Self {
        Self {
            tokens: AtomicU64::new(0),
            changes_at: AtomicU64::new(Nanos::MAX),
            position: AtomicU32::new(position),
            views: AtomicU8::new(0),
            is_well: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(crate) fn position(&self) -> Position {
        self.position.load(Ordering::Relaxed)
    }

    /// Notes that its leaf is an empty one at this position, also in these views.
    pub(super) fn enter(&self, position: Position, views: u8) {
        self.position.store(position, Ordering::Relaxed);
        self.tokens.store(0, Ordering::Relaxed);
        self.changes_at.store(Nanos::MAX, Ordering::Relaxed);
        self.views.store(views, Ordering::Relaxed);
        self.is_well.store(false, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn views(&self) -> u8 {
        self.views.load(Ordering::Relaxed)
    }

    pub(super) fn set_view(&self, nth: usize, is_in: bool) {
        let others = self.views() & !(1 << nth);
        self.views.store(others | u8::from(is_in) << nth, Ordering::Relaxed);
    }

    /// Notes the tokens in its leaf. Returns whether these were noted already.
    #[inline]
    pub(super) fn note_tokens(&self, tokens: u64) -> bool {
        note(&self.tokens, tokens)
    }

    /// Notes when time changes its leaf. Returns whether that time was noted already.
    #[inline]
    pub(super) fn note_change(&self, at: Nanos) -> bool {
        note(&self.changes_at, at)
    }

    /// Returns whether the census counts it as well (in good health).
    #[inline]
    pub(super) fn is_known_well(&self) -> bool {
        self.is_well.load(Ordering::Relaxed)
    }

    /// Notes whether the census counts it as well (in good health).
    pub(super) fn note_well(&self, is_well: bool) {
        self.is_well.store(is_well, Ordering::Relaxed);
    }
}

#[inline]
fn note(noted: &AtomicU64, value: u64) -> bool {
    let is_noted = noted.load(Ordering::Relaxed) == value;
    if !is_noted {
        noted.store(value, Ordering::Relaxed);
    }
    is_noted
}
