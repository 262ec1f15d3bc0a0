//! The deployments by their ids.

use std::ops::Deref;
use std::sync::Arc;

use crate::base::clock::Now;
use crate::base::fork::Forks;
use crate::base::sync::Map;
use crate::base::time::Nanos;
use crate::group::{Attachment, Entry};
use crate::limits::Hears;

/// The deployments by their ids. They are shared, so that a forked child can put them in order.
#[derive(Debug)]
pub(super) struct ById<T: Attachment>(Map<Arc<str>, Arc<Entry<T>>>);

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

impl<T: Attachment> Hears for ById<T> {
    fn freed(&self, owners: &[Arc<str>], at: Nanos) {
        let mut bell = None;
        for owner in owners {
            if let Some(entry) = owner.strip_prefix("d/").and_then(|id| self.get(id).map(|entry| Arc::clone(&entry))) {
                entry.renew(&Now::at(&entry.services.clock, at));
                entry.finish();
            } else {
                // A quota: any deployment under it may be free.
                bell = bell.or_else(|| self.iter().next().map(|entry| Arc::clone(&entry.services)));
            }
        }
        if let Some(services) = bell.filter(|services| services.bell.is_waited_at()) {
            services.bell.ring(|room| room.wake_all());
        }
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
