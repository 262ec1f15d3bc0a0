//! Names that stand for other names.

use std::sync::Arc;

use crate::base::error::Error;
use crate::base::sync::Map;

/// The most aliases that are followed from one to the next. No application makes so many. The bound ends a
/// walk among aliases that change meanwhile.
const LONGEST_CHAIN: usize = 100_000;

/// Aliases and what they stand for. There is no cycle among them.
#[derive(Debug, Default)]
pub(super) struct Aliases(Map<Arc<str>, Arc<str>>);

impl Aliases {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns the aliases, in no order.
    pub(super) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        self.0.iter().map(|alias| Arc::clone(alias.key()))
    }

    /// Returns the aliases and what they stand for, in no order.
    pub(super) fn all(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.0.iter().map(|alias| (Arc::clone(alias.key()), Arc::clone(alias.value()))).collect()
    }

    /// Returns the name that the aliases lead to from a name; None if it is no alias.
    pub(super) fn follow(&self, name: &str) -> Option<Arc<str>> {
        let mut name = self.target(name)?;
        // There is no cycle, but aliases that change on the way could keep the walk from ending.
        for _ in 0..LONGEST_CHAIN {
            let Some(next) = self.target(&name) else { break };
            name = next;
        }
        Some(name)
    }

    fn target(&self, name: &str) -> Option<Arc<str>> {
        self.0.get(name).map(|target| Arc::clone(&target))
    }

    /// Adds or replaces an alias. Changes come one at a time.
    ///
    /// # Errors
    /// If the target leads back to the alias.
    pub(super) fn add(&self, alias: Arc<str>, target: Arc<str>) -> Result<(), Error> {
        let mut way = vec![Arc::clone(&alias)];
        let mut next = Some(Arc::clone(&target));
        while let Some(name) = next {
            let closes = name == alias;
            next = self.target(&name);
            way.push(name);
            if closes {
                return Err(Error::AliasCycle(way));
            }
        }
        self.0.insert(alias, target);
        Ok(())
    }

    /// Takes an alias away and returns what it stood for.
    ///
    /// # Errors
    /// If there is no such alias.
    pub(super) fn remove(&self, alias: &str) -> Result<Arc<str>, Error> {
        self.0.remove(alias).map(|(_, target)| target).ok_or_else(|| Error::AliasNotFound(alias.to_owned()))
    }
}
