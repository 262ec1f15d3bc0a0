//! The replacement of all deployments: a preparation that may fail, and a commit that may not.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::ledgers::{must_agree, take_over};
use super::{Belongings, Changes, Inheritance, Newcomer, Registry};
use crate::base::error::Error;
use crate::base::position::NOWHERE;
use crate::facts::Deployment;
use crate::group::{Attachment, Entry, Group, Places, Removed};
use crate::index::{Index, Place};
use crate::limits::Quota;

/// The plan of a replacement. Nothing is changed yet.
struct Plan<T> {
    /// One for each deployment, in their order.
    parts: Vec<Part<T>>,
    /// The ids of all deployments that will be registered.
    ids: FxHashSet<Arc<str>>,
}

/// What one deployment takes over.
struct Part<T> {
    /// The entry with the same id, which the deployment replaces.
    old: Option<Arc<Entry<T>>>,
    inheritance: Inheritance<T>,
    /// Whether it joins a group in which others stay, and so may start slowly.
    joins: bool,
}

impl<T: Attachment> Registry<T> {
    /// Replaces all deployments. Ids that stay keep their state. On success none of the newcomers is left.
    ///
    /// # Errors
    /// If an id is given twice, a model name is an alias, or a quota has several meanings. Nothing is changed
    /// then. The newcomers stay with the caller: an attachment may run anything when it is dropped.
    pub(crate) fn replace_all(&self, newcomers: &mut Vec<Newcomer<T>>) -> Result<Removed<T>, Error> {
        let mut changes = self.change();
        let plan = self.plan(newcomers)?;
        Ok(self.commit(newcomers.drain(..), plan, &mut changes))
    }

    /// Checks the deployments and finds out what each of them replaces.
    fn plan(&self, newcomers: &[Newcomer<T>]) -> Result<Plan<T>, Error> {
        let deployments = || newcomers.iter().map(|newcomer| &newcomer.deployment);
        let ids = self.check(deployments())?;
        let old = |deployment: &Deployment| self.deployments.get(deployment.id()).map(|old| Arc::clone(&old));
        let stays = |deployment: &Deployment, old: &Option<Arc<Entry<T>>>| {
            old.as_ref().is_some_and(|old| old.deployment.model_name() == deployment.model_name())
        };
        let staying = deployments().filter(|deployment| stays(deployment, &old(deployment)));
        let staying: FxHashSet<_> = staying.map(|deployment| Arc::clone(deployment.shared_model_name())).collect();
        let parts = deployments().map(|deployment| {
            let old = old(deployment);
            let inheritance = self.inherit(old.as_deref())?;
            let joins = !stays(deployment, &old) && staying.contains(deployment.shared_model_name());
            Ok(Part { old, inheritance, joins })
        });
        Ok(Plan { parts: parts.collect::<Result<_, Error>>()?, ids })
    }

    /// Checks the deployments by themselves. Returns their ids.
    fn check<'a>(&self, deployments: impl Iterator<Item = &'a Deployment>) -> Result<FxHashSet<Arc<str>>, Error> {
        let mut ids = FxHashSet::default();
        let mut quotas: FxHashMap<&str, (&Quota, &str)> = FxHashMap::default();
        for deployment in deployments {
            self.must_not_be_alias(deployment)?;
            if !ids.insert(Arc::clone(deployment.shared_id())) {
                return Err(Error::Configuration(format!("the id {:?} is given twice: ids must be unique", deployment.id())));
            }
            for quota in deployment.quotas() {
                let (known, user) = *quotas.entry(quota.id()).or_insert((quota, deployment.id()));
                must_agree(known, user, quota, deployment.id())?;
            }
        }
        Ok(ids)
    }

    /// Does what a plan says.
    fn commit(&self, newcomers: impl Iterator<Item = Newcomer<T>>, plan: Plan<T>, changes: &mut Changes) -> Removed<T> {
        let mut removed = Removed::default();
        let groups = self.register(newcomers.zip(plan.parts), changes, &mut removed);
        let gone = self.deployments.iter().map(|entry| Arc::clone(entry.key())).filter(|id| !plan.ids.contains(id));
        for id in gone.collect::<Vec<_>>() {
            if let Some((_, entry)) = self.deployments.remove(&id) {
                entry.leave(&entry.slot.hold(), None);
                removed.entries.push(entry);
            }
        }
        // Lock every index once. A thread that changed counters of an old entry without seeing that it has
        // left has then finished, and the rebuilding below sees its change.
        for group in &self.groups {
            drop(group.index.lock());
        }
        let models: FxHashSet<Arc<str>> = groups.keys().cloned().collect();
        for (model_name, (index, places)) in groups {
            let order = self.order_of(&model_name);
            let mut group = self.groups.entry(model_name).or_insert_with(|| Group::new(order, index));
            group.replace_all(places, &self.services.clock, &mut removed);
            self.patterns.note(group.key(), true);
        }
        let gone = self.groups.iter().map(|group| Arc::clone(group.key())).filter(|name| !models.contains(name));
        for name in gone.collect::<Vec<_>>() {
            if let Some((_, group)) = self.groups.remove(&name) {
                group.take_all(&mut removed);
                self.patterns.note(&name, false);
            }
        }
        removed
    }

    /// Registers deployments by their ids. Returns the places that they will have in their groups.
    fn register(
        &self,
        newcomers: impl Iterator<Item = (Newcomer<T>, Part<T>)>,
        changes: &mut Changes,
        removed: &mut Removed<T>,
    ) -> FxHashMap<Arc<str>, (Arc<Index>, Places<T>)> {
        let mut groups: FxHashMap<Arc<str>, (Arc<Index>, Places<T>)> = FxHashMap::default();
        for (Newcomer { deployment, attachment, id }, Part { old, inheritance, joins }) in newcomers {
            let (index, places) = groups.entry(Arc::clone(deployment.shared_model_name())).or_insert_with_key(|model_name| {
                let index = self.groups.get(model_name).map(|group| Arc::clone(&group.index));
                (index.unwrap_or_else(|| self.index(model_name)), Places::new())
            });
            let metering = changes.ledgers.metering(&deployment, old.as_deref(), &self.services);
            let belongings = Belongings { inheritance, metering, place: Place::new(NOWHERE), order: changes.next_order() };
            let entry = self.entry(deployment, attachment, index, belongings);
            places.push(&entry, id);
            if let Some(old) = old {
                take_over(&old, &entry, &self.services.clock);
                removed.entries.push(old);
            }
            if joins {
                entry.join();
            }
            removed.entries.extend(self.deployments.insert(Arc::clone(entry.deployment.shared_id()), entry));
        }
        groups
    }
}
