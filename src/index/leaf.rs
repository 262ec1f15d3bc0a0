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
    /// When time alone changes the candidate; None if it does not.
    pub(crate) changes_at: Option<Nanos>,
    /// When time alone changes the tokens that are left; None if it does not.
    pub(crate) refills_at: Option<Nanos>,
    /// The count of the group's picks at which the member is a candidate again. It is the largest number if
    /// the member is a candidate now, and None if it is in no slow start.
    pub(crate) due_pick: Option<u64>,
}

impl<L> Leaf<L> {
    /// Makes the leaf of a member that a gate stops, until some time.
    pub(crate) fn stopped(until: Option<Nanos>) -> Self {
        Self { candidate: None, tokens: 0, understates: false, changes_at: until, refills_at: None, due_pick: None }
    }
}
