//! The books as bytes, for a store that keeps bytes.
//!
//! A record begins with the number of its layout. All other numbers are written seven bits a byte, least
//! first (LEB128). Names of processes are long and come often: each is written once, and elsewhere stands its
//! place in the list of names.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::board::{Notices, Tally};
use super::books::{Books, Held, Member, Meter, Owner};
use super::message::{MOST, Piece};
use super::pieces::{Pieces, Windows};
use super::pot::{Account, Pot};

/// The number of this layout. Another layout has another number.
const LAYOUT: u8 = 1;

// The kinds of what processes hold.
const WINDOWS: u64 = 0;
const POT: u64 = 1;
const PLACES: u64 = 2;
const TALLY: u64 = 3;
const NOTICES: u64 = 4;

impl Books {
    /// Returns the books as bytes.
    pub(crate) fn record(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.number(self.news);
        body.list(&self.owners, |body, (name, owner)| {
            body.text(name);
            body.owner(owner);
        });
        let mut record = Writer { bytes: vec![LAYOUT], ..Writer::default() };
        record.list(&body.names, |record, name| record.text(name));
        record.bytes.append(&mut body.bytes);
        record.bytes
    }

    /// Reads books from bytes. None if the bytes are no books of this layout.
    pub(crate) fn from_record(record: &[u8]) -> Option<Self> {
        let (&LAYOUT, rest) = record.split_first()? else { return None };
        let mut reader = Reader { rest, names: Vec::new() };
        reader.names = reader.list(Reader::text)?;
        let news = reader.number()?;
        let owners = reader.map(|reader| Some((reader.text()?, reader.owner()?)))?;
        reader.rest.is_empty().then_some(Self { owners, news })
    }
}

#[derive(Default)]
struct Writer<'a> {
    bytes: Vec<u8>,
    /// The processes so far, in the order in which they came, and the place of each.
    names: Vec<&'a str>,
    places: FxHashMap<&'a str, u64>,
}

impl<'a> Writer<'a> {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.bytes.push(number.to_le_bytes()[0]);
    }

    fn numbers<const N: usize>(&mut self, numbers: [u64; N]) {
        for number in numbers {
            self.number(number);
        }
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn process(&mut self, name: &'a str) {
        let place = *self.places.entry(name).or_insert_with(|| {
            self.names.push(name);
            self.names.len() as u64 - 1
        });
        self.number(place);
    }

    fn list<L: IntoIterator<IntoIter: ExactSizeIterator>>(&mut self, list: L, mut write: impl FnMut(&mut Self, L::Item)) {
        let list = list.into_iter();
        self.number(list.len() as u64);
        list.for_each(|item| write(self, item));
    }

    fn owner(&mut self, owner: &'a Owner) {
        self.numbers([owner.run, owner.life, owner.learns_until]);
        self.list(&owner.members, |writer, (process, member)| {
            writer.process(process);
            writer.numbers([member.number, member.until, member.busy_until]);
        });
        self.list(&owner.meters, |writer, (&number, meter)| {
            writer.numbers([number, meter.wanted_at]);
            writer.process(&meter.wanted_by);
            writer.held(&meter.held);
        });
    }

    fn held(&mut self, held: &'a Held) {
        match held {
            Held::Windows(windows) => {
                self.number(WINDOWS);
                self.list(&windows.0, |writer, (&window, pieces)| {
                    writer.number(window);
                    writer.pieces(pieces);
                });
            }
            Held::Pot { unit, pot } => {
                self.numbers([POT, *unit, pot.spent, pot.at]);
                self.list(&pot.accounts, |writer, (process, account)| {
                    writer.process(process);
                    writer.numbers([account.granted, account.used, account.refunded]);
                });
                self.list(&pot.lows, |writer, (&step, &low)| writer.numbers([step, low]));
            }
            Held::Places(pieces) => {
                self.number(PLACES);
                self.pieces(pieces);
            }
            Held::Tally(tally) => {
                self.number(TALLY);
                self.list(&tally.0, |writer, (&name, numbers)| {
                    writer.number(name);
                    writer.list(numbers, |writer, (process, &(number, until))| {
                        writer.process(process);
                        writer.numbers([number, until]);
                    });
                });
            }
            Held::Notices(notices) => {
                self.number(NOTICES);
                self.list(&notices.0, |writer, &Piece { window, until, held, granted }| {
                    writer.numbers([window, until, held, granted]);
                });
            }
        }
    }

    fn pieces(&mut self, pieces: &'a Pieces) {
        self.numbers([pieces.until, pieces.granted]);
        self.units(&pieces.held);
    }

    fn units(&mut self, units: &'a BTreeMap<Arc<str>, u64>) {
        self.list(units, |writer, (process, &units)| {
            writer.process(process);
            writer.number(units);
        });
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    names: Vec<Arc<str>>,
}

impl Reader<'_> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None; // more than 64 bits
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn numbers<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = self.number()?;
        }
        Some(numbers)
    }

    fn text(&mut self) -> Option<Arc<str>> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok().map(Into::into)
    }

    fn process(&mut self) -> Option<Arc<str>> {
        let place = usize::try_from(self.number()?).ok()?;
        self.names.get(place).cloned()
    }

    /// Reads a list. Its items take a byte each at least, so a wrong number of items takes no memory.
    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length = usize::try_from(self.number()?).ok().filter(|&length| length <= self.rest.len())?;
        let mut list = Vec::new();
        for _ in 0..length {
            list.push(read(self)?);
        }
        Some(list)
    }

    /// Reads a map. None if a key comes twice.
    fn map<K: Ord, V>(&mut self, read: impl FnMut(&mut Self) -> Option<(K, V)>) -> Option<BTreeMap<K, V>> {
        let entries = self.list(read)?;
        let length = entries.len();
        let map = BTreeMap::from_iter(entries);
        (map.len() == length).then_some(map)
    }

    fn owner(&mut self) -> Option<Owner> {
        let [run, life, learns_until] = self.numbers()?;
        let members = self.map(|reader| {
            let process = reader.process()?;
            let [number, until, busy_until] = reader.numbers()?;
            Some((process, Member { number, until, busy_until }))
        })?;
        let meters = self.map(|reader| {
            let [number, wanted_at] = reader.numbers()?;
            Some((number, Meter { wanted_at, wanted_by: reader.process()?, held: reader.held()? }))
        })?;
        Some(Owner { run, life, learns_until, members, meters })
    }

    fn held(&mut self) -> Option<Held> {
        Some(match self.number()? {
            WINDOWS => Held::Windows(Windows(self.map(|reader| Some((reader.number()?, reader.pieces()?)))?)),
            POT => {
                let [unit, spent, at] = self.numbers()?;
                if unit == 0 {
                    return None; // a unit has parts
                }
                let accounts = self.map(|reader| Some((reader.process()?, reader.account()?)))?;
                let lows = self.map(|reader| reader.numbers().map(|[step, low]| (step, low)))?;
                Held::Pot { unit, pot: Pot { spent, at, accounts, lows } }
            }
            PLACES => Held::Places(self.pieces()?),
            TALLY => Held::Tally(Tally(self.map(|reader| Some((reader.number()?, reader.tally()?)))?)),
            NOTICES => {
                let mut notices = self.list(Self::numbers)?.into_iter();
                let notice = notices.next().map(|[window, until, held, granted]| Piece { window, until, held, granted });
                if notices.next().is_some() {
                    return None;
                }
                Held::Notices(Notices(notice))
            }
            _ => return None,
        })
    }

    fn account(&mut self) -> Option<Account> {
        let [granted, used, refunded] = self.numbers()?;
        (used <= granted && granted <= MOST).then_some(Account { granted, used, refunded })
    }

    fn tally(&mut self) -> Option<BTreeMap<Arc<str>, (u64, u64)>> {
        self.map(|reader| Some((reader.process()?, reader.numbers().map(|[number, until]| (number, until))?)))
    }

    fn pieces(&mut self) -> Option<Pieces> {
        let [until, granted] = self.numbers()?;
        Some(Pieces { until, granted, held: self.units()? })
    }

    fn units(&mut self) -> Option<BTreeMap<Arc<str>, u64>> {
        self.map(|reader| Some((reader.process()?, reader.number()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::shared::{Ask, Kind, Message, Row, Terms};

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![4 => 0..200_u64, 1 => 0..=MOST]
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Fixed),
            (1..100_000_u64).prop_map(|per| Kind::FirstUse { per }),
            Just(Kind::Sliding),
            (1..100_u64, 1..=MOST).prop_map(|(refill, unit)| Kind::Bucket { refill, unit }),
            Just(Kind::Places),
            Just(Kind::Tally),
            Just(Kind::Notice),
        ]
    }

    fn row() -> impl Strategy<Value = Row> {
        let windows = (0..4_u64, 0..4_u64).prop_map(|(window, until)| (window * 50_000, until * 50_000));
        let rows = (windows, number(), number(), number(), number());
        rows.prop_map(|((window, until), have, least, target, used)| Row { window, until, have, least, target, used })
    }

    fn ask() -> impl Strategy<Value = Ask> {
        let asks = (kind(), 0..3_u64, number(), vec(row(), 0..3));
        asks.prop_map(|(kind, meter, limit, rows)| Ask { meter, kind, limit, rows })
    }

    fn message() -> impl Strategy<Value = Message> {
        let from = (prop_oneof![Just("a"), Just("ü")], prop_oneof![Just("p"), Just("q"), Just("")]);
        let messages = (from, number(), 0..3_u64, 0..200_000_u64, vec(ask(), 0..4));
        messages.prop_map(|((owner, process), number, life, lease, asks)| Message {
            owner: owner.into(),
            process: process.into(),
            number,
            life,
            lease,
            busy_for: lease,
            asks,
        })
    }

    fn terms() -> impl Strategy<Value = Terms> {
        let terms = (0..200_000_u64, 0..2_u64, 1..4_u64, 0..2_u64);
        terms.prop_map(|(now, run, life, learn)| Terms { now, run, life, learn: learn * 50_000 })
    }

    fn books() -> impl Strategy<Value = Books> {
        vec((message(), terms()), 0..20).prop_map(|messages| {
            let mut books = Books::default();
            for (message, terms) in messages {
                books.sync(&message, terms);
            }
            books
        })
    }

    proptest! {
        #[test]
        fn books_are_read_as_they_were_written(books in books()) {
            prop_assert_eq!(Books::from_record(&books.record()), Some(books));
        }

        #[test]
        fn a_part_is_no_record(books in books(), cut in any::<prop::sample::Index>()) {
            let record = books.record();
            prop_assert_eq!(Books::from_record(&record[..cut.index(record.len())]), None);
            prop_assert_eq!(Books::from_record(&[&record[..], b"x"].concat()), None);
        }

        #[test]
        fn whatever_is_read_can_be_used(
            books in books(),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            messages in vec((message(), terms()), 1..10),
        ) {
            let mut record = books.record();
            for (at, byte) in changes {
                let at = at.index(record.len());
                record[at] = byte;
            }
            if let Some(mut books) = Books::from_record(&record) {
                for (message, terms) in messages {
                    books.sync(&message, terms);
                }
                books.bury("p");
                books.tidy(1_000_000);
                prop_assert_eq!(Books::from_record(&books.record()), Some(books));
            }
        }

        #[test]
        fn bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            Books::from_record(&bytes);
            Books::from_record(&[&[LAYOUT], &bytes[..]].concat());
        }
    }

    #[test]
    fn a_record_is_short() {
        let mut books = Books::default();
        let now = 1_800_000_000_000_000;
        for process in 0..4 {
            let rows = vec![Row { window: now + 60_000_000, until: now + 60_000_000, target: 10, ..Row::default() }];
            let ask = |meter, kind| Ask { meter, kind, limit: 600, rows: rows.clone() };
            books.sync(
                &Message {
                    owner: "deployment".into(),
                    process: format!("0123456789abcdef-4026531836:{process}:123456:0123456789abcdef").into(),
                    number: 1,
                    life: 0,
                    lease: 10_000_000,
                    busy_for: 600_000_000,
                    asks: vec![ask(1 << 50, Kind::Places), ask(1 << 51, Kind::Fixed), ask(1 << 49, Kind::Fixed)],
                },
                Terms { now, run: u64::MAX, life: MOST, learn: 0 },
            );
        }
        assert!(books.record().len() < 512, "{}", books.record().len());
    }
}
