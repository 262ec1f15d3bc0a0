//! All blocks of a router, and the slots that own them.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use super::block::State;
use crate::base::sync::atomic::Ordering;
use crate::base::sync::{Mutex, hold};

/// Blocks come in chunks, each twice the size of the one before, so that a block never moves.
const FIRST_CHUNK_BITS: u32 = 4;
const CHUNKS: usize = (u32::BITS - FIRST_CHUNK_BITS) as usize;

/// All blocks of a router.
#[derive(Debug)]
pub(crate) struct StateTable {
    chunks: [OnceLock<Box<[State]>>; CHUNKS],
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// Blocks that were used before.
    returned: Vec<u32>,
    /// The first block that was never used.
    next: u32,
}

impl StateTable {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { chunks: [const { OnceLock::new() }; CHUNKS], free: Mutex::default() })
    }

    /// Hands out a block with nothing counted in it; None when nearly 2^32 are in use.
    pub(crate) fn claim(self: &Arc<Self>) -> Option<Slot> {
        let index = {
            let mut free = hold(&self.free);
            if let Some(index) = free.returned.pop() {
                index
            } else {
                let index = free.next;
                free.next = index.checked_add(1).filter(|_| locate(index).0 < CHUNKS)?;
                index
            }
        };
        let slot = Slot { table: Arc::clone(self), index };
        slot.clear();
        slot.owners.store(1, Ordering::Relaxed);
        Some(slot)
    }

    /// Returns false if it never had nearly this many blocks in use.
    #[cfg(feature = "python")]
    pub(crate) fn may_have(&self, blocks: u32) -> bool {
        self.chunks.get(locate(blocks).0).is_some_and(|chunk| chunk.get().is_some())
    }

    /// Returns the block of a slot with this index.
    #[inline]
    #[allow(clippy::indexing_slicing)] // `claim` hands out no index beyond the chunks
    pub(crate) fn get(&self, index: u32) -> &State {
        let (chunk, offset) = locate(index);
        let states = self.chunks[chunk].get_or_init(|| {
            let size = 1_usize << (u32::try_from(chunk).unwrap_or(0) + FIRST_CHUNK_BITS);
            (0..size).map(|_| State::default()).collect()
        });
        &states[offset]
    }
}

/// Returns where a block is: its chunk and its place there.
#[inline]
fn locate(index: u32) -> (usize, usize) {
    let from_first = u64::from(index) + (1 << FIRST_CHUNK_BITS);
    let bits = from_first.ilog2();
    #[allow(clippy::cast_possible_truncation)] // below 2^32
    ((bits - FIRST_CHUNK_BITS) as usize, (from_first - (1 << bits)) as usize)
}

/// Owns a block together with its clones. The last of them to be dropped returns the block to the table.
#[derive(Debug)]
pub(crate) struct Slot {
    table: Arc<StateTable>,
    index: u32,
}

impl Slot {
    pub(crate) fn index(&self) -> u32 {
        self.index
    }
}

impl Deref for Slot {
    type Target = State;

    #[inline]
    fn deref(&self) -> &State {
        self.table.get(self.index)
    }
}

impl Clone for Slot {
    fn clone(&self) -> Self {
        self.owners.fetch_add(1, Ordering::Relaxed);
        Self { table: Arc::clone(&self.table), index: self.index }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Release and acquire, as for any reference count: all that the owners wrote comes before the block
        // is used again.
        if self.owners.fetch_sub(1, Ordering::AcqRel) == 1 {
            hold(&self.table.free).returned.push(self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_distinct_and_come_back_empty() {
        let table = StateTable::new();
        let slots: Vec<_> = (0..1000).map(|_| table.claim().unwrap()).collect();
        let mut indexes: Vec<_> = slots.iter().map(|slot| slot.index).collect();
        indexes.dedup();
        assert_eq!(indexes.len(), 1000);
        slots[7].reserve(&slots[7].hold(), 0, 5);
        assert!(slots.iter().enumerate().all(|(i, slot)| slot.in_flight() == u32::from(i == 7)));
        let clone = slots[7].clone();
        drop(slots);
        assert_eq!(clone.in_flight(), 1);
        drop(clone);
        let again: Vec<_> = (0..1000).map(|_| table.claim().unwrap()).collect();
        assert!(again.iter().all(|slot| slot.in_flight() == 0 && slot.index < 1000));
    }

    #[test]
    fn places_are_dense() {
        assert_eq!(locate(0), (0, 0));
        assert_eq!(locate(15), (0, 15));
        assert_eq!(locate(16), (1, 0));
        assert_eq!(locate(47), (1, 31));
        assert_eq!(locate(48), (2, 0));
        assert_eq!(locate(u32::MAX - 16).0, CHUNKS - 1);
        assert_eq!(locate(u32::MAX).0, CHUNKS);
    }
}
