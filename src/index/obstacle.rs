//! What stops a member of a group.

use crate::base::gate::Gate;
use crate::base::position::Position;
use crate::base::time::Nanos;

/// The quotas of a group, one bit each.
pub(crate) type QuotaBits = u64;

/// What stops a member now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// The first gate that stops it, quotas apart; None if none does.
    pub(crate) gate: Option<Gate>,
    /// When the member may be available, quotas apart; in the past if time alone stops nothing. None if that
    /// is unknown.
    pub(crate) frees_at: Option<Nanos>,
    /// The quotas that the member is under.
    pub(crate) quotas: QuotaBits,
}

impl Obstacle {
    /// Returns the time at which the member may be available, as it stands in the list of times. None if that
    /// is unknown, or if time alone stops nothing.
    pub(super) fn time(&self, position: Position) -> Option<(QuotaBits, Nanos, Position)> {
        self.frees_at.filter(|&at| at != 0).map(|at| (self.quotas, at, position))
    }
}
