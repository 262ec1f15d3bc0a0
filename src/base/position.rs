//! A member's place in its group.

/// A member's place in its group, counted in registration order.
pub(crate) type Position = u32;

/// The position of an entry whose place still belongs to another entry. Such an entry has no leaf until the
/// index of its group is rebuilt.
pub(crate) const NOWHERE: Position = Position::MAX;
