//! A ledger in a file, for the processes of one host.
//!
//! Each owner's books are the record of a cell (`cells.rs`). A batch is handled under the file's lock, which
//! the operating system takes from a process that ends. The file is not for network file systems: there the
//! lock may hold for one machine alone.
//!
//! If the file is removed or replaced, the next batch goes to the file that is then at the path. If there is
//! none, a new one is made. Its books learn if this ledger has used a file before. If it has not, the file is
//! taken for the first one ever. So processes that start just after the file was removed may be granted what
//! others still use, for as long as none of these has spoken.

use std::fs::{File, TryLockError};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::cells::{Cells, Found, Moment};
use super::fault::{Fault, Lost};
use super::lives::Lives;
use super::place::{FileId, Place};
use crate::base::clock::Clock;
use crate::base::fork::{Forks, tell};
use crate::base::rng::Rng;
use crate::base::sync::{Mutex, hold};
use crate::base::time::Nanos;
use crate::base::wall;
use crate::shared::{Books, MOST, Message, Micros, Reply, Terms};

/// How often a batch follows a file that is replaced.
const TRIES: usize = 10;

/// A process that waits for the lock looks so often at once: a batch takes some microseconds.
const LOOKS: u32 = 50;

/// Then it sleeps between two looks, longer each time.
const SHORTEST_SLEEP: Duration = Duration::from_micros(50);
const LONGEST_SLEEP: Duration = Duration::from_millis(1);

/// A ledger in a file.
pub(crate) struct FileLedger(Arc<Inner>);

struct Inner {
    place: Place,
    learn: Micros,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// Whether a file was used before.
    had_one: bool,
    /// The news of the file when they were last read.
    news: u64,
    /// How often something happened of which no file tells: a process ended, or the file was replaced.
    alarms: u64,
}

struct Open {
    file: Arc<File>,
    id: FileId,
    cells: Cells,
    lives: Lives,
}

/// The lock of a file, until it is dropped.
struct Locked(Arc<File>);

impl FileLedger {
    /// Makes a ledger. Its file is opened when it is first used.
    pub(crate) fn new(place: Place, learn: Micros) -> Self {
        let inner = Arc::new(Inner { place, learn, clock: Clock::system(), state: Mutex::default() });
        let forks: Arc<dyn Forks> = Arc::<Inner>::clone(&inner);
        tell(Arc::downgrade(&forks));
        Self(inner)
    }

    pub(crate) fn place(&self) -> &Place {
        &self.0.place
    }

    /// Handles a batch under one lock, for which it waits at most this long.
    ///
    /// # Errors
    /// If the file cannot be used. Some messages of the batch may have been handled even so.
    pub(crate) fn exchange(&self, batch: &[Message], patience: Nanos) -> Result<Vec<Reply>, Lost> {
        let mut state = hold(&self.0.state);
        self.0.exchange(&mut state, batch, patience).map_err(|fault| fault.at(self.0.place.path()))
    }

    /// Returns a number that is another one if something happened that a process may wait for: some process
    /// lacks units, or some came back, or a process ended, or the file was replaced. It takes no lock.
    pub(crate) fn news(&self) -> u64 {
        let mut state = hold(&self.0.state);
        if let Some(open) = &mut state.open {
            if !open.lives.identity.is_this_process() || !self.0.place.has(open.id) {
                state.drop_file();
            } else if let Ok(news) = open.cells.news() {
                let has_one_ended = open.lives.look(self.0.clock.now());
                state.news = news;
                state.alarms = state.alarms.wrapping_add(u64::from(has_one_ended));
            }
        }
        state.news.wrapping_add(state.alarms)
    }

    /// Closes the file. It is opened again when it is next used.
    pub(crate) fn close(&self) {
        hold(&self.0.state).open = None;
    }
}

impl Inner {
    fn exchange(&self, state: &mut State, batch: &[Message], patience: Nanos) -> Result<Vec<Reply>, Fault> {
        let deadline = self.clock.now().saturating_add(patience);
        for _ in 0..TRIES {
            let open = match &mut state.open {
                Some(open) => open,
                none => none.insert(Open::new(&self.place)?),
            };
            // A forked child must not even try its parent's lock: it would have it, and give it back.
            if !open.lives.identity.is_this_process() {
                state.drop_file();
                continue;
            }
            if open.lives.look(self.clock.now()) {
                state.alarms = state.alarms.wrapping_add(1);
            }
            let _locked = self.lock(&open.file, deadline)?;
            if !self.place.has(open.id) {
                state.drop_file();
                continue;
            }
            let moment = Moment { now: now(), steady: self.clock.now(), learn: self.learn };
            let handled = open.cells.begin(moment, state.had_one).and_then(|()| {
                state.had_one = true;
                Self::handle(open, batch, moment)
            });
            if handled.is_err() {
                open.cells.distrust();
            }
            return handled;
        }
        Err(Fault::Restless)
    }

    fn lock(&self, file: &Arc<File>, deadline: Nanos) -> Result<Locked, Fault> {
        let mut looks = 0;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Locked(Arc::clone(file))),
                Err(TryLockError::Error(error)) => return Err(Fault::Lock(error)),
                Err(TryLockError::WouldBlock) if self.clock.now() >= deadline => return Err(Fault::Locked),
                Err(TryLockError::WouldBlock) => {}
            }
            if looks < LOOKS {
                thread::yield_now();
            } else {
                thread::sleep((SHORTEST_SLEEP * (looks - LOOKS + 1)).min(LONGEST_SLEEP));
            }
            looks += 1;
        }
    }

    fn handle(open: &mut Open, batch: &[Message], moment: Moment) -> Result<Vec<Reply>, Fault> {
        let rng = Rng::new(None);
        let (mut replies, mut news) = (Vec::with_capacity(batch.len()), 0_u64);
        for message in batch {
            let found = open.cells.find(&message.owner, moment)?;
            if found.is_none() && open.cells.is_crowded() {
                news = news.saturating_add(open.sweep(moment)?);
            }
            let mut books = open.books(found.as_ref(), moment)?;
            let (run, learn) = (open.cells.run(), open.cells.learning(moment));
            let life = rng.below(MOST).saturating_add(1);
            replies.push(books.sync(message, Terms { now: moment.now, run, life, learn }));
            news = news.saturating_add(books.take_news());
            open.keep(&message.owner, found, &books)?;
        }
        if news > 0 {
            open.cells.add_news(news)?;
        }
        Ok(replies)
    }
}

impl Forks for Inner {
    /// Closes the child's copy of the file. Otherwise it would keep the parent's lock if the parent is killed
    /// amid a batch.
    fn after_fork(&self) {
        hold(&self.state).open = None;
    }
}

impl State {
    /// Turns to the file that is now at the path.
    fn drop_file(&mut self) {
        self.open = None;
        self.alarms = self.alarms.wrapping_add(1);
    }
}

impl Open {
    fn new(place: &Place) -> Result<Self, Fault> {
        let (file, id) = place.open()?;
        let file = Arc::new(file);
        Ok(Self { cells: Cells::new(Arc::clone(&file)), file, id, lives: Lives::new() })
    }

    /// Returns the books of an owner, without processes that have ended.
    fn books(&mut self, found: Option<&Found>, moment: Moment) -> Result<Books, Fault> {
        let Some(found) = found else { return Ok(Books::default()) };
        let Some(mut books) = Books::from_record(&found.value) else {
            self.cells.lose(moment)?;
            return Ok(Books::default());
        };
        let ended: Vec<_> = books.members().filter(|name| self.lives.has_ended(name, moment.steady)).cloned().collect();
        for name in &ended {
            books.bury(name);
        }
        Ok(books)
    }

    fn keep(&mut self, owner: &Arc<str>, found: Option<Found>, books: &Books) -> Result<(), Fault> {
        match found {
            Some(found) if books.is_empty() => self.cells.remove(owner, &found),
            None if books.is_empty() => Ok(()),
            found => self.cells.keep(owner, found.as_ref(), &books.record()),
        }
    }

    /// Forgets owners of whom nobody speaks any more. Returns the news.
    fn sweep(&mut self, moment: Moment) -> Result<u64, Fault> {
        let mut news = 0_u64;
        for owner in self.cells.keys() {
            let Some(found) = self.cells.find(&owner, moment)? else { continue };
            let mut books = self.books(Some(&found), moment)?;
            books.tidy(moment.now);
            news = news.saturating_add(books.take_news());
            self.keep(&owner, Some(found), &books)?;
        }
        Ok(news)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // If this fails, the lock goes with the file.
        _ = self.0.unlock();
    }
}

/// Returns the wall clock's time: all processes of a host agree on it, and windows follow it.
fn now() -> Micros {
    u64::try_from(wall::micros()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::base::time::SECOND;
    use crate::shared::{Ask, Kind, Row};
    use crate::stores::place::tests::Folder;
    #[cfg(target_os = "linux")]
    use crate::stores::process::Identity;

    const LEARN: Micros = 3_000_000;

    /// The ledgers of some processes, with one file.
    fn ledgers<const N: usize>(folder: &Folder) -> [FileLedger; N] {
        [(); N].map(|()| FileLedger::new(Place::new(folder.0.join("ledger"), false), LEARN))
    }

    /// A process that wants so many places of an owner that has ten, or none.
    fn wants(owner: &str, process: &str, number: u64, target: u64) -> Message {
        let row = Row { least: target, target, ..Row::default() };
        let asks = vec![Ask { meter: 1, kind: Kind::Places, limit: 10, rows: vec![row] }];
        let lease = 10_000_000;
        Message { owner: owner.into(), process: process.into(), number, life: 0, lease, busy_for: 0, asks }
    }

    fn leaves(owner: &str, process: &str, number: u64) -> Message {
        Message { lease: 0, ..wants(owner, process, number, 0) }
    }

    fn held(reply: &Reply) -> u64 {
        reply.answers[0].rows[0].held
    }

    fn exchange(ledger: &FileLedger, batch: &[Message]) -> Vec<Reply> {
        ledger.exchange(batch, SECOND / 2).unwrap()
    }

    #[test]
    fn processes_share_a_limit() {
        let folder = Folder::new();
        let [one, other] = ledgers(&folder);
        let news = one.news();
        let all = exchange(&one, &[wants("a", "p", 1, 10), wants("b", "p", 1, 2)]);
        assert_eq!((held(&all[0]), held(&all[1]), all[0].learning), (10, 2, 0), "the first file: nothing to learn");
        let news_of_file = one.news();
        assert_eq!((news, one.news()), (0, news_of_file));
        let rest = exchange(&other, &[wants("a", "q", 1, 10), wants("b", "q", 1, 8)]);
        assert_eq!((held(&rest[0]), held(&rest[1]), rest[0].members), (0, 8, 2));
        assert!(one.news() != news_of_file && one.news() == other.news(), "one lacks what it needs");
    }

    #[test]
    fn a_removed_file_is_made_again_and_learns() {
        let folder = Folder::new();
        let [one, other, third] = ledgers(&folder);
        exchange(&one, &[wants("a", "p", 1, 10)]);
        exchange(&other, &[wants("a", "q", 1, 10)]);
        let news = (one.news(), other.news());
        fs::remove_file(one.place().path()).unwrap();
        assert!(one.news() != news.0 && other.news() != news.1, "all should speak");
        assert_eq!(one.news(), one.news());
        for (ledger, process) in [(&one, "p"), (&other, "q")] {
            let reply = &exchange(ledger, &[wants("a", process, 2, 10)])[0];
            assert!(held(reply) == 0 && reply.learning > LEARN / 2);
        }
        assert!(exchange(&third, &[wants("b", "r", 1, 10)])[0].learning > 0, "owners that are new learn too");
    }

    #[test]
    fn a_file_that_is_moved_away_is_left() {
        let folder = Folder::new();
        let [one, other] = ledgers(&folder);
        exchange(&one, &[wants("a", "p", 1, 10)]);
        fs::rename(one.place().path(), folder.0.join("elsewhere")).unwrap();
        assert_eq!(held(&exchange(&other, &[wants("a", "q", 1, 10)])[0]), 10);
        assert_eq!(held(&exchange(&one, &[wants("a", "p", 2, 10)])[0]), 0);
    }

    #[test]
    fn who_waits_too_long_for_the_lock_is_told_and_may_come_again() {
        let folder = Folder::new();
        let [one] = ledgers(&folder);
        exchange(&one, &[wants("a", "p", 1, 1)]);
        let locked = File::open(one.place().path()).unwrap();
        locked.lock().unwrap();
        let lost = one.exchange(&[wants("a", "p", 2, 1)], SECOND / 50).unwrap_err();
        let path = one.place().path().display().to_string();
        assert!(lost.is_locked());
        assert_eq!(lost.to_string(), format!("the shared file {path} is locked by another process, which may have been stopped"));
        one.news();
        drop(locked);
        assert_eq!(held(&exchange(&one, &[wants("a", "p", 2, 1)])[0]), 1);
    }

    #[test]
    fn faults_name_the_file() {
        let folder = Folder::new();
        let [one] = ledgers(&folder);
        fs::write(one.place().path(), b"turnout\n\x02\0\0\0\0\0\0\0").unwrap();
        fs::set_permissions(one.place().path(), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let said = one.exchange(&[], 0).unwrap_err().to_string();
        let expected = format!("the shared file {} has layout 2, but", one.place().path().display());
        assert!(said.starts_with(&expected), "{said}");
    }

    #[test]
    fn an_owner_whose_record_is_not_read_learns() {
        let folder = Folder::new();
        let [one] = ledgers(&folder);
        exchange(&one, &[wants("a", "p", 1, 1), wants("b", "p", 1, 1)]);
        {
            let mut state = hold(&one.0.state);
            let open = state.open.as_mut().unwrap();
            let moment = Moment { now: now(), steady: 0, learn: LEARN };
            let found = open.cells.find("a", moment).unwrap();
            open.cells.keep(&"a".into(), found.as_ref(), b"no books").unwrap();
        }
        let replies = exchange(&one, &[wants("a", "p", 2, 1), wants("b", "p", 2, 1)]);
        assert!(replies[0].learning > 0 && held(&replies[0]) == 0);
        assert!(replies[1].learning == 0 && held(&replies[1]) == 1);
    }

    #[test]
    fn owners_that_are_left_make_room() {
        let folder = Folder::new();
        let [one] = ledgers(&folder);
        let length = || fs::metadata(one.place().path()).unwrap().len();
        exchange(&one, &[wants("a", "p", 1, 1)]);
        let least = length();
        for number in 0..100 {
            exchange(&one, &[wants("b", "p", number * 2 + 1, 1), leaves("b", "p", number * 2 + 2)]);
        }
        assert_eq!(length(), least + 1032, "a second cell");
        // Members whose leases are over never leave.
        let gone = |owner: u64| Message { lease: 1, ..wants(&format!("gone {owner}"), "p", 1, 0) };
        for owner in 0..500 {
            exchange(&one, &[gone(owner)]);
        }
        assert!(length() < 64 + 1032 * 66, "{}", length());
        assert_eq!(held(&exchange(&one, &[wants("a", "p", 2, 1)])[0]), 1);
    }

    #[test]
    fn a_closed_ledger_and_a_forked_one_open_the_file_again() {
        let folder = Folder::new();
        let [one] = ledgers(&folder);
        exchange(&one, &[wants("a", "p", 1, 3)]);
        one.close();
        assert!(hold(&one.0.state).open.is_none());
        assert_eq!(held(&exchange(&one, &[wants("a", "q", 1, 7)])[0]), 7);
        one.0.after_fork();
        assert!(hold(&one.0.state).open.is_none());
        assert_eq!(held(&exchange(&one, &[wants("a", "p", 2, 3)])[0]), 3);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_dead_process_gives_back_its_places() {
        let folder = Folder::new();
        let [one] = ledgers(&folder);
        let own = Identity::find().new_name();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let told = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let realm = own.split(':').next().unwrap();
        let other = format!("{realm}:{}:{}:0", child.id(), told.split_whitespace().nth(21).unwrap());
        exchange(&one, &[wants("a", &other, 1, 10), wants("b", &other, 1, 10)]);
        assert_eq!(held(&exchange(&one, &[wants("a", &own, 1, 5)])[0]), 0);
        let news = one.news();
        child.kill().unwrap();
        child.wait().unwrap();
        while one.news() == news {
            thread::sleep(SHORTEST_SLEEP);
        }
        assert_eq!(held(&exchange(&one, &[wants("a", &own, 2, 5)])[0]), 5);
        assert_eq!(held(&exchange(&one, &[wants("b", &own, 1, 5)])[0]), 5);
        // Another process with that pid.
        let was = format!("{realm}:1:1:0");
        exchange(&one, &[wants("c", &was, 1, 10)]);
        assert_eq!(held(&exchange(&one, &[wants("c", &own, 1, 5)])[0]), 5);
    }

    #[test]
    fn a_batch_that_fails_amid_does_no_harm() {
        let folder = Folder::new();
        let [one, other] = ledgers(&folder);
        exchange(&one, &[wants("a", "p", 1, 1)]);
        {
            // A file that is open only for reading cannot be written.
            let mut state = hold(&one.0.state);
            let open = state.open.as_mut().unwrap();
            let file = Arc::new(File::open(one.place().path()).unwrap());
            open.cells = Cells::new(Arc::clone(&file));
            open.file = file;
        }
        let said = one.exchange(&[wants("a", "p", 2, 10)], 0).unwrap_err().to_string();
        assert!(said.contains("cannot be written: ") && said.ends_with("; what was written before still counts"), "{said}");
        let reply = exchange(&other, &[wants("a", "q", 1, 9)]);
        assert_eq!((held(&reply[0]), reply[0].members), (9, 2));
    }
}
