//! What a router does beside picking.

use crate::base::time::{Nanos, SECOND};

/// What a router learns from providers.
///
/// ```
/// use turnout::{Learning, Router, Settings};
///
/// let learning = Learning { concurrency: false, ..Learning::default() };
/// let router: Router<()> = Router::new(Settings { learning, ..Settings::default() })?;
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learning {
    /// Take limits from the headers of exceptions.
    pub headers: bool,
    /// Learn a cap on what is in flight from refusals, where nothing is configured.
    pub concurrency: bool,
    /// The longest wait that is taken from a provider, in nanoseconds.
    pub longest_wait: Nanos,
}

impl Default for Learning {
    fn default() -> Self {
        Self { headers: true, concurrency: true, longest_wait: 7 * 86_400 * SECOND }
    }
}

/// How many requests may wait.
///
/// ```
/// assert_eq!(turnout::Waiting::default().max_waiters, 10_000);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// The most requests that wait for one model name.
    pub max_waiters: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { max_waiters: 10_000 }
    }
}
