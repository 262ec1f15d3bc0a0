//! Types that threads share: locks, atomics and maps. A build that tries out schedules puts others in their
//! place.
//!
//! Statics and cells that are filled once come from the standard library in any build: no thread waits for
//! them, and the result does not depend on which thread fills them.

#[cfg(shuttle)]
mod schedules;

#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
#[cfg(shuttle)]
pub(crate) use {
    schedules::Map,
    shuttle::sync::{Mutex, MutexGuard, atomic},
};

/// Locks a mutex. A thread that panicked under the lock does not stop others: every owner keeps its value
/// whole at each step.
#[inline]
pub(crate) fn hold<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A map that many threads read and change at once.
#[cfg(not(shuttle))]
pub(crate) type Map<K, V> = dashmap::DashMap<K, V, rustc_hash::FxBuildHasher>;

/// Makes a map in which every pick looks something up. It has many shards, so that picks of two keys seldom
/// wait for each other.
#[cfg(not(shuttle))]
pub(crate) fn busy_map<K: Eq + std::hash::Hash, V>() -> Map<K, V> {
    const SHARDS: usize = 64;
    Map::with_capacity_and_hasher_and_shard_amount(0, rustc_hash::FxBuildHasher, SHARDS)
}

#[cfg(shuttle)]
pub(crate) fn busy_map<K: Eq + std::hash::Hash, V>() -> Map<K, V> {
    Map::default()
}
