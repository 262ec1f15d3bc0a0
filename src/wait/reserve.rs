//! The reservations of impatient heads, as a look finds them.
//!
//! A head that lacks tokens or requests of a limit of a deployment reserves that deployment. If it lacks
//! those of a quota, it reserves all deployments under that quota, also those of other model names: what they
//! take is taken from it too.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::line::{Key, Line, Reserved};
use crate::base::error::{Error, Reasons, Unavailable};
use crate::base::gate::Gate;
use crate::base::time::{Nanos, seconds};
use crate::facts::{Request, Wishes};
use crate::gates::Lacks;
use crate::group::Attachment;
use crate::lease::Lease;
use crate::pick::{Picker, Under};

/// The most heads of a line that reserve. Each costs the requests behind it a little.
const MOST: usize = 8;

/// What requests must leave to those before them.
pub(super) struct Reservations {
    /// The claims of other lines to quotas, in order; those that were looked at are taken out.
    claims: Vec<(Key, u64)>,
    /// The heads before this place have been looked at.
    to: Option<Key>,
    /// How many heads have reserved.
    made: usize,
    ids: FxHashSet<Arc<str>>,
    /// The same ids, each with the gate that stopped the one who reserved it.
    excluded: Vec<(Arc<str>, Gate)>,
    /// The quotas that are reserved, by their serial numbers.
    quotas: Vec<u64>,
    /// How many deployments the group has, if all of them are reserved.
    all: Option<usize>,
    /// When the first who has reserved may be served, if that is known.
    until: Option<Nanos>,
}

impl Reservations {
    /// Begins without reservations. `claims` are those of other lines.
    pub(super) fn new(mut claims: Vec<(Key, u64)>) -> Self {
        claims.sort_unstable_by(|one, other| other.cmp(one));
        Self {
            claims,
            to: None,
            made: 0,
            ids: FxHashSet::default(),
            excluded: Vec::new(),
            quotas: Vec::new(),
            all: None,
            until: None,
        }
    }

    /// Adds what those before a place in line reserve. Those before an earlier place have been added.
    pub(super) fn reach<T: Attachment>(&mut self, picker: &Picker<T>, line: &mut Line, key: Key, model_name: &str, now: Nanos) {
        while let Some((_, quota)) = self.claims.pop_if(|&mut (claims, _)| claims < key) {
            self.add_quota(picker, model_name, quota);
        }
        if self.made < MOST {
            for impatient in line.impatient(self.to, key, now).take(MOST - self.made).collect::<Vec<_>>() {
                if self.all.is_some() {
                    break; // nothing is left to reserve
                }
                if let Some(reserved) = self.reservation(picker, line, (impatient, now), model_name) {
                    self.made += 1;
                    self.until = self.until.into_iter().chain(line.retry_at(impatient)).min();
                    match reserved.lacks {
                        Lacks::Own => self.add(reserved.id, reserved.gate),
                        Lacks::Quota(quota) => self.add_quota(picker, model_name, quota),
                    }
                }
            }
        }
        self.to = Some(key);
    }

    /// Returns what a head reserves beside what is reserved already.
    fn reservation<T: Attachment>(
        &self,
        picker: &Picker<T>,
        line: &mut Line,
        (key, now): (Key, Nanos),
        model_name: &str,
    ) -> Option<Reserved> {
        let head = line.head(key)?;
        if let Some(reserved) = head.reserved.as_ref().filter(|reserved| {
            let is_free = match reserved.lacks {
                Lacks::Own => !self.ids.contains(&reserved.id),
                Lacks::Quota(quota) => !self.quotas.contains(&quota),
            };
            is_free && picker.is_lacking(&reserved.id, &head.request, now)
        }) {
            return Some(reserved.clone());
        }
        let found = picker.first_to_suffice(model_name, &head.request, &self.ids, now);
        let reserved = found.map(|(id, gate, lacks)| Reserved { id, gate, lacks });
        line.reserve(key, reserved.clone());
        reserved
    }

    fn add(&mut self, id: Arc<str>, gate: Gate) {
        if self.ids.insert(Arc::clone(&id)) {
            self.excluded.push((id, gate));
        }
    }

    fn add_quota<T: Attachment>(&mut self, picker: &Picker<T>, model_name: &str, quota: u64) {
        if !self.quotas.contains(&quota) {
            self.quotas.push(quota);
            match picker.under_quota(model_name, quota) {
                Under::All(len) => self.all = Some(len),
                Under::Some(ids) => ids.into_iter().for_each(|id| self.add(id, Gate::Quota)),
            }
        }
    }

    /// Returns the quotas that are reserved. A request that they stop waits for them.
    pub(super) fn quotas(&self) -> impl Iterator<Item = u64> {
        self.quotas.iter().copied()
    }

    /// Acquires from the deployments that are not reserved. In a refusal, a reserved deployment counts for
    /// the gate that stopped the one who has reserved it.
    pub(super) fn acquire<T: Attachment>(
        &self,
        picker: &Picker<T>,
        model_name: &Arc<str>,
        request: &Request,
        now: Nanos,
    ) -> Result<Lease<T>, Error> {
        if let Some(len) = self.all {
            let mut reasons = Reasons::default();
            reasons.add(Gate::Quota, len);
            return Err(Error::NoAvailableDeployment(Box::new(Unavailable {
                model_name: Arc::clone(model_name),
                retry_after: self.until.map(|until| seconds(until.saturating_sub(now))),
                retry_at: self.until,
                is_asked_for: false,
                reasons,
            })));
        }
        if self.excluded.is_empty() {
            return picker.acquire(model_name, request);
        }
        let mut narrowed = request.clone();
        let wishes = narrowed.wishes.get_or_insert_default();
        let added: Vec<_> = self.excluded.iter().filter(|(id, _)| wishes.exclude.insert((**id).to_owned())).collect();
        picker.acquire(model_name, &narrowed).map_err(|mut error| {
            if let Error::NoAvailableDeployment(unavailable) = &mut error {
                let allows = |wishes: &Wishes, id: &str| {
                    picker.registry.get(id).is_ok_and(|entry| wishes.allows(id, entry.deployment().labels()))
                };
                let is_wished = |id: &str| request.wishes.as_ref().is_none_or(|wishes| allows(wishes, id));
                for (_, gate) in added.into_iter().filter(|(id, _)| is_wished(id)) {
                    unavailable.reasons.recount(Gate::Excluded, *gate);
                }
                if unavailable.retry_at.is_none()
                    && let Some(until) = self.until
                {
                    unavailable.retry_at = Some(until);
                    unavailable.retry_after = Some(seconds(until.saturating_sub(now)));
                }
            }
            error
        })
    }
}
