//! A leaf of an index: the view that a pick without wishes has of a member.

use crate::base::time::Nanos;

/// The view that a pick without wishes has of a member, and the times until which it holds.
#[derive(Debug)]
pub(crate) struct Leaf<L> {
    /// What the rule looks at; None if a gate stops the member.
    pub(crate) candidate: Option<L>,
    /// The tokens that the member has left; 0 if a gate stops it.
    pub(crate) tokens: u64,
    /// Whether the leaf is only a lower bound. Some requests may then find more tokens left, or may pass
    /// although this says that a gate stops the member. That is so under a bucket that refills all the time.
    /// It is also so under limits that count prompts and answers apart, since the leaf is made for a request
    /// of unknown parts.
    pub(crate) understates: bool,
    /// Whether the member is in service, not on probation, and not reported unhealthy.
    pub(crate) is_well: bool,
    // Numbers without `Option`: every renewal writes and reads them.
    /// When time alone changes the candidate; [`Nanos::MAX`] if it does not.
    pub(crate) changes_at: Nanos,
    /// When time alone changes the tokens that are left; [`Nanos::MAX`] if it does not.
    pub(crate) refills_at: Nanos,
    /// The count of the group's picks at which the member is a candidate again. It is the largest number if
    /// the member is a candidate now, and 0 if it is in no slow start.
    pub(crate) due_pick: u64,
}

impl<L> Leaf<L> {
    /// Makes the leaf of a member that a gate stops, until some time; [`Nanos::MAX`] if none is known.
    pub(crate) fn stopped(until: Nanos) -> Self {
        Self {
            candidate: None,
            tokens: 0,
            understates: false,
            is_well: false,
            changes_at: until,
            refills_at: Nanos::MAX,
            due_pick: 0,
        }
    }
}
