//! How a router shares limits with other routers.

mod ears;
mod memory;

use std::sync::Arc;

use crate::base::clock::Clock;
use crate::base::time::{Nanos, SECOND};
use crate::limits::{Desk, OnLoss, Terms};
use crate::stores::Identity;

pub(crate) use ears::Ears;
pub use memory::Memory;

/// How a router shares limits with other routers.
///
/// See the example of [`Memory`].
#[derive(Debug, Clone)]
pub struct Sharing {
    pub(crate) terms: Terms,
    pub(crate) on_loss: OnLoss,
    /// How long a request waits for an answer of the store, if it does not want to wait for capacity.
    pub(crate) patience: Nanos,
    /// The store, if it is in memory. Other stores are asked by a thread of the application.
    pub(crate) memory: Option<Arc<Memory>>,
}

impl Sharing {
    /// Shares limits through a store in memory.
    #[must_use]
    pub fn through(memory: Arc<Memory>) -> Self {
        Self { memory: Some(memory), ..Self::default() }
    }

    /// Makes the desk of a router with this clock.
    pub(crate) fn desk(&self, clock: Clock) -> Arc<Desk> {
        let desk = Desk::new(clock, self.terms, self.on_loss, process_name);
        if let Some(memory) = &self.memory {
            memory.enter(&desk);
        }
        desk
    }
}

impl Default for Sharing {
    fn default() -> Self {
        let terms = Terms { ttl: 10 * SECOND, busy_for: 60 * SECOND, horizon: SECOND / 4 };
        Self { terms, on_loss: OnLoss::Share, patience: SECOND / 20, memory: None }
    }
}

/// Returns a new name for this process.
fn process_name() -> String {
    Identity::find().new_name()
}

#[cfg(test)]
mod endure;
#[cfg(test)]
mod tests;
