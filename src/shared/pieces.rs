//! The pieces of a limit with windows, and of places in flight.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::message::{MOST, Micros, Row};

/// How long a window is remembered after its end. If the store's clock steps back, what was granted in the
/// window still counts.
const REMEMBERED: Micros = 60_000_000;

/// How many windows that have ended are remembered, however short they are.
const ENDED: usize = 64;

/// What the books look at when they grant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) now: Micros,
    /// Whether anything may be granted.
    pub(super) grants: bool,
    /// The number of members.
    pub(super) members: u64,
}

/// What has become of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) held: u64,
    /// Whether the process has less than the fewest that help.
    pub(super) lacks: bool,
    /// Whether units came back.
    pub(super) came_back: bool,
}

/// Returns how many of `left` units a process is granted that has `held`.
///
/// Half of an equal share is the most that it gets beyond its need, so pieces shrink as the limit nears. If
/// there are fewer than it needs, it gets none: who waits holds nothing.
pub(super) fn grant(row: &Row, held: u64, left: u64, members: u64) -> u64 {
    let need = row.least.saturating_sub(held);
    let fair = left.div_ceil(members.max(1).saturating_mul(2)).max(need);
    let more = row.target.max(row.least).saturating_sub(held).min(left).min(fair);
    if more < need { 0 } else { more }
}

/// The pieces of one window, or of the places in flight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    pub(super) until: Micros,
    /// The units of all pieces, at most [`MOST`].
    pub(super) granted: u64,
    pub(super) held: BTreeMap<Arc<str>, u64>,
}

impl Pieces {
    fn set(&mut self, process: &Arc<str>, units: u64) {
        let before = self.held.insert(Arc::clone(process), units).unwrap_or(0);
        self.granted = self.granted.saturating_sub(before).saturating_add(units).min(MOST);
        if units == 0 {
            self.held.remove(process);
        }
    }

    /// Handles a row. `left` tells how many units are left to grant, once this piece has become what the
    /// process says.
    pub(super) fn sync(&mut self, process: &Arc<str>, row: &Row, left: impl FnOnce(u64) -> u64, terms: Terms) -> Granted {
        // A store that lost something takes the process at its word. Nothing makes used units unused.
        let before = self.held.get(process).copied().unwrap_or(0).max(row.have).max(row.used);
        self.set(process, before);
        let target = row.target.max(row.used);
        if target < before {
            self.set(process, target);
        } else if target > before && terms.grants {
            let more = grant(row, before, left(self.granted), terms.members);
            self.set(process, before.saturating_add(more));
        }
        let held = self.held.get(process).copied().unwrap_or(0);
        Granted { held, lacks: held < row.least, came_back: held < before }
    }

    /// Takes away what a process holds. Returns whether it held anything.
    pub(super) fn take_back(&mut self, process: &Arc<str>) -> bool {
        let held = self.held.get(process).copied().unwrap_or(0);
        self.set(process, 0);
        held > 0
    }
}

/// The windows of a meter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Windows(pub(super) BTreeMap<u64, Pieces>);

impl Windows {
    /// Handles a row. `shares`: all windows that have not ended share the limit.
    pub(super) fn sync(&mut self, process: &Arc<str>, row: &Row, limit: u64, shares: bool, terms: Terms) -> Granted {
        self.tidy(terms.now);
        let others = if shares { self.alive(terms.now, row.window) } else { 0 };
        if terms.now >= row.until && !self.0.contains_key(&row.window) {
            // A window that nobody remembers grants nothing and takes nothing.
            return Granted { held: row.used, lacks: false, came_back: false };
        }
        let is_open = terms.now < row.window.min(row.until);
        let pieces = self.0.entry(row.window).or_insert_with(|| Pieces { until: row.until, ..Pieces::default() });
        let left = |granted: u64| limit.saturating_sub(granted).saturating_sub(others);
        let granted = pieces.sync(process, row, left, Terms { grants: terms.grants && is_open, ..terms });
        if pieces.granted == 0 {
            self.0.remove(&row.window);
        }
        granted
    }

    /// Forgets windows that ended long ago, and the oldest of too many.
    pub(super) fn tidy(&mut self, now: Micros) {
        self.0.retain(|_, pieces| now < pieces.until.saturating_add(REMEMBERED));
        let ended = self.0.values().filter(|pieces| now >= pieces.until).count();
        let mut dropped = ended.saturating_sub(ENDED);
        if dropped > 0 {
            self.0.retain(|_, pieces| {
                let is_dropped = dropped > 0 && now >= pieces.until;
                dropped -= usize::from(is_dropped);
                !is_dropped
            });
        }
    }

    /// Returns the units of all pieces in the windows that have not ended, but for one window: at most
    /// [`MOST`].
    fn alive(&self, now: Micros, but: u64) -> u64 {
        let alive = self.0.iter().filter(|&(&window, pieces)| window != but && now < pieces.until);
        alive.map(|(_, pieces)| pieces.granted).fold(0, u64::saturating_add).min(MOST)
    }

    /// Returns the units of all pieces of a window; with `shares`, of all windows that have not ended.
    pub(super) fn granted(&self, window: u64, shares: bool, now: Micros) -> u64 {
        let own = self.0.get(&window).filter(|pieces| now < pieces.until).map_or(0, |pieces| pieces.granted);
        if shares { own.saturating_add(self.alive(now, window)).min(MOST) } else { own }
    }

    /// Returns the window that is open, if each begins with the first request after the one before. If none
    /// is and `opens`, opens one.
    pub(super) fn open(&mut self, row: &Row, per: Micros, opens: bool, now: Micros) -> Option<u64> {
        let open = self.0.iter().rev().find(|(_, pieces)| now < pieces.until).map(|(&window, _)| window);
        // A store that lost something learns of the window from a process that uses it.
        let known = Some(row.window).filter(|&window| now < window && row.have.max(row.used) > 0);
        open.or(known).or_else(|| opens.then(|| now.saturating_add(per).min(MOST)))
    }
}
