//! What processes tell each other beside limits: numbers that are added up, and notices.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::message::{MOST, Micros, Piece, Row};

/// Numbers of processes, by their names: each with the time until which it counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally(pub(super) BTreeMap<u64, BTreeMap<Arc<str>, (u64, Micros)>>);

impl Tally {
    /// Handles a row. A late one changes nothing.
    pub(super) fn sync(&mut self, process: &Arc<str>, row: &Row, is_late: bool, now: Micros) -> Piece {
        let numbers = self.0.entry(row.window).or_default();
        numbers.retain(|_, &mut (_, until)| now < until);
        if !is_late {
            numbers.remove(process);
            if row.used > 0 && now < row.until {
                numbers.insert(Arc::clone(process), (row.used, row.until));
            }
        }
        let own = numbers.get(process).map_or(0, |&(number, _)| number);
        let others = numbers.iter().filter(|&(other, _)| other != process).map(|(_, &(number, _))| number);
        let others = others.fold(0, u64::saturating_add).min(MOST);
        self.0.retain(|_, numbers| !numbers.is_empty());
        Piece { window: row.window, until: row.until, held: own, granted: others }
    }

    /// Forgets numbers that count no more.
    pub(super) fn tidy(&mut self, now: Micros) {
        self.0.values_mut().for_each(|numbers| numbers.retain(|_, &mut (_, until)| now < until));
        self.0.retain(|_, numbers| !numbers.is_empty());
    }

    pub(super) fn forget(&mut self, process: &Arc<str>) {
        self.0.values_mut().for_each(|numbers| _ = numbers.remove(process));
        self.0.retain(|_, numbers| !numbers.is_empty());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The latest notice, if there is one: a [`Piece`], as all hear it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Notices(pub(super) Option<Piece>);

impl Notices {
    /// Handles a row. A late one changes nothing.
    pub(super) fn sync(&mut self, row: &Row, is_late: bool, now: Micros, is_news: &mut bool) -> Piece {
        self.tidy(now);
        let said = Piece { window: row.window, until: row.until, held: row.have, granted: row.used };
        if !is_late && now < said.until && said.window > self.0.map_or(0, |notice| notice.window) {
            self.0 = Some(said);
            *is_news = true;
        }
        self.0.unwrap_or_default()
    }

    /// Forgets a notice that holds no more.
    pub(super) fn tidy(&mut self, now: Micros) {
        self.0 = self.0.filter(|notice| now < notice.until);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}
