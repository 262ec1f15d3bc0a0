//! What a router does with what a shared store has told it.

use std::sync::Arc;

use crate::base::clock::Now;
use crate::base::events::{Event, EventKind, Events};
use crate::base::time::Nanos;
use crate::group::{Attachment, Entry};
use crate::limits::{Heard, Hears, Share};
use crate::registry::ById;

/// Renews deployments, and takes over what other processes have told of them.
#[derive(Debug)]
pub(crate) struct Ears<T: Attachment> {
    deployments: Arc<ById<T>>,
    events: Arc<Events>,
}

impl<T: Attachment> Ears<T> {
    pub(crate) fn new(deployments: &Arc<ById<T>>, events: &Arc<Events>) -> Self {
        Self { deployments: Arc::clone(deployments), events: Arc::clone(events) }
    }

    fn deployment(&self, owner: &str) -> Option<Arc<Entry<T>>> {
        self.deployments.get(owner.strip_prefix("d/")?).map(|entry| Arc::clone(&entry))
    }

    /// Returns a deployment that is under a quota, and the number of the quota there.
    fn under_quota(&self, owner: &str) -> Option<(Arc<Entry<T>>, usize)> {
        let id = owner.strip_prefix("q/")?;
        self.deployments.iter().find_map(|entry| {
            let nth = entry.metering.as_ref()?.quotas().iter().position(|ledger| ledger.quota().id() == id)?;
            Some((Arc::clone(&entry), nth))
        })
    }
}

impl<T: Attachment> Hears for Ears<T> {
    fn freed(&self, owners: &[Arc<str>], at: Nanos) {
        let mut under = None;
        for owner in owners {
            if let Some(entry) = self.deployment(owner) {
                entry.renew(&Now::at(&entry.services.clock, at));
                entry.finish();
            } else {
                under = under.or_else(|| self.under_quota(owner));
            }
        }
        // A quota: any deployment under it may be free.
        if let Some((entry, _)) = under.filter(|(entry, _)| entry.services.bell.is_waited_at()) {
            entry.services.bell.ring(|room| room.wake_all());
        }
    }

    fn heard(&self, share: &Share, heard: Heard, at: Nanos) {
        let told = share.in_router_time(heard);
        if let Some(entry) = self.deployment(share.owner()) {
            entry.hear_of_it(told, at);
        } else if let Some((entry, nth)) = self.under_quota(share.owner()) {
            entry.hear_of_quota(nth, told, at);
        }
    }

    fn store(&self, is_lost: bool, at: Nanos) {
        let (kind, detail) = if is_lost {
            (EventKind::StoreLost, "the shared store does not answer")
        } else {
            (EventKind::StoreBack, "the shared store answers again")
        };
        self.events.note(|| Event { kind, deployment_id: None, model_name: "".into(), at, detail: detail.to_owned() });
        self.events.deliver();
    }
}
