//! A `DashMap` for tests of schedules. It has the methods that are used, over locks that the scheduler knows.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

use rustc_hash::FxBuildHasher;
use shuttle_dashmap::DashMap;
use shuttle_dashmap::mapref::{
    entry::Entry,
    multiple::{RefMulti, RefMutMulti},
    one::Ref,
};

const SHARDS: usize = 4;

/// `shuttle_dashmap` has one lock for all keys. Under it no pick from one group could run beside a change of
/// another group. Several such maps are shards, like those of the map that they stand for.
#[derive(Debug)]
pub(crate) struct Map<K: Eq + Hash, V>([DashMap<K, V>; SHARDS]);

impl<K: Eq + Hash, V> Default for Map<K, V> {
    fn default() -> Self {
        Self(Default::default())
    }
}

impl<K: Eq + Hash + Clone, V> Map<K, V> {
    #[allow(clippy::cast_possible_truncation, clippy::indexing_slicing)] // a remainder
    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &DashMap<K, V> {
        &self.0[FxBuildHasher.hash_one(key) as usize % SHARDS]
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(DashMap::len).sum()
    }

    pub(crate) fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.shard(key).contains_key(key)
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<Ref<'_, K, V>>
    where
        K: Borrow<Q>,
    {
        self.shard(key).get(key)
    }

    pub(crate) fn entry(&self, key: K) -> Entry<'_, K, V> {
        self.shard(&key).entry(key)
    }

    pub(crate) fn insert(&self, key: K, value: V) -> Option<V> {
        self.shard(&key).insert(key, value)
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        self.shard(key).remove(key)
    }

    pub(crate) fn remove_if_mut<Q: Hash + Eq + ?Sized>(&self, key: &Q, gone: impl FnOnce(&K, &mut V) -> bool) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        self.shard(key).remove_if_mut(key, gone)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = RefMulti<'_, K, V>> {
        self.0.iter().flat_map(DashMap::iter)
    }

    pub(crate) fn iter_mut(&self) -> impl Iterator<Item = RefMutMulti<'_, K, V>> {
        self.0.iter().flat_map(DashMap::iter_mut)
    }
}

impl<'a, K: Eq + Hash + Clone, V> IntoIterator for &'a Map<K, V> {
    type Item = RefMulti<'a, K, V>;
    type IntoIter = Box<dyn Iterator<Item = RefMulti<'a, K, V>> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}
