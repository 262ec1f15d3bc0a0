//! What threads share: locks, atomics and maps. A build that tries out schedules puts others in their place.
//!
//! Statics and cells that are filled once are the standard library's in any build: nothing waits or is decided there.

#[cfg(shuttle)]
mod schedules;

#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
#[cfg(shuttle)]
pub(crate) use {
    schedules::Map,
    shuttle::sync::{Mutex, MutexGuard, atomic},
};

/// A map that many threads read and change at once.
#[cfg(not(shuttle))]
pub(crate) type Map<K, V> = dashmap::DashMap<K, V, rustc_hash::FxBuildHasher>;

/// A map in which every pick looks something up: of so many shards that picks of two keys seldom take turns at the lock of one.
#[cfg(not(shuttle))]
pub(crate) fn busy_map<K: Eq + std::hash::Hash, V>() -> Map<K, V> {
    const SHARDS: usize = 64;
    Map::with_capacity_and_hasher_and_shard_amount(0, rustc_hash::FxBuildHasher, SHARDS)
}

#[cfg(shuttle)]
pub(crate) fn busy_map<K: Eq + std::hash::Hash, V>() -> Map<K, V> {
    Map::default()
}
