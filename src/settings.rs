//! How a router is set up.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::base::clock::Clock;
use crate::facts::{Learning, Waiting};
use crate::health::Rules;
use crate::strategy::Strategy;

/// How a router is set up.
///
/// ```
/// use turnout::{Router, Settings, Strategy};
///
/// let router: Router<()> = Router::new(Settings { seed: Some(1), ..Settings::default() })?;
/// assert_eq!(router.strategy(), Strategy::SimpleShuffle);
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The rule for every model name that `strategies` does not name.
    pub strategy: Strategy,
    /// Rules for single model names.
    pub strategies: FxHashMap<Arc<str>, Strategy>,
    /// When deployments cool down and come back.
    pub health: Rules,
    /// What is learnt from providers.
    pub learning: Learning,
    /// How many may wait for capacity.
    pub waiting: Waiting,
    /// Makes the random draws repeatable; None seeds from the system.
    pub seed: Option<u64>,
    /// Where the time comes from.
    pub clock: Clock,
}
