//! The pieces of a limit that refills little by little.
//!
//! A pot holds parts of units. What is missing to a full pot is of two kinds: parts that were *spent*, which
//! refill with time, and units that processes hold, which do not. So a unit that a process may use counts as
//! in the pot all the time, and all processes together never use more in a time than the burst and what
//! refills in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::message::{MOST, Micros, Row};
use super::pieces::{Granted, Terms, grant};

/// The time for which one low is kept.
const STEP: Micros = 8_000_000;

/// How many lows are kept. Units that were charged before are not given back.
const LOWS: u64 = 80;

/// What a process was granted, has used, and has given back after use, in all since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) granted: u64,
    pub(super) used: u64,
    pub(super) refunded: u64,
}

/// Returns the parts of so many units, at most [`MOST`]: a pot of more counts as one of these.
fn parts(units: u64, unit: u64) -> u64 {
    units.saturating_mul(unit).min(MOST)
}

/// A pot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pot {
    /// The parts that were spent and have not refilled.
    pub(super) spent: u64,
    /// When `spent` was last reduced.
    pub(super) at: Micros,
    pub(super) accounts: BTreeMap<Arc<str>, Account>,
    /// The least that was spent in each step of time, by the number of the step.
    pub(super) lows: BTreeMap<u64, u64>,
}

impl Pot {
    /// Makes a pot that is empty: what was used before nobody knows.
    pub(super) fn empty(limit: u64, unit: u64, now: Micros) -> Self {
        Self { spent: parts(limit, unit), at: now, ..Self::default() }
    }

    /// Returns the units that processes hold.
    pub(super) fn held(&self) -> u64 {
        self.accounts.values().map(|account| account.granted - account.used).fold(0, u64::saturating_add)
    }

    /// Handles a row of an ask under these rules: see [`Kind::Bucket`](super::message::Kind::Bucket).
    pub(super) fn sync(&mut self, process: &Arc<str>, row: &Row, (limit, refill, unit): (u64, u64, u64), terms: Terms) -> Granted {
        self.refill(refill, terms.now);
        // A store that lost something takes the process at its word.
        let unknown = Account { granted: row.have.max(row.used), used: row.used, refunded: row.window };
        let mut account = self.accounts.get(process).copied().unwrap_or(unknown);
        account.granted = account.granted.max(row.have).max(row.used);
        let used = row.used.saturating_sub(account.used);
        account.used = account.used.max(row.used);
        self.spend(used, unit);
        let refunded = row.window.saturating_sub(account.refunded);
        account.refunded = account.refunded.max(row.window);
        self.refund(parts(refunded, unit), row.until, terms.now);
        let before = account.granted;
        let target = row.target.max(account.used);
        account.granted = account.granted.min(target);
        self.accounts.insert(Arc::clone(process), account);
        if target > before && terms.grants {
            let left = parts(limit, unit).saturating_sub(self.spent) / unit;
            account.granted += grant(row, before, left.saturating_sub(self.held()), terms.members);
            self.accounts.insert(Arc::clone(process), account);
        }
        Granted { held: account.granted, lacks: account.granted < row.least, came_back: account.granted < before || refunded > 0 }
    }

    /// Forgets a process. Nobody knows whether it used what it held.
    pub(super) fn forget(&mut self, process: &Arc<str>, unit: u64) {
        if let Some(account) = self.accounts.remove(process) {
            self.spend(account.granted - account.used, unit);
        }
    }

    /// Returns the units that are not in the pot, at most [`MOST`].
    pub(super) fn missing(&self, unit: u64) -> u64 {
        self.spent.div_ceil(unit).saturating_add(self.held()).min(MOST)
    }

    /// Counts in units of so many parts from now on.
    pub(super) fn rescale(&mut self, old: u64, new: u64) {
        let scaled = |parts: u64| u128::from(parts) * u128::from(new) / u128::from(old.max(1));
        let scaled = |parts: u64| u64::try_from(scaled(parts)).unwrap_or(MOST).min(MOST);
        self.spent = scaled(self.spent);
        self.lows.values_mut().for_each(|low| *low = scaled(*low));
    }

    fn spend(&mut self, units: u64, unit: u64) {
        self.spent = self.spent.saturating_add(parts(units, unit)).min(MOST);
    }

    fn refill(&mut self, refill: u64, now: Micros) {
        self.spent = self.spent.saturating_sub(now.saturating_sub(self.at).saturating_mul(refill));
        // If the clock stepped back, refilling goes on from there.
        self.at = now;
        let low = self.lows.entry(now / STEP).or_insert(self.spent);
        *low = (*low).min(self.spent);
        self.lows.retain(|&step, _| step.saturating_add(LOWS) > now / STEP && step <= now / STEP);
    }

    /// Gives parts back as if they had never been spent: at most the least that was spent since, since more
    /// would have spilled.
    fn refund(&mut self, parts: u64, since: Micros, now: Micros) {
        if parts == 0 || now.saturating_sub(since) >= (LOWS - 1) * STEP {
            return;
        }
        let first = since / STEP;
        // Between two looks at a pot its spent parts only become fewer. So the looks tell the least.
        let least = self.lows.range(first..).map(|(_, &low)| low).min().unwrap_or(0);
        let back = parts.min(least).min(self.spent);
        self.spent -= back;
        self.lows.range_mut(first..).for_each(|(_, low)| *low -= back.min(*low));
    }
}
