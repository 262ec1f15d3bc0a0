//! A deployment on its way into the registry.

use crate::facts::Deployment;
use crate::group::Attachment;

/// A deployment that is to be registered, with its attachment and the id that a select will hand out.
///
/// The id is made here, before any lock is taken. An attachment may need a lock of another owner for it, such
/// as Python's GIL, and a thread that holds that lock may be waiting for one of ours.
pub(crate) struct Newcomer<T: Attachment> {
    pub(super) deployment: Deployment,
    pub(super) attachment: T,
    pub(super) id: T::Id,
}

impl<T: Attachment> Newcomer<T> {
    pub(crate) fn new(deployment: Deployment, attachment: T) -> Self {
        Self { id: attachment.id(&deployment), deployment, attachment }
    }
}
