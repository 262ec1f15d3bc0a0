//! How often a deployment in slow start is a candidate: a part of its fair share of the group's requests.
//!
//! A share of *time* would not do. In its time a newcomer would get all that its strategy gives to the least
//! busy, or the fastest, at once. So the group counts its picks, as long as some member is in slow start.
//! Such a member is a candidate again a number of picks after its last one:
//!
//! `fair shares of all members / (its own × percent)`
//!
//! All fair shares are 1 but under the strategy that follows weights. A pick that comes late, because a draw
//! or another gate kept it waiting, is made good: the next is due as if it had come in time, though of more
//! than [`MOST_LATE`] missed picks the others are lost.

use crate::base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::base::time::Nanos;
use crate::strategy::Strategy;

/// Picks are counted in parts, so that intervals need not be whole picks.
const PICK: u64 = 1 << 10;

/// The missed picks that are made good.
const MOST_LATE: u64 = 4;

/// The picks of a group while members are in slow start. Written under the index's lock.
#[derive(Debug, Default)]
pub(crate) struct Ramp {
    /// When the last slow start ends; 0 if there is none.
    until: AtomicU64,
    /// In parts.
    picks: AtomicU64,
    /// The fair shares of all members together: as they are, and as the leaves know them.
    shares: AtomicU64,
    known_shares: AtomicU64,
    /// Whether fair shares follow the weights.
    by_weight: AtomicBool,
}

impl Ramp {
    pub(super) fn new(strategy: Strategy) -> Self {
        let ramp = Self::default();
        ramp.follow(strategy);
        ramp
    }

    /// Follows a strategy from now on. The caller notes the members anew.
    pub(crate) fn follow(&self, strategy: Strategy) {
        self.by_weight.store(strategy.follows_weights(), Ordering::Relaxed);
    }

    /// Returns whether picks are counted.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.until.load(Ordering::Relaxed) != 0
    }

    /// Counts picks until `until` at least.
    pub(crate) fn begin(&self, until: Nanos) {
        self.until.fetch_max(until, Ordering::Relaxed);
    }

    /// Counts a pick.
    pub(crate) fn count(&self, now: Nanos) {
        self.picks.store(self.picks().saturating_add(PICK), Ordering::Relaxed);
        if self.until.load(Ordering::Relaxed) <= now {
            self.until.store(0, Ordering::Relaxed);
        }
    }

    /// Returns the picks that were counted, in parts.
    pub(crate) fn picks(&self) -> u64 {
        self.picks.load(Ordering::Relaxed)
    }

    /// Returns the fair share of a member.
    pub(crate) fn share(&self, weight: u32) -> u64 {
        if self.by_weight.load(Ordering::Relaxed) { u64::from(weight) } else { 1 }
    }

    /// Notes the members: how many there are, and their weights together.
    pub(crate) fn set_members(&self, count: usize, weights: u64) {
        let shares = if self.by_weight.load(Ordering::Relaxed) { weights } else { count as u64 };
        self.shares.store(shares, Ordering::Relaxed);
    }

    /// Takes the fair shares of all members as they are. Returns whether the leaves of those in slow start
    /// are out of date by that.
    pub(crate) fn learn_shares(&self) -> bool {
        let shares = self.shares.load(Ordering::Relaxed);
        self.known_shares.swap(shares, Ordering::Relaxed) != shares
    }

    /// Returns whether the leaves do not know the fair shares as they are.
    pub(crate) fn is_out_of_date(&self) -> bool {
        self.shares.load(Ordering::Relaxed) != self.known_shares.load(Ordering::Relaxed)
    }

    /// Returns the whole picks until a member is a candidate again that was last picked at `last`; 0 if it is
    /// one.
    pub(crate) fn picks_left(&self, last: u64, share: u64, percent: u64) -> u64 {
        let last = last.min(self.picks());
        last.saturating_add(self.interval(share, percent)).saturating_sub(self.picks()).div_ceil(PICK)
    }

    /// Returns after how many picks that will be, in parts.
    pub(crate) fn due_pick(&self, picks_left: u64) -> u64 {
        self.picks().saturating_add(picks_left.saturating_mul(PICK))
    }

    /// Returns what to note as the last pick of a member that is picked now.
    pub(crate) fn picked(&self, last: u64, share: u64, percent: u64) -> u64 {
        let (interval, now) = (self.interval(share, percent), self.picks());
        last.saturating_add(interval).clamp(now.saturating_sub(interval.saturating_mul(MOST_LATE)), now)
    }

    /// Returns the picks of the group for one of a member, in parts.
    fn interval(&self, share: u64, percent: u64) -> u64 {
        let all = u128::from(self.known_shares.load(Ordering::Relaxed)) * u128::from(100 * PICK);
        let own = u128::from(share.max(1)) * u128::from(percent.max(1));
        u64::try_from(all / own).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the share of picks of a member that is picked whenever it is a candidate.
    fn share_of(ramp: &Ramp, share: u64, percent: u64) -> f64 {
        let (mut last, mut own) = (ramp.picks(), 0);
        for _ in 0..10_000 {
            ramp.count(0);
            if ramp.picks_left(last, share, percent) == 0 {
                last = ramp.picked(last, share, percent);
                own += 1;
            }
        }
        f64::from(own) / 10_000.0
    }

    #[test]
    fn a_member_is_a_candidate_for_its_part_of_a_fair_share() {
        let ramp = Ramp::default();
        ramp.begin(1);
        for (shares, share, percent, expected) in [(4, 1, 100, 0.25), (4, 1, 10, 0.025), (10, 7, 50, 0.35), (3, 1, 77, 0.2567)] {
            ramp.known_shares.store(shares, Ordering::Relaxed);
            let share = share_of(&ramp, share, percent);
            assert!((share - expected).abs() < 0.002, "{share} instead of {expected}");
        }
    }

    #[test]
    fn few_missed_picks_are_made_good() {
        let ramp = Ramp::default();
        ramp.set_members(2, 9);
        assert!(ramp.is_out_of_date() && ramp.learn_shares() && !ramp.is_out_of_date());
        for _ in 0..1000 {
            ramp.count(0);
        }
        let mut last = 0;
        let at_once = std::iter::from_fn(|| {
            let is_due = ramp.picks_left(last, 1, 50) == 0;
            last = ramp.picked(last, 1, 50);
            is_due.then_some(())
        });
        assert_eq!(at_once.count(), 5);
    }

    #[test]
    fn counting_ends_with_the_last_slow_start() {
        let ramp = Ramp::default();
        assert!(!ramp.is_on());
        ramp.begin(20);
        ramp.begin(10);
        ramp.count(19);
        assert!(ramp.is_on());
        ramp.count(20);
        assert!(!ramp.is_on());
    }

    #[test]
    fn extremes_do_not_overflow() {
        let ramp = Ramp::default();
        ramp.known_shares.store(u64::MAX, Ordering::Relaxed);
        assert!(ramp.picks_left(u64::MAX, 0, 0) > 0);
        assert_eq!(ramp.picked(u64::MAX, 1, 1), 0);
    }
}
