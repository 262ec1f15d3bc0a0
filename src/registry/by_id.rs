//! The deployments by their ids.

use std::ops::Deref;
use std::sync::Arc;

use crate::base::clock::Now;
use crate::base::fork::Forks;
use crate::base::sync::Map;
use crate::group::{Attachment, Entry};

/// The deployments by their ids. They are shared, so that a forked child can put them in order.
#[derive(Debug)]
pub(crate) struct ById<T: Attachment>(Map<Arc<str>, Arc<Entry<T>>>);

impl<T: Attachment> Default for ById<T> {
    fn default() -> Self {
        Self(Map::default())
    }
}

impl<T: Attachment> Deref for ById<T> {
    type Target = Map<Arc<str>, Arc<Entry<T>>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T: Attachment> Forks for ById<T> {
    fn after_fork(&self) {
        for entry in self.iter() {
            entry.slot.after_fork(&entry.slot.hold());
            entry.renew(&Now::new(&entry.services.clock));
        }
    }
}
