//! Which tags the members of a group have.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::facts::{Deployment, Request, Wishes};

/// How many members have each tag.
#[derive(Debug, Default)]
pub(super) struct Tags(FxHashMap<Arc<str>, u32>);

impl Tags {
    pub(super) fn enter(&mut self, deployment: &Deployment) {
        for tag in deployment.tags() {
            *self.0.entry(Arc::clone(tag)).or_default() += 1;
        }
    }

    pub(super) fn leave(&mut self, deployment: &Deployment) {
        for tag in deployment.tags() {
            if let Some(count) = self.0.get_mut(tag) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(tag);
                }
            }
        }
    }

    pub(super) fn has(&self, tag: &str) -> bool {
        self.0.contains_key(tag)
    }

    /// Returns whether a member may have the tags that a request asks for, as far as the counts tell.
    pub(super) fn may_serve(&self, wishes: &Wishes) -> bool {
        let mut tags = wishes.tags.iter();
        if wishes.any_tag { tags.any(|tag| self.has(tag)) } else { tags.all(|tag| self.has(tag)) }
    }
}

/// Returns a request that asks for one tag in place of its own.
pub(super) fn asks_for(request: &Request, tag: &str) -> Request {
    let mut request = request.clone();
    let wishes = request.wishes.get_or_insert_default();
    wishes.by_default = Some(std::mem::replace(&mut wishes.tags, vec![tag.to_owned()]));
    request
}
