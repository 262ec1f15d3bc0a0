//! Options for what a router does beside picking.

use crate::base::time::{Nanos, SECOND};

/// Options for what a router learns from providers.
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
    /// Whether limits are taken from the headers of exceptions.
    pub headers: bool,
    /// Whether a cap on requests in flight is learnt from refusals. It is learnt only where no limit is
    /// configured.
    pub concurrency: bool,
    /// The longest wait that is accepted from a provider, in nanoseconds.
    pub longest_wait: Nanos,
}

impl Default for Learning {
    fn default() -> Self {
        Self { headers: true, concurrency: true, longest_wait: 7 * 86_400 * SECOND }
    }
}

/// How many requests may wait, and how long they let others go first.
///
/// ```
/// assert_eq!(turnout::Waiting::default().max_waiters, 10_000);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// The most requests that wait for one model name.
    pub max_waiters: usize,
    /// How long the first waiter of those with the same wishes lets others take the tokens and requests that
    /// it lacks, in nanoseconds. Then it reserves them.
    pub patience: Nanos,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { max_waiters: 10_000, patience: SECOND }
    }
}
