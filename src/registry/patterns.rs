//! The model names with `*`, which serve any name that fits.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::base::sync::{Mutex, hold};
use crate::base::wildcard::{captures, is_pattern};

/// The model names with `*`. The longest comes first, and so says most about a name.
#[derive(Debug, Default)]
pub(super) struct Patterns(Mutex<Arc<[Arc<str>]>>);

impl Patterns {
    /// Returns the patterns that a name fits, the longest first.
    pub(super) fn of(&self, name: &str) -> impl Iterator<Item = Arc<str>> {
        let patterns = Arc::clone(&hold(&self.0));
        (0..patterns.len()).filter_map(move |nth| patterns.get(nth).filter(|pattern| captures(pattern, name).is_some()).cloned())
    }

    /// Notes that a model name has members now, or none. Changes come one at a time.
    pub(super) fn note(&self, model_name: &Arc<str>, is_there: bool) {
        if is_pattern(model_name) {
            let mut patterns = hold(&self.0);
            let others = patterns.iter().filter(|other| *other != model_name);
            let mut noted: Vec<_> = others.chain(is_there.then_some(model_name)).cloned().collect();
            noted.sort_by_key(|pattern| (Reverse(pattern.len()), Arc::clone(pattern)));
            *patterns = noted.into();
        }
    }
}
