//! A file of cells: each keeps a record under a key, and is changed without touching the others.
//!
//! | bytes of the file | what |
//! |---|---|
//! | 0 to 31 | what the file is: the magic word, the layout, the run, and their checksum |
//! | 32 to 63 | four words that change: the arrangement, the end, the news, the end of learning |
//! | from 64 to the end | cells, one after the other |
//!
//! A cell is a word that tells its capacity, and two halves (see `half.rs`) of as many bytes. Its record is
//! the length of the key, the key and the value. A cell without a record is free. The four words are written
//! one at a time. All numbers are little-endian.
//!
//! A writer may be killed between any two of its writes. What it leaves is right at each step:
//!
//! - A change of a value touches one half.
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
}

impl Cells {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file, header: Header::default(), keys: None, free: Vec::new() }
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

    fn write_half(&self, cell: Cell, half: usize, number: u64, record: &[u8]) -> Result<(), Fault> {
        let at = cell.at + CELL_HEAD as u64 + if half == 0 { 0 } else { u64::from(cell.capacity) };
        self.write(at, &written(number, record))
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Fault> {
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
            // A disk that lost power may leave zeros.
            return if bytes.iter().all(|&byte| byte == 0) { Ok(None) } else { Err(Fault::Foreign) };
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
