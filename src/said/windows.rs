//! Anthropic's windows of hours and days: `anthropic-ratelimit-unified-…`, each with a status and a reset
//! (Wei-Shaw/sub2api#3249, router-for-me/CLIProxyAPI#3148). They belong to a subscription, for any model.

use super::texts::strip;
use super::times::Time;

/// What was said of the windows, by the ends of the names.
#[derive(Debug, Default)]
pub(super) struct Windows(Vec<(String, String)>);

impl Windows {
    pub(super) fn add(&mut self, name: &str, said: &str) {
        if self.get(name).is_none() {
            self.0.push((name.to_owned(), said.to_owned()));
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, said)| said.as_str())
    }

    /// Returns the seconds until the last of the rejected windows begins anew; None if no window is rejected.
    ///
    /// If the status of all windows together lets requests pass, no window counts: paid usage goes on. The
    /// overage tells whether paid usage may go on. It is no window that ends.
    pub(super) fn rejected_until(&self, present: impl Fn() -> i64) -> Option<f64> {
        if !self.get("status").is_none_or(is_rejection) {
            return None;
        }
        let rejected = self.0.iter().filter(|(name, said)| !name.starts_with("overage") && is_rejection(said));
        let resets = rejected.filter_map(|(name, _)| {
            let reset = self.get(&format!("{}reset", name.strip_suffix("status")?))?;
            Time::read(reset)?.seconds(&present)
        });
        resets.reduce(f64::max)
    }
}

fn is_rejection(status: &str) -> bool {
    strip(status).eq_ignore_ascii_case("rejected")
}
