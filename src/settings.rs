//! The settings of a new router.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::base::clock::Clock;
use crate::facts::{Learning, Waiting};
use crate::health::Rules;
use crate::sharing::Sharing;
use crate::strategy::Strategy;

/// The settings of a new router.
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
    /// The strategy of every model name that `strategies` does not name.
    pub strategy: Strategy,
    /// The strategies of single model names.
    pub strategies: FxHashMap<Arc<str>, Strategy>,
    /// Whether the strategies pick among the candidates of the lowest priority only.
    pub tiers: bool,
    /// The tag of the deployments that serve requests without tags, and those whose tags no deployment of the
    /// group has. It counts in groups that have such a deployment. None for no such tag.
    pub default_tag: Option<Arc<str>>,
    /// The rules by which deployments cool down and come back.
    pub health: Rules,
    /// The options for what is learnt from providers.
    pub learning: Learning,
    /// How many requests may wait for capacity.
    pub waiting: Waiting,
    /// A seed that makes the random draws repeatable; None seeds from the system.
    pub seed: Option<u64>,
    /// The source of the time.
    pub clock: Clock,
    /// How it shares limits with other routers; None if it does not.
    pub shared: Option<Sharing>,
}
