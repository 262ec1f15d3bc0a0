//! A budget of further attempts, so that retries cannot multiply the load of an outage.
//!
//! A call pays in a share of an attempt. Each further attempt of any call takes out a whole one. What is not
//! taken out within the window expires. Beside that, a reserve fills at a steady rate, so that a router with
//! few calls can retry at all. The parts and their usual numbers (a fifth, ten a second, ten seconds) are
//! those of Finagle's `RetryBudget`. Unlike there, the reserve fills with time. So for any time of a second
//! or more after the first call, this holds exactly:
//!
//! > further attempts ≤ share × calls + rate × time
//!
//! The reserve has the attempts of one second at the start, and its filling begins a second later.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use crate::base::error::Error;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::sync::{Mutex, hold};
use crate::base::time::{Nanos, SECOND};

/// Shares of an attempt are counted in millionths.
const WHOLE: u64 = 1_000_000;

/// What is paid in is kept in this many slices of the window. It expires up to one slice early.
const SLICES: u64 = 10;

/// The numbers of a budget.
///
/// ```
/// assert!(turnout::BudgetRules::default().check().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetRules {
    /// The further attempts that each call pays for.
    pub share: f64,
    /// The further attempts that each second pays for.
    pub per_second: f64,
    /// How long what was paid in can be used.
    pub window: Nanos,
}

impl Default for BudgetRules {
    fn default() -> Self {
        Self { share: 0.2, per_second: 10.0, window: 10 * SECOND }
    }
}

impl BudgetRules {
    /// Checks the numbers.
    ///
    /// # Errors
    /// If one of them makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        let number = |name: &str, value: f64, most: f64| {
            let message = || format!("{name} must be a number from 0 to {most}, not {value}");
            if (0.0..=most).contains(&value) { Ok(()) } else { Err(Error::Configuration(message())) }
        };
        number("share", self.share, 100.0)?;
        number("per_second", self.per_second, 1e6)?;
        if (SECOND..=3600 * SECOND).contains(&self.window) {
            return Ok(());
        }
        Err(Error::Configuration(format!("window must be from 1 to 3600 seconds, not {} ns", self.window)))
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the rules bound it
fn millionths(attempts: f64) -> u64 {
    (attempts * 1e6).round() as u64
}

/// A budget of further attempts, for any number of threads.
///
/// ```
/// use turnout::{Budget, BudgetRules};
///
/// let budget = Budget::new(BudgetRules { share: 0.5, per_second: 0.0, ..BudgetRules::default() }, 0)?;
/// budget.deposit(0);
/// assert!(!budget.withdraw(1, 0), "one call pays for half an attempt");
/// budget.deposit(0);
/// assert!(budget.withdraw(1, 0));
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug)]
pub struct Budget {
    share: u64,
    /// What the reserve gains in a second.
    rate: u64,
    /// The most that the reserve holds.
    most: u64,
    slice: Nanos,
    /// How many processes share the steady rate. What calls pay in adds up to the same by itself.
    members: OnceLock<Arc<AtomicU64>>,
    funds: Mutex<Funds>,
}

#[derive(Debug)]
struct Funds {
    /// What was paid in and not taken out, by the number of the slice of time; the oldest first.
    paid: VecDeque<(u64, u64)>,
    reserve: u64,
    /// The time up to which the reserve was filled.
    filled_to: Nanos,
}

impl Budget {
    /// Makes a budget. `now` is the time.
    ///
    /// # Errors
    /// If a number of the rules makes no sense.
    pub fn new(rules: BudgetRules, now: Nanos) -> Result<Self, Error> {
        rules.check()?;
        let rate = millionths(rules.per_second);
        let funds = Funds { paid: VecDeque::new(), reserve: rate, filled_to: now.saturating_add(SECOND) };
        Ok(Self {
            share: millionths(rules.share),
            rate,
            most: rate.saturating_mul(rules.window / SECOND),
            slice: rules.window / SLICES,
            members: OnceLock::new(),
            funds: Mutex::new(funds),
        })
    }

    /// Shares the steady rate with other processes. `members` tells with how many, this one included.
    #[cfg(feature = "python")]
    pub(crate) fn share_among(&self, members: &Arc<AtomicU64>) {
        // A budget belongs to one router, which has one store.
        let _ = self.members.set(Arc::clone(members));
    }

    /// Returns this process's part of what the reserve gains in a second.
    fn rate(&self) -> u64 {
        self.rate / self.members.get().map_or(1, |members| members.load(Ordering::Relaxed).max(1))
    }

    /// Pays in the share of a call.
    pub fn deposit(&self, now: Nanos) {
        hold(&self.funds).pay_in(self.share, now / self.slice);
    }

    /// Takes out this many attempts. Returns whether there were so many. If not, nothing is taken.
    pub fn withdraw(&self, attempts: u32, now: Nanos) -> bool {
        let mut funds = hold(&self.funds);
        self.fill(&mut funds, now);
        let asked = u64::from(attempts).saturating_mul(WHOLE);
        let held = funds.paid.iter().fold(funds.reserve, |sum, &(_, left)| sum.saturating_add(left));
        if held < asked {
            return false;
        }
        let mut due = asked;
        for (_, left) in &mut funds.paid {
            let taken = due.min(*left);
            *left -= taken;
            due -= taken;
        }
        funds.reserve -= due;
        true
    }

    /// Gives back attempts that were taken out and did not begin.
    pub fn put_back(&self, attempts: u32, now: Nanos) {
        hold(&self.funds).pay_in(u64::from(attempts).saturating_mul(WHOLE), now / self.slice);
    }

    /// Returns how many whole attempts can be taken out now.
    pub fn balance(&self, now: Nanos) -> u64 {
        let mut funds = hold(&self.funds);
        self.fill(&mut funds, now);
        funds.paid.iter().fold(funds.reserve, |sum, &(_, left)| sum.saturating_add(left)) / WHOLE
    }

    /// Adds what the reserve has gained, and drops what has expired.
    fn fill(&self, funds: &mut Funds, now: Nanos) {
        funds.expire(now / self.slice);
        let passed = now.saturating_sub(funds.filled_to);
        let rate = self.rate();
        if passed == 0 || rate == 0 {
            return;
        }
        let gained = u128::from(passed) * u128::from(rate) / u128::from(SECOND);
        let full = self.most.max(self.rate) / (self.rate / rate);
        match u64::try_from(gained) {
            Ok(gained) if funds.reserve.saturating_add(gained) < full => {
                funds.reserve += gained;
                // Only the time that this gain took is used up. So many small steps gain as much as a large
                // one.
                let used = u128::from(gained) * u128::from(SECOND) / u128::from(rate);
                funds.filled_to = funds.filled_to.saturating_add(u64::try_from(used).unwrap_or(passed));
            }
            _ => (funds.reserve, funds.filled_to) = (full.max(funds.reserve), now),
        }
    }
}

impl Funds {
    fn pay_in(&mut self, millionths: u64, slice: u64) {
        if let Some((_, left)) = self.paid.back_mut().filter(|(last, _)| *last >= slice) {
            *left = left.saturating_add(millionths);
        } else {
            self.expire(slice);
            self.paid.push_back((slice, millionths));
        }
    }

    fn expire(&mut self, slice: u64) {
        while self.paid.front().is_some_and(|&(paid_in, _)| paid_in + SLICES <= slice) {
            self.paid.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn budget(share: f64, per_second: f64) -> Budget {
        Budget::new(BudgetRules { share, per_second, ..BudgetRules::default() }, 0).unwrap()
    }

    #[test]
    fn what_is_paid_in_expires() {
        let budget = budget(1.0, 0.0);
        budget.deposit(0);
        assert_eq!(budget.balance(9 * SECOND), 1);
        assert_eq!(budget.balance(10 * SECOND), 0);
    }

    #[test]
    fn the_reserve_fills_from_the_second_second_on() {
        let budget = budget(0.0, 10.0);
        assert_eq!([0, SECOND, 2 * SECOND, 60 * SECOND].map(|now| budget.balance(now)), [10, 10, 20, 100]);
        let taken = (0..200).filter(|_| budget.withdraw(1, 60 * SECOND)).count();
        assert_eq!(taken, 100);
    }

    #[test]
    fn threads_share_one_budget_exactly() {
        let budget = Arc::new(budget(0.5, 0.0));
        let withdraw = |budget: Arc<Budget>| {
            move || {
                (0..10_000)
                    .filter(|_| {
                        budget.deposit(0);
                        budget.withdraw(1, 0)
                    })
                    .count()
            }
        };
        let threads: Vec<_> = (0..8).map(|_| thread::spawn(withdraw(Arc::clone(&budget)))).collect();
        let taken: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(taken as u64 + budget.balance(0), 40_000);
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        for (share, per_second, window) in
            [(-0.1, 1.0, SECOND), (f64::NAN, 1.0, SECOND), (0.1, f64::INFINITY, SECOND), (0.1, 1.0, 1)]
        {
            assert!(Budget::new(BudgetRules { share, per_second, window }, 0).is_err());
        }
    }

    proptest! {
        /// Holds the sentence of the module, for any calls at any times.
        #[test]
        fn further_attempts_are_bounded(
            steps in prop::collection::vec((0_u64..2 * SECOND, 0_u32..4, 0_u32..4), 1..200),
            tenths in 0_u32..30,
            rate in 0_u32..20,
        ) {
            let (share, rate) = (f64::from(tenths) / 10.0, f64::from(rate));
            let budget = budget(share, rate);
            let (mut now, mut calls, mut taken) = (0, 0_u32, 0_u32);
            for (passes, deposits, asks) in steps {
                now += passes;
                for _ in 0..deposits {
                    budget.deposit(now);
                    calls += 1;
                }
                taken += u32::try_from((0..asks).filter(|_| budget.withdraw(1, now)).count()).unwrap();
                #[allow(clippy::cast_precision_loss)]
                let time = (now as f64 / 1e9).max(1.0);
                prop_assert!(f64::from(taken) <= share * f64::from(calls) + rate * time + 1e-6);
            }
        }
    }
}
