//! A leaf of an index: what a pick without wishes makes of a member.

use crate::base::time::Nanos;

/// What a pick without wishes makes of a member, and how long that holds.
#[derive(Debug)]
pub(crate) struct Leaf<L> {
    /// None if a gate stops it.
    pub(crate) candidate: Option<L>,
    /// The tokens it has left; 0 if a gate stops it.
    pub(crate) tokens: u64,
    /// Whether the leaf is only a lower bound: some requests may find more tokens left, or pass where this
    /// says that a gate stops the member. That is so under a bucket that refills all the time, and under
    /// limits that count prompts and answers apart: the leaf is made for a request whose parts are not known.
    pub(crate) understates: bool,
    /// When time alone changes the candidate; None if it does not.
    pub(crate) changes_at: Option<Nanos>,
    /// When time alone changes the tokens that are left; None if it does not.
    pub(crate) refills_at: Option<Nanos>,
    /// After how many picks of the group it is a candidate again: the largest number if it is one, None if it
    /// is in no slow start.
    pub(crate) due_pick: Option<u64>,
}

impl<L> Leaf<L> {
    /// Makes the leaf of a member that a gate stops, until some time.
    pub(crate) fn stopped(until: Option<Nanos>) -> Self {
        Self { candidate: None, tokens: 0, understates: false, changes_at: until, refills_at: None, due_pick: None }
    }
}
