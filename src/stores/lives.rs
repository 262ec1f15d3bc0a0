//! Which other processes live, looked up now and then.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::process::{Identity, Process};
use crate::base::time::{Nanos, SECOND};

/// At most this often the lives of all are looked up.
const LOOK_EACH: Nanos = SECOND / 200;

/// The same for each of the others: a look at one takes some microseconds. All processes look, so the first
/// to see that one has ended sees it early in this time.
const LOOK_EACH_OF: Nanos = SECOND / 1000;

/// A process that no record has named for this time is forgotten.
const REMEMBERED: Nanos = 60 * SECOND;

/// What this process knows of the lives of others.
#[derive(Debug)]
pub(super) struct Lives {
    pub(super) identity: Identity,
    known: FxHashMap<Arc<str>, Known>,
    look_at: Nanos,
}

#[derive(Debug)]
struct Known {
    /// None for this process itself, and for one that cannot be judged.
    process: Option<Process>,
    named_at: Nanos,
    has_ended: bool,
}

impl Lives {
    pub(super) fn new() -> Self {
        Self { identity: Identity::find(), known: FxHashMap::default(), look_at: 0 }
    }

    /// Returns whether the process with this name has ended, as of the last look. A new name is looked up.
    pub(super) fn has_ended(&mut self, name: &Arc<str>, now: Nanos) -> bool {
        if let Some(known) = self.known.get_mut(name) {
            known.named_at = now;
            return known.has_ended;
        }
        let process = self.identity.other(name);
        let has_ended = process.is_some_and(Process::has_ended);
        self.known.insert(Arc::clone(name), Known { process, named_at: now, has_ended });
        has_ended
    }

    /// Looks up who lives, if a look is due. Returns whether one has ended since the last look.
    pub(super) fn look(&mut self, now: Nanos) -> bool {
        if now < self.look_at {
            return false;
        }
        self.known.retain(|_, known| now.saturating_sub(known.named_at) < REMEMBERED);
        let (mut others, mut has_one_ended) = (0, false);
        for known in self.known.values_mut().filter(|known| !known.has_ended) {
            let Some(process) = known.process else { continue };
            others += 1;
            known.has_ended = process.has_ended();
            has_one_ended |= known.has_ended;
        }
        self.look_at = now.saturating_add(LOOK_EACH.max(LOOK_EACH_OF * others));
        has_one_ended
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// A name of a process that runs.
    fn name(lives: &Lives, pid: u32, random: u64) -> Arc<str> {
        let told = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start = told.split_whitespace().nth(21).unwrap();
        let own = lives.identity.new_name();
        format!("{}:{pid}:{start}:{random}", own.split(':').next().unwrap()).into()
    }

    #[test]
    fn an_end_is_told_once_and_then_known() {
        let mut lives = Lives::new();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (name, own) = (name(&lives, child.id(), 0), lives.identity.new_name().into());
        assert!(!lives.has_ended(&name, 0) && !lives.has_ended(&own, 0) && !lives.look(0));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!lives.look(LOOK_EACH - 1), "not yet due");
        assert!(lives.look(LOOK_EACH) && lives.has_ended(&name, LOOK_EACH));
        assert!(!lives.look(2 * LOOK_EACH), "told before");
        lives.look(LOOK_EACH + REMEMBERED);
        assert!(lives.known.is_empty());
    }

    #[test]
    fn the_more_there_are_the_less_often_each_is_looked_up() {
        let mut lives = Lives::new();
        for random in 0..20 {
            assert!(!lives.has_ended(&name(&lives, 1, random), 0));
        }
        lives.look(0);
        assert_eq!(lives.look_at, 20 * LOOK_EACH_OF);
    }
}
