//! Changes of the options of a router that is in use.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Registry;
use crate::base::error::Error;
use crate::facts::Learning;
use crate::group::Attachment;
use crate::health::Rules;
use crate::strategy::Strategy;

/// The options to change of a router that is in use. None leaves an option as it is.
///
/// ```
/// use turnout::{Changed, Router, Settings, Strategy};
///
/// let router: Router<()> = Router::new(Settings::default())?;
/// router.configure(Changed { strategy: Some(Strategy::LeastBusy), ..Changed::default() })?;
/// assert_eq!(router.strategy(), Strategy::LeastBusy);
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Changed {
    /// The rule for every model name that `strategies` does not name.
    pub strategy: Option<Strategy>,
    /// The rules for single model names. They replace all such rules there were.
    pub strategies: Option<FxHashMap<Arc<str>, Strategy>>,
    /// Whether the strategies pick among the candidates of the lowest priority only.
    pub tiers: Option<bool>,
    /// The tag of the deployments that serve requests without tags; an inner None for no such tag.
    pub default_tag: Option<Option<Arc<str>>>,
    /// The rules by which deployments cool down and come back.
    pub health: Option<Rules>,
    /// The options for what is learnt from providers.
    pub learning: Option<Learning>,
}

impl<T: Attachment> Registry<T> {
    /// Changes options. All counts stay: those of limits, leases and cooldowns, and the recent outcomes.
    ///
    /// # Errors
    /// If a number of the rules makes no sense. Nothing is changed then.
    pub(crate) fn configure(&self, changed: Changed) -> Result<(), Error> {
        changed.health.map_or(Ok(()), |rules| rules.check())?;
        let _changes = self.change();
        if let Some(tag) = changed.default_tag {
            self.default_tag.set(tag);
        }
        if let Some(learning) = changed.learning {
            self.services.learning.set(learning);
        }
        if let Some(rules) = changed.health {
            self.change_rules(rules);
        }
        {
            let mut strategies = self.strategies();
            strategies.usual = changed.strategy.unwrap_or(strategies.usual);
            if let Some(single) = changed.strategies {
                strategies.single = single;
            }
            strategies.tiers = changed.tiers.unwrap_or(strategies.tiers);
        }
        for mut group in self.groups.iter_mut() {
            let order = self.order_of(group.key());
            group.configure(order, self.services.rules.get().health(), &self.services.clock);
        }
        Ok(())
    }

    fn change_rules(&self, rules: Rules) {
        let now = self.services.clock.now();
        for entry in self.deployments.iter().filter(|entry| entry.own_rules.is_none()) {
            entry.tidy_slow_start(&entry.slot.hold(), now);
        }
        self.services.rules.set(rules);
        for entry in self.deployments.iter().filter(|entry| entry.own_rules.is_none()) {
            entry.follow_rules(&entry.slot.hold(), now);
        }
    }
}
