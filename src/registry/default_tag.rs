//! The tag of the deployments that serve requests without tags.

use std::sync::Arc;

use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{Mutex, hold};

/// The default tag of a router; most routers have none.
#[derive(Debug, Default)]
pub(super) struct DefaultTag {
    tag: Mutex<Option<Arc<str>>>,
    /// Whether there is one, for a look without a lock.
    is_set: AtomicBool,
}

impl DefaultTag {
    pub(super) fn new(tag: Option<Arc<str>>) -> Self {
        let default = Self::default();
        default.set(tag);
        default
    }

    pub(super) fn set(&self, tag: Option<Arc<str>>) {
        let mut kept = hold(&self.tag);
        self.is_set.store(tag.is_some(), Ordering::Relaxed);
        *kept = tag;
    }

    #[inline]
    pub(super) fn get(&self) -> Option<Arc<str>> {
        if self.is_set.load(Ordering::Relaxed) { hold(&self.tag).clone() } else { None }
    }
}
