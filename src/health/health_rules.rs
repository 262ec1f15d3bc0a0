//! The rules of `Health`, which a router follows by default.

use super::ring::{INTERVALS, Tally};
use crate::base::error::Error;
use crate::base::rng::Rng;
use crate::base::time::{Nanos, SECOND};

/// When a deployment is taken out, for how long, and how it comes back.
///
/// ```
/// use turnout::{HealthRules, Router, Rules, Settings};
///
/// let rules = HealthRules { failure_rate: Some(0.2), min_volume: 20, ..HealthRules::default() };
/// let router: Router<()> = Router::new(Settings { health: Rules::Health(rules), ..Settings::default() })?;
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HealthRules {
    /// The number of failures in a row that starts a cooldown; None for no such rule.
    pub consecutive_failures: Option<u32>,
    /// The share of failures in the window that starts a cooldown; None for no such rule.
    pub failure_rate: Option<f64>,
    /// How far back outcomes count.
    pub window: Nanos,
    /// The number of outcomes from which a share of failures says something.
    pub min_volume: u32,
    /// How long the first cooldown lasts, unless the provider names a wait.
    pub cooldown_time: Nanos,
    /// The factor by which each further cooldown is longer than the one before.
    pub cooldown_growth: f64,
    /// The length that no cooldown grows beyond.
    pub max_cooldown: Nanos,
    /// The largest share of a cooldown that is added to it by chance.
    pub cooldown_jitter: f64,
    /// The time without a cooldown after which one cooldown is forgotten.
    pub forget_after: Nanos,
    /// Successes that end the probation, at least 1.
    pub success_threshold: u32,
    /// For how long after its return a deployment gets less than its share; 0 for not at all.
    pub slow_start: Nanos,
    /// The share of a group in service below which health is ignored; 0 for never.
    pub panic_threshold: f64,
    /// Whether the last deployment of a group cools down too.
    pub cool_last: bool,
    /// Whether health checks are ignored in a group once they have taken every member out.
    pub fail_open: bool,
    /// For how long a failure weighs like a request in flight; 0 for not at all.
    pub failure_penalty: Nanos,
    /// A deployment whose share of failures is at least this many times that of the others in the group
    /// starts a cooldown; None for no such rule.
    pub outlier_factor: Option<f64>,
}

impl Default for HealthRules {
    fn default() -> Self {
        Self {
            consecutive_failures: Some(3),
            failure_rate: Some(0.5),
            window: 60 * SECOND,
            min_volume: 10,
            cooldown_time: 5 * SECOND,
            cooldown_growth: 2.0,
            max_cooldown: 300 * SECOND,
            cooldown_jitter: 0.2,
            forget_after: 300 * SECOND,
            success_threshold: 2,
            slow_start: 0,
            panic_threshold: 0.0,
            cool_last: false,
            fail_open: true,
            failure_penalty: 10 * SECOND,
            outlier_factor: None,
        }
    }
}

/// A deployment with a smaller share of failures is no outlier, even if its peers have none: among few
/// failures the ratio is chance.
const LEAST_OUTLIER_RATE: f64 = 0.1;

impl HealthRules {
    /// Checks that the numbers make sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        let rules = [
            ("success_threshold must be at least 1", self.success_threshold >= 1),
            ("window and forget_after must be longer than 0", self.window > 0 && self.forget_after > 0),
            ("cooldown_growth must be finite and at least 1", self.cooldown_growth.is_finite() && self.cooldown_growth >= 1.0),
            ("failure_rate must be from 0 to 1", self.failure_rate.is_none_or(is_share)),
            ("cooldown_jitter must be from 0 to 1", is_share(self.cooldown_jitter)),
            ("panic_threshold must be from 0 to 1", is_share(self.panic_threshold)),
            ("outlier_factor must be finite and at least 1", self.outlier_factor.is_none_or(|by| by.is_finite() && by >= 1.0)),
        ];
        match rules.into_iter().find(|&(_, holds)| !holds) {
            Some((rule, _)) => Err(Error::Configuration(rule.to_owned())),
            None => Ok(()),
        }
    }

    /// Returns how long an interval of the window is.
    pub(crate) fn interval(&self) -> Nanos {
        self.window / INTERVALS
    }

    /// Returns how long an interval of the penalties is.
    pub(crate) fn penalty_interval(&self) -> Nanos {
        self.failure_penalty / INTERVALS
    }

    /// Returns whether there are enough outcomes to speak of a share of failures.
    fn tells(&self, tally: Tally) -> bool {
        tally.total() >= u64::from(self.min_volume)
    }

    pub(crate) fn is_too_many_in_a_row(&self, failures: u32) -> bool {
        self.consecutive_failures.is_some_and(|most| failures >= most)
    }

    pub(crate) fn is_too_large_a_share(&self, tally: Tally) -> bool {
        self.failure_rate.is_some_and(|rate| self.tells(tally) && tally.rate() >= rate)
    }

    #[allow(clippy::cast_precision_loss)] // counts of some minutes
    pub(crate) fn is_outlier(&self, own: Tally, peers: Tally) -> bool {
        let product = |failures: u64, total: u64| failures as f64 * total as f64;
        self.outlier_factor.is_some_and(|factor| {
            self.tells(own)
                && self.tells(peers)
                && own.rate() >= LEAST_OUTLIER_RATE
                && product(own.failures, peers.total()) >= factor * product(peers.failures, own.total())
        })
    }

    /// Returns how long a cooldown lasts after `trips` others.
    // lengths of time, at most the longest
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub(crate) fn cooldown(&self, trips: u32, jitter: &Rng) -> Nanos {
        // Finite, so that a cooldown of 0 stays 0 (0 times infinity is not a number).
        let growth = self.cooldown_growth.powf(f64::from(trips)).min(f64::MAX);
        let grown = self.cooldown_time as f64 * growth;
        let length = if grown < self.max_cooldown as f64 { grown as Nanos } else { self.max_cooldown };
        let most_on_top = (length as f64 * self.cooldown_jitter) as Nanos;
        if most_on_top == 0 { length } else { length.saturating_add(jitter.below(most_on_top.saturating_add(1))) }
    }

    /// Returns whether health leaves so few members of a group in service that it is better ignored.
    #[allow(clippy::cast_precision_loss)] // at most 2^32
    pub(crate) fn panics(threshold: f64, stopped: usize, members: usize) -> bool {
        members > 0 && (members.saturating_sub(stopped) as f64 / members as f64) < threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(tenths: u64) -> Nanos {
        tenths * SECOND / 10
    }

    #[test]
    fn cooldowns_grow_up_to_the_longest_and_jitter_on_top() {
        let rng = Rng::new(Some(1));
        let exact = HealthRules { cooldown_jitter: 0.0, ..HealthRules::default() };
        let lengths: Vec<_> = (0..8).map(|trips| exact.cooldown(trips, &rng) / SECOND).collect();
        assert_eq!(lengths, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(exact.cooldown(u32::MAX, &rng), 300 * SECOND);
        assert_eq!(HealthRules { cooldown_time: 0, ..exact }.cooldown(u32::MAX, &rng), 0);

        let rules = HealthRules::default();
        let drawn: Vec<_> = (0..1000).map(|_| rules.cooldown(0, &rng)).collect();
        assert!(drawn.iter().all(|length| (seconds(50)..=seconds(60)).contains(length)));
        assert!(drawn.iter().any(|&length| length < seconds(51)) && drawn.iter().any(|&length| length > seconds(59)));
        let again = Rng::new(Some(1));
        assert!(drawn.iter().all(|&length| length == rules.cooldown(0, &again)));
    }

    #[test]
    fn a_cooldown_is_never_longer_than_the_longest_even_the_first() {
        let rules = HealthRules { max_cooldown: SECOND, cooldown_jitter: 0.0, ..HealthRules::default() };
        assert_eq!(rules.cooldown(0, &Rng::new(Some(1))), SECOND);
    }

    #[test]
    fn an_outlier_is_one_beside_its_peers() {
        let rules = HealthRules { outlier_factor: Some(3.0), ..HealthRules::default() };
        let tally = |failures, total: u64| Tally { failures, successes: total - failures };
        assert!(rules.is_outlier(tally(3, 10), tally(10, 100)));
        assert!(!rules.is_outlier(tally(2, 10), tally(10, 100)));
        assert!(!rules.is_outlier(tally(3, 9), tally(10, 100)), "too few of its own");
        assert!(!rules.is_outlier(tally(3, 10), tally(0, 9)), "too few of its peers");
        assert!(rules.is_outlier(tally(1, 10), tally(0, 100)));
        assert!(!rules.is_outlier(tally(1, 11), tally(0, 100)), "too small a share");
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        let usual = HealthRules::default();
        assert_eq!(usual.check(), Ok(()));
        for wrong in [
            HealthRules { success_threshold: 0, ..usual },
            HealthRules { window: 0, ..usual },
            HealthRules { cooldown_growth: f64::INFINITY, ..usual },
            HealthRules { failure_rate: Some(1.1), ..usual },
            HealthRules { cooldown_jitter: f64::NAN, ..usual },
            HealthRules { panic_threshold: -0.1, ..usual },
            HealthRules { outlier_factor: Some(0.5), ..usual },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn panic_is_fewer_than_the_share() {
        assert!(!HealthRules::panics(0.0, 8, 8));
        assert!(!HealthRules::panics(0.5, 4, 8));
        assert!(HealthRules::panics(0.5, 5, 8));
        assert!(!HealthRules::panics(0.5, 0, 0));
    }
}
