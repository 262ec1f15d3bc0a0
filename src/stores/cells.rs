//! A file of cells: each keeps a record under a key, and is changed without touching the others.
//!
//! | bytes of the file | what |
//! |---|---|
//! | 0 to 31 | what the file is: the magic word, the layout, the run, and their checksum |
//! | 32 to 63 | four words that change: the arrangement, the end, the news, the end of learning |
//! | from 64 to the end | cells, one after the other |
//!
//! A cell is a word that tells its capacity, and two halves (see `half.rs`) of as many bytes. Its record is
//! the length of the key, the key and the value. A cell without a record is free. All numbers are
//! little-endian.
//!
//! A writer may be killed between any two of its writes. What it leaves is right at each step:
//!
//! - A change of a value touches one half.
//! - The four words are written one at a time, and a word is written whole or not at all.
//! - A new cell is written behind the end. Only then the end moves.
//! - A value that outgrows its cell is written to another cell, with a greater number. Only then the first
//!   cell becomes free. If a key has two cells, the one with the greater number counts.
//! - The arrangement tells which key is in which cell. Its number is raised before it changes, so that no
//!   other process works by an old one.
//!
//! A file is used under its lock. Only the news are read without.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::fault::Fault;
use super::half::{HEAD, checksum, counting, word, written};
use crate::base::rng::Rng;
use crate::base::time::Nanos;
use crate::shared::Micros;

const MAGIC: u64 = u64::from_le_bytes(*b"turnout\n");

/// The number of this layout. Another layout has another number. Both stay where they are in every layout.
pub(super) const LAYOUT: u64 = 1;

const HEADER: usize = 64;
const CELLS_AT: u64 = HEADER as u64;
const ARRANGEMENT_AT: u64 = 32;
const END_AT: u64 = 40;
const NEWS_AT: u64 = 48;
const LEARNS_UNTIL_AT: u64 = 56;

/// The word that tells a cell's capacity.
const CELL_HEAD: usize = 8;

/// A half has at least this capacity, and at most that. It is a power of two.
const LEAST_CAPACITY: u32 = 512;
const MOST_CAPACITY: u32 = 1 << 30;

/// Fewer keys than this are never looked through for old ones.
const FEW: usize = 64;

/// The header of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Header {
    /// A name of the file's life. If the file loses something, it begins anew under another name.
    run: u64,
    arrangement: u64,
    end: u64,
    news: u64,
    /// Until when the books of a new owner learn: the file has lost owners. 0 for not at all.
    learns_until: Micros,
}

/// Where a key's record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    at: u64,
    capacity: u32,
}

/// A record as it was found.
#[derive(Debug)]
pub(super) struct Found {
    cell: Cell,
    half: usize,
    number: u64,
    pub(super) value: Vec<u8>,
}

/// The moment at which a file is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Micros,
    /// The time of a clock that is never set.
    pub(super) steady: Nanos,
    /// How long the books learn after a loss.
    pub(super) learn: Micros,
}

/// A file of cells.
#[derive(Debug)]
pub(super) struct Cells {
    file: Arc<File>,
    header: Header,
    /// Where each key is in the arrangement of the header. None if that must be found out.
    keys: Option<FxHashMap<Arc<str>, Cell>>,
    free: Vec<Cell>,
    /// What was written and where, if a test asks for it.
    #[cfg(test)]
    writes: Option<Vec<(u64, Vec<u8>)>>,
}

impl Cells {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self {
            file,
            header: Header::default(),
            keys: None,
            free: Vec::new(),
            #[cfg(test)]
            writes: None,
        }
    }

    /// Begins to use the file, with its lock. An empty file becomes one of cells; if `is_known_lost`, there
    /// was another one before.
    pub(super) fn begin(&mut self, moment: Moment, is_known_lost: bool) -> Result<(), Fault> {
        let mut bytes = [0; HEADER];
        let length = self.read_up_to(&mut bytes)?;
        let bytes = bytes.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return self.reset(moment, is_known_lost);
        }
        let Some(header) = Header::read(bytes)? else { return self.reset(moment, true) };
        let is_arranged = (header.run, header.arrangement) == (self.header.run, self.header.arrangement);
        self.header = header;
        if is_arranged && self.keys.is_some() { Ok(()) } else { self.look_through(moment) }
    }

    /// Looks the file through anew when it is next used: a change may have been left half done.
    pub(super) fn distrust(&mut self) {
        self.keys = None;
    }

    pub(super) fn run(&self) -> u64 {
        self.header.run
    }

    /// Returns how long the books of a new owner learn.
    pub(super) fn learning(&self, moment: Moment) -> Micros {
        // More than the whole time is left only if the clock has stepped back.
        Some(self.header.learns_until.saturating_sub(moment.now)).filter(|&left| left <= moment.learn).unwrap_or(0)
    }

    /// Notes that the file has lost owners. That is news: all processes should tell what they hold.
    pub(super) fn lose(&mut self, moment: Moment) -> Result<(), Fault> {
        self.header.learns_until = moment.now.saturating_add(moment.learn);
        self.write(LEARNS_UNTIL_AT, &self.header.learns_until.to_le_bytes())?;
        self.add_news(1)
    }

    /// Reads the news. This needs no lock.
    pub(super) fn news(&self) -> io::Result<u64> {
        let mut news = [0; 8];
        self.file.read_exact_at(&mut news, NEWS_AT)?;
        Ok(u64::from_le_bytes(news))
    }

    /// Adds to the news.
    pub(super) fn add_news(&mut self, news: u64) -> Result<(), Fault> {
        self.header.news = self.header.news.wrapping_add(news);
        self.write(NEWS_AT, &self.header.news.to_le_bytes())
    }

    /// Finds the record of a key.
    pub(super) fn find(&mut self, key: &str, moment: Moment) -> Result<Option<Found>, Fault> {
        let Some(&cell) = self.keys.as_ref().and_then(|keys| keys.get(key)) else { return Ok(None) };
        let Some(bytes) = self.read_cell(cell)? else {
            self.reset(moment, true)?; // the file became shorter
            return Ok(None);
        };
        if let Some((half, number, record)) = counting(&bytes)
            && let Some((found, value)) = entry(record)
            && found == key
        {
            return Ok(Some(Found { cell, half, number, value: value.to_vec() }));
        }
        self.lose(moment)?;
        self.rearrange()?;
        self.release(cell, 0, 1)?;
        self.keys.as_mut().map(|keys| keys.remove(key));
        Ok(None)
    }

    /// Keeps a value under a key, which was found like this.
    pub(super) fn keep(&mut self, key: &Arc<str>, found: Option<&Found>, value: &[u8]) -> Result<(), Fault> {
        let record = [&(key.len() as u64).to_le_bytes(), key.as_bytes(), value].concat();
        if let Some(found) = found
            && found.cell.has_room_for(&record)
        {
            return self.write_half(found.cell, 1 - found.half, found.number.wrapping_add(1), &record);
        }
        self.rearrange()?;
        let cell = self.settle(&record, found.map_or(0, |found| found.number))?;
        self.keys.get_or_insert_default().insert(Arc::clone(key), cell);
        found.map_or(Ok(()), |found| self.release(found.cell, 1 - found.half, found.number.wrapping_add(1)))
    }

    /// Removes a key, which was found like this.
    pub(super) fn remove(&mut self, key: &str, found: &Found) -> Result<(), Fault> {
        self.rearrange()?;
        self.release(found.cell, 1 - found.half, found.number.wrapping_add(1))?;
        self.keys.as_mut().map(|keys| keys.remove(key));
        Ok(())
    }

    /// Returns whether old keys should make room before a new one comes. It is so when their number has
    /// doubled, and the file would grow.
    pub(super) fn is_crowded(&self) -> bool {
        let keys = self.keys.as_ref().map_or(0, FxHashMap::len);
        keys >= FEW && keys.is_power_of_two() && self.free.is_empty()
    }

    pub(super) fn keys(&self) -> Vec<Arc<str>> {
        self.keys.iter().flat_map(FxHashMap::keys).cloned().collect()
    }

    /// Begins anew.
    fn reset(&mut self, moment: Moment, is_loss: bool) -> Result<(), Fault> {
        let run = Rng::new(None).below(u64::MAX);
        let learns_until = if is_loss { moment.now.saturating_add(moment.learn) } else { 0 };
        // The news begin at a number that nobody has seen here.
        self.header = Header { run, arrangement: 1, end: CELLS_AT, news: moment.now, learns_until };
        (self.keys, self.free) = (None, Vec::new());
        self.write(0, &self.header.written())?;
        self.file.set_len(CELLS_AT).map_err(Fault::Write)?;
        self.keys = Some(FxHashMap::default());
        Ok(())
    }

    /// Finds out which key is in which cell.
    fn look_through(&mut self, moment: Moment) -> Result<(), Fault> {
        (self.keys, self.free) = (None, Vec::new());
        let length = self.file.metadata().map_err(Fault::Read)?.len();
        let Some(length) = self.header.end.checked_sub(CELLS_AT).filter(|_| self.header.end <= length) else {
            return self.reset(moment, true); // the file became shorter
        };
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| Fault::Read(ErrorKind::FileTooLarge.into()))?];
        self.file.read_exact_at(&mut bytes, CELLS_AT).map_err(Fault::Read)?;

        let (mut rest, mut at) = (&bytes[..], CELLS_AT);
        let mut cells: FxHashMap<Arc<str>, (Cell, usize, u64)> = FxHashMap::default();
        let mut superseded = Vec::new();
        while !rest.is_empty() {
            let Some((capacity, halves, behind)) = split_cell(rest) else { return self.reset(moment, true) };
            let cell = Cell { at, capacity };
            at += cell.size();
            rest = behind;
            let Some((half, number, record)) = counting(halves) else {
                self.lose(moment)?;
                self.release(cell, 0, 1)?;
                continue;
            };
            let Some((key, _)) = entry(record) else {
                self.free.push(cell);
                continue;
            };
            let (newer, older) = match cells.get(key).copied() {
                Some(known) if known.2 > number => (known, Some((cell, half, number))),
                known => ((cell, half, number), known),
            };
            superseded.extend(older);
            cells.insert(key.into(), newer);
        }
        for (cell, half, number) in superseded {
            self.release(cell, 1 - half, number.wrapping_add(1))?;
        }
        self.keys = Some(cells.into_iter().map(|(key, (cell, ..))| (key, cell)).collect());
        Ok(())
    }

    /// Makes other processes look the file through before they use it again.
    fn rearrange(&mut self) -> Result<(), Fault> {
        self.header.arrangement = self.header.arrangement.wrapping_add(1);
        self.write(ARRANGEMENT_AT, &self.header.arrangement.to_le_bytes())
    }

    /// Writes a record to a free cell, or to a new one. Its number is greater than `number`.
    fn settle(&mut self, record: &[u8], number: u64) -> Result<Cell, Fault> {
        if let Some(place) = self.free.iter().position(|cell| cell.has_room_for(record)) {
            let cell = self.free.swap_remove(place);
            let bytes = self.read_cell(cell)?.unwrap_or_default();
            let (half, last) = counting(&bytes).map_or((1, 0), |(half, last, _)| (half, last));
            self.write_half(cell, 1 - half, last.max(number).wrapping_add(1), record)?;
            return Ok(cell);
        }
        let cell = Cell::for_record(self.header.end, record)?;
        let half = written(number.wrapping_add(1), record);
        // All of it is written now: later the disk may be full.
        let mut bytes = vec![0; cell.capacity as usize * 2];
        bytes.splice(..half.len(), half);
        self.write(cell.at, &[&cell.head(), &bytes[..]].concat())?;
        self.header.end += cell.size();
        self.write(END_AT, &self.header.end.to_le_bytes())?;
        Ok(cell)
    }

    /// Makes a cell free by writing this half of it.
    fn release(&mut self, cell: Cell, half: usize, number: u64) -> Result<(), Fault> {
        self.write_half(cell, half, number, &[])?;
        self.free.push(cell);
        Ok(())
    }

    fn write_half(&mut self, cell: Cell, half: usize, number: u64, record: &[u8]) -> Result<(), Fault> {
        let at = cell.at + CELL_HEAD as u64 + if half == 0 { 0 } else { u64::from(cell.capacity) };
        self.write(at, &written(number, record))
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        #[cfg(test)]
        if let Some(writes) = &mut self.writes {
            writes.push((at, bytes.to_vec()));
        }
        self.file.write_all_at(bytes, at).map_err(Fault::Write)
    }

    /// Reads both halves of a cell. None if the file is too short.
    fn read_cell(&self, cell: Cell) -> Result<Option<Vec<u8>>, Fault> {
        let mut bytes = vec![0; cell.capacity as usize * 2];
        match self.file.read_exact_at(&mut bytes, cell.at + CELL_HEAD as u64) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(Fault::Read(error)),
        }
    }

    fn read_up_to(&self, bytes: &mut [u8]) -> Result<usize, Fault> {
        loop {
            match self.file.read_at(bytes, 0) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read.map_err(Fault::Read),
            }
        }
    }
}

impl Header {
    /// Reads a header. None if it is damaged.
    fn read(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let mut words = [0; HEADER / 8];
        let mut rest = bytes;
        for to in &mut words {
            let Some((word, behind)) = word(rest) else { break };
            (*to, rest) = (word, behind);
        }
        let [magic, layout, run, sum, arrangement, end, news, learns_until] = words;
        if magic != MAGIC {
            // A killed process may leave the beginning of a header, and a disk that lost power zeros.
            let is_ours = MAGIC.to_le_bytes().starts_with(bytes) || bytes.iter().all(|&byte| byte == 0);
            return if is_ours { Ok(None) } else { Err(Fault::Foreign) };
        }
        if bytes.len() >= 16 && layout != LAYOUT {
            return Err(Fault::Layout { theirs: layout, ours: LAYOUT });
        }
        let is_whole = bytes.len() == HEADER && sum == checksum(run, &layout.to_le_bytes());
        Ok(is_whole.then_some(Self { run, arrangement, end, news, learns_until }))
    }

    fn written(&self) -> Vec<u8> {
        let sum = checksum(self.run, &LAYOUT.to_le_bytes());
        let words = [MAGIC, LAYOUT, self.run, sum, self.arrangement, self.end, self.news, self.learns_until];
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }
}

impl Cell {
    /// Makes a cell in which the record can grow.
    fn for_record(at: u64, record: &[u8]) -> Result<Self, Fault> {
        let needed = HEAD + record.len();
        let capacity = u32::try_from(needed + needed / 2).ok().and_then(u32::checked_next_power_of_two);
        match capacity {
            Some(capacity) if capacity <= MOST_CAPACITY => Ok(Self { at, capacity: capacity.max(LEAST_CAPACITY) }),
            _ => Err(Fault::Write(ErrorKind::FileTooLarge.into())),
        }
    }

    /// The capacity, and the same inverted.
    fn head(self) -> [u8; CELL_HEAD] {
        (u64::from(!self.capacity) << 32 | u64::from(self.capacity)).to_le_bytes()
    }

    fn size(self) -> u64 {
        CELL_HEAD as u64 + 2 * u64::from(self.capacity)
    }

    fn has_room_for(self, record: &[u8]) -> bool {
        HEAD + record.len() <= self.capacity as usize
    }
}

/// Takes a cell off the beginning of bytes: its capacity and its halves. None if there is none.
fn split_cell(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (head, rest) = word(bytes)?;
    let (capacity, inverted) = (head & u64::from(u32::MAX), head >> 32);
    let capacity = u32::try_from(capacity).ok().filter(|&capacity| u64::from(!capacity) == inverted)?;
    let is_possible = capacity.is_power_of_two() && (LEAST_CAPACITY..=MOST_CAPACITY).contains(&capacity);
    let (halves, rest) = rest.split_at_checked(2 * usize::try_from(capacity).ok()?)?;
    is_possible.then_some((capacity, halves, rest))
}

/// Reads the key and the value of a record. None if the cell is free.
fn entry(record: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = word(record)?;
    let (key, value) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((std::str::from_utf8(key).ok()?, value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::stores::place::Place;
    use crate::stores::place::tests::Folder;

    const MOMENT: Moment = Moment { now: 1_000_000, steady: 0, learn: 3_000 };

    /// A file that two processes use in turn.
    struct Shared {
        _folder: Folder,
        file: Arc<File>,
        users: [Cells; 2],
    }

    impl Shared {
        fn new() -> Self {
            let folder = Folder::new();
            let place = Place::new(folder.0.join("ledger"), false);
            let users = [0, 1].map(|_| Cells::new(Arc::new(place.open().unwrap().0)));
            Self { _folder: folder, file: Arc::new(place.open().unwrap().0), users }
        }

        fn begin(&mut self, user: usize) -> &mut Cells {
            let cells = &mut self.users[user];
            cells.begin(MOMENT, false).unwrap();
            cells
        }

        fn put(&mut self, user: usize, key: &str, value: &[u8]) {
            let cells = self.begin(user);
            let found = cells.find(key, MOMENT).unwrap();
            cells.keep(&key.into(), found.as_ref(), value).unwrap();
        }

        fn get(&mut self, user: usize, key: &str) -> Option<Vec<u8>> {
            self.begin(user).find(key, MOMENT).unwrap().map(|found| found.value)
        }

        fn remove(&mut self, user: usize, key: &str) {
            let cells = self.begin(user);
            if let Some(found) = cells.find(key, MOMENT).unwrap() {
                cells.remove(key, &found).unwrap();
            }
        }

        fn length(&self) -> u64 {
            self.file.metadata().unwrap().len()
        }

        fn bytes(&self) -> Vec<u8> {
            let mut bytes = vec![0; usize::try_from(self.length()).unwrap()];
            self.file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        }

        /// How long new owners learn.
        fn learning(&mut self) -> u64 {
            self.begin(0).learning(MOMENT)
        }
    }

    #[test]
    fn each_user_sees_what_the_other_wrote() {
        let mut shared = Shared::new();
        shared.put(0, "one", b"1");
        shared.put(1, "other", b"2");
        shared.put(1, "one", b"3");
        assert_eq!((shared.get(0, "one"), shared.get(0, "other")), (Some(b"3".to_vec()), Some(b"2".to_vec())));
        shared.remove(0, "one");
        assert_eq!((shared.get(1, "one"), shared.get(1, "other")), (None, Some(b"2".to_vec())));
        assert_eq!(shared.learning(), 0);
    }

    #[test]
    fn a_cell_is_used_again() {
        let mut shared = Shared::new();
        shared.put(0, "one", b"1");
        let length = shared.length();
        shared.remove(0, "one");
        shared.put(1, "other", b"2");
        assert_eq!((shared.length(), shared.get(0, "other")), (length, Some(b"2".to_vec())));
        shared.put(0, "other", &[7; 2000]);
        shared.put(1, "third", b"3");
        assert_eq!((shared.get(1, "other"), shared.get(0, "third")), (Some(vec![7; 2000]), Some(b"3".to_vec())));
        assert_eq!(shared.length(), length + 8 + 2 * 4096, "the first cell has become the third key's");
    }

    #[test]
    fn a_file_that_became_shorter_begins_anew_and_learns() {
        for length in [64, 65, 1000] {
            let mut shared = Shared::new();
            shared.put(0, "one", b"1");
            shared.put(0, "other", b"2");
            shared.begin(1);
            let run = shared.users[1].run();
            shared.file.set_len(length).unwrap();
            assert_eq!((shared.get(1, "other"), shared.get(0, "one")), (None, None));
            assert_eq!((shared.learning(), shared.length()), (MOMENT.learn, 64));
            assert_ne!(shared.users[0].run(), run);
        }
    }

    #[test]
    fn a_header_is_mended_if_it_is_ours() {
        for (at, bytes) in [(16, &b"damage"[..]), (24, &b"damage"[..]), (0, &[0; 64][..])] {
            let mut shared = Shared::new();
            shared.put(0, "one", b"1");
            if at == 0 {
                shared.file.set_len(0).unwrap(); // nothing but zeros
            }
            shared.file.write_all_at(bytes, at).unwrap();
            assert_eq!((shared.get(1, "one"), shared.learning()), (None, MOMENT.learn), "{at}");
        }
        for length in 1..64 {
            let mut shared = Shared::new();
            shared.put(0, "one", b"1");
            shared.file.set_len(length).unwrap();
            assert_eq!((shared.get(1, "one"), shared.learning()), (None, MOMENT.learn), "{length}");
        }
    }

    #[test]
    fn an_empty_file_is_the_first_one_unless_there_was_another() {
        for is_known_lost in [false, true] {
            let mut shared = Shared::new();
            shared.users[0].begin(MOMENT, is_known_lost).unwrap();
            assert_eq!(shared.learning(), if is_known_lost { MOMENT.learn } else { 0 });
        }
    }

    #[test]
    fn learning_ends() {
        let mut shared = Shared::new();
        shared.begin(0).lose(MOMENT).unwrap();
        let learning = |now| shared.users[0].learning(Moment { now, ..MOMENT });
        assert_eq!([1_000_000, 1_002_999, 1_003_000, 2_000_000].map(learning), [3_000, 1, 0, 0]);
        assert_eq!(learning(900_000), 0, "the clock stepped back");
    }

    #[test]
    fn what_is_not_ours_is_refused_and_stays() {
        let refused = |bytes: &[u8]| {
            let mut shared = Shared::new();
            shared.file.write_all_at(bytes, 0).unwrap();
            let fault = shared.users[0].begin(MOMENT, false).unwrap_err().to_string();
            assert_eq!(shared.bytes(), bytes);
            fault
        };
        assert!(refused(b"a letter").starts_with("is no shared file of turnout"));
        assert!(refused(b"?").starts_with("is no shared file of turnout"));
        let layout = [&MAGIC.to_le_bytes()[..], &7_u64.to_le_bytes(), b"whatever comes"].concat();
        assert!(refused(&layout).starts_with("has layout 7, but this version of turnout needs layout 1:"));
    }

    #[test]
    fn a_key_whose_halves_are_damaged_is_lost_and_the_others_stay() {
        for user in [0, 1] {
            let mut shared = Shared::new();
            shared.put(0, "one", b"1");
            shared.put(0, "other", b"2");
            let news = shared.users[0].news().unwrap();
            shared.file.write_all_at(&[0xff; 1024], CELLS_AT + CELL_HEAD as u64).unwrap();
            assert_eq!((shared.get(user, "one"), shared.get(user, "other")), (None, Some(b"2".to_vec())));
            assert_eq!(shared.learning(), MOMENT.learn);
            assert_ne!(shared.users[0].news().unwrap(), news);
            let length = shared.length();
            shared.put(1, "third", b"3");
            assert_eq!((shared.get(0, "third"), shared.length()), (Some(b"3".to_vec()), length));
        }
    }

    #[test]
    fn damage_between_cells_begins_anew() {
        let mut shared = Shared::new();
        shared.put(0, "one", b"1");
        shared.file.write_all_at(b"damage", CELLS_AT).unwrap();
        assert_eq!((shared.get(1, "one"), shared.learning()), (None, MOMENT.learn));
        shared.put(1, "one", b"2");
        assert_eq!(shared.get(0, "one"), Some(b"2".to_vec()));
    }

    #[test]
    fn keys_are_crowded_when_they_have_doubled() {
        let mut shared = Shared::new();
        let crowded: Vec<_> = (0..300_usize)
            .filter(|key| {
                let is_crowded = shared.begin(0).is_crowded();
                shared.put(0, &key.to_string(), b"");
                is_crowded
            })
            .collect();
        assert_eq!(crowded, [64, 128, 256]);
        shared.remove(0, "7");
        assert_eq!(shared.users[0].keys().len(), 299);
    }

    fn changes() -> impl Strategy<Value = Vec<(usize, u8, Option<usize>)>> {
        vec((0..2_usize, 0..5_u8, proptest::option::weighted(0.8, 0..1500_usize)), 1..30)
    }

    /// Applies a change: a value of some length for a key, or none.
    fn apply(shared: &mut Shared, model: &mut BTreeMap<String, Vec<u8>>, nth: usize, change: (usize, u8, Option<usize>)) {
        let (user, key, length) = change;
        let key = format!("key{key}");
        if let Some(length) = length {
            let value = vec![u8::try_from(nth % 250).unwrap(); length];
            shared.put(user, &key, &value);
            model.insert(key, value);
        } else {
            shared.remove(user, &key);
            model.remove(&key);
        }
    }

    fn kept(shared: &mut Shared, user: usize) -> BTreeMap<String, Vec<u8>> {
        (0..5).filter_map(|key| Some((format!("key{key}"), shared.get(user, &format!("key{key}"))?))).collect()
    }

    proptest! {
        #[test]
        fn a_file_is_a_map(changes in changes()) {
            let (mut shared, mut model) = (Shared::new(), BTreeMap::new());
            for (nth, change) in changes.into_iter().enumerate() {
                apply(&mut shared, &mut model, nth, change);
                prop_assert_eq!(&kept(&mut shared, 0), &model);
                prop_assert_eq!(&kept(&mut shared, 1), &model);
            }
            shared.users[0].distrust();
            prop_assert_eq!(&kept(&mut shared, 0), &model);
            prop_assert_eq!(shared.learning(), 0);
        }

        /// A writer that is killed has written the first so many bytes of what it would have written.
        #[test]
        fn a_killed_writer_leaves_the_state_before_or_after(changes in changes(), end in any::<prop::sample::Index>()) {
            let (mut shared, mut model) = (Shared::new(), BTreeMap::new());
            shared.begin(0);
            let last = changes.len() - 1;
            for (nth, &change) in changes.iter().enumerate().take(last) {
                apply(&mut shared, &mut model, nth, change);
            }
            let (before, older) = (shared.bytes(), model.clone());
            shared.users[changes[last].0].writes = Some(Vec::new());
            apply(&mut shared, &mut model, last, changes[last]);
            let writes = shared.users[changes[last].0].writes.take().unwrap();

            shared.file.set_len(0).unwrap();
            shared.file.write_all_at(&before, 0).unwrap();
            let mut left = end.index(writes.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + 1);
            for (at, bytes) in &writes {
                let is_word = bytes.len() == 8;
                let part = &bytes[..if left >= bytes.len() { bytes.len() } else if is_word { 0 } else { left }];
                shared.file.write_all_at(part, *at).unwrap();
                left -= bytes.len().min(left);
            }
            // The other process knows the arrangement before the change, a third one knows nothing.
            let other = 1 - changes[last].0;
            let found = kept(&mut shared, other);
            prop_assert!(found == older || found == model, "{:?}", found.keys());
            shared.users[1 - other] = Cells::new(Arc::clone(&shared.file));
            prop_assert_eq!(&kept(&mut shared, 1 - other), &found);
            prop_assert_eq!(shared.learning(), 0);
            // And all goes on.
            model = found;
            for (nth, &change) in changes.iter().enumerate() {
                apply(&mut shared, &mut model, nth, change);
                prop_assert_eq!(&kept(&mut shared, 0), &model);
            }
        }

        #[test]
        fn any_file_is_used_or_refused(bytes in vec(any::<u8>(), 0..3000), end in 0..4000_u64, is_ours in any::<bool>()) {
            let mut shared = Shared::new();
            shared.file.write_all_at(&bytes, 0).unwrap();
            if is_ours {
                let header = Header { run: 1, arrangement: 1, end, news: 0, learns_until: u64::MAX };
                shared.file.write_all_at(&header.written(), 0).unwrap();
                shared.file.write_all_at(&Cell { at: 0, capacity: 512 }.head(), CELLS_AT).unwrap();
            }
            if shared.users[0].begin(MOMENT, false).is_ok() {
                shared.put(0, "one", b"1");
                prop_assert_eq!(shared.get(1, "one"), Some(b"1".to_vec()));
            }
        }
    }
}
