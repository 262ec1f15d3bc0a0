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
