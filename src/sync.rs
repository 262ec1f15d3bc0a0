//! What threads share: locks, atomics and maps. A build that tries out schedules puts others in their place.

pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

/// A map that many threads read and change at once.
pub(crate) type Map<K, V> = dashmap::DashMap<K, V, rustc_hash::FxBuildHasher>;
