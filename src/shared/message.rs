//! What processes and books say to each other, and how it is written as numbers.

use std::sync::Arc;

use crate::base::error::Error;

/// The largest number that all stores keep exactly: a server may count in doubles.
pub(crate) const MOST: u64 = 1 << 52;

/// A moment or a length of time in microseconds of the store's clock.
pub(crate) type Micros = u64;

/// What a process tells of an owner, and asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) owner: Arc<str>,
    pub(crate) process: Arc<str>,
    /// The number of this message among those of the process about this owner, from 1.
    pub(crate) number: u64,
    /// The owner's life as the process knows it; 0 if it knows none.
    pub(crate) life: u64,
    /// How long the process is a member after this message; 0 to leave.
    pub(crate) lease: Micros,
    /// How long its places stay taken after the lease has ended.
    pub(crate) busy_for: Micros,
    pub(crate) asks: Vec<Ask>,
}

/// What a process tells of one meter, and asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// A number that tells the meter from the owner's others, whatever its limit.
    pub(crate) meter: u64,
    pub(crate) kind: Kind,
    /// The most units of all pieces together. If processes disagree, each asks under its own.
    pub(crate) limit: u64,
    pub(crate) rows: Vec<Row>,
}

/// How the units of a meter come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Each window has the whole limit.
    Fixed,
    /// Each window has the whole limit. The first request after a window opens the next, of this length.
    FirstUse { per: Micros },
    /// All windows that have not ended share the limit.
    Sliding,
    /// They come back little by little: in each microsecond `refill` parts, and a unit has `unit` parts.
    Bucket { refill: u64, unit: u64 },
    /// They are places of requests in flight.
    Places,
    /// No limit: each process tells numbers of its own, and hears the sum of the others' numbers. A row has
    /// the name of the number ([`Row::window`]), until when it counts, and the number ([`Row::used`]).
    Tally,
    /// No limit: the latest that any process said is what all hear. A row has when it was said
    /// ([`Row::window`], 0 to only hear), until when it holds, and two numbers ([`Row::have`] and
    /// [`Row::used`]).
    Notice,
}

/// What a process tells of one window of a meter, and asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Row {
    /// The name of the window: its end. 0 where there are no windows, and where none is open.
    ///
    /// Of a bucket: the units that were charged and then given back, in all.
    pub(crate) window: u64,
    /// When the window ends and its units are free again.
    ///
    /// Of a bucket: when the first of the units was charged that were given back since the last reply.
    pub(crate) until: Micros,
    /// The units that the process may use. Of a bucket: in all since the process began.
    pub(crate) have: u64,
    /// The fewest that help. If there are not as many, none are granted.
    pub(crate) least: u64,
    /// The units that it would like to have.
    pub(crate) target: u64,
    /// The units of these that are used. They may be more, if an answer was longer than was thought.
    pub(crate) used: u64,
}

/// What the books answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The store's time.
    pub(crate) now: Micros,
    pub(crate) life: u64,
    /// How long the books learn yet, at most; 0 if they do not.
    pub(crate) learning: Micros,
    /// The number of members, this one included.
    pub(crate) members: u64,
    /// One for each ask, in the same order.
    pub(crate) answers: Vec<Answer>,
}

/// What the books answer about a meter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Answer {
    /// Whether another process lacks units.
    pub(crate) wanted: bool,
    /// One for each row of the ask, in the same order.
    pub(crate) rows: Vec<Piece>,
}

/// What the books answer about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Piece {
    /// The window, and when it ends. It is another one than the row's if each begins with the first request
    /// after the one before.
    pub(crate) window: u64,
    pub(crate) until: Micros,
    /// The units that this process may use, as [`Row::have`].
    pub(crate) held: u64,
    /// The units of all pieces in this window. Of a bucket: the units that are not in it. Of a tally: the sum
    /// of the others' numbers. Of a notice: [`Row::used`], while `held` is [`Row::have`].
    pub(crate) granted: u64,
}

impl Kind {
    const fn numbers(self) -> [u64; 3] {
        match self {
            Self::Fixed => [0, 0, 0],
            Self::FirstUse { per } => [1, per, 0],
            Self::Sliding => [2, 0, 0],
            Self::Bucket { refill, unit } => [3, refill, unit],
            Self::Places => [4, 0, 0],
            Self::Tally => [5, 0, 0],
            Self::Notice => [6, 0, 0],
        }
    }

    fn of([kind, one, other]: [u64; 3]) -> Option<Self> {
        Some(match (kind, one, other) {
            (0, ..) => Self::Fixed,
            (1, per @ 1.., _) => Self::FirstUse { per },
            (2, ..) => Self::Sliding,
            (3, refill @ 1.., unit @ 1..) => Self::Bucket { refill, unit },
            (4, ..) => Self::Places,
            (5, ..) => Self::Tally,
            (6, ..) => Self::Notice,
            _ => return None,
        })
    }
}

impl Message {
    /// Returns the message as numbers: [`Message::number`] to [`Message::busy_for`], the number of asks, and
    /// for each the meter, its kind (three numbers), the limit, the number of rows, and six for each row.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let mut numbers = vec![self.number, self.life, self.lease, self.busy_for, self.asks.len() as u64];
        for ask in &self.asks {
            numbers.push(ask.meter);
            numbers.extend(ask.kind.numbers());
            numbers.extend([ask.limit, ask.rows.len() as u64]);
            for row in &ask.rows {
                numbers.extend([row.window, row.until, row.have, row.least, row.target, row.used]);
            }
        }
        numbers
    }

    /// Reads a message from numbers.
    ///
    /// # Errors
    /// If the numbers are not those of a message.
    pub(crate) fn read(owner: &str, process: &str, numbers: &[u64]) -> Result<Self, Error> {
        let mut rest = Numbers(numbers);
        let read = || {
            let [number, life, lease, busy_for, count] = rest.take()?;
            let mut message =
                Self { owner: owner.into(), process: process.into(), number, life, lease, busy_for, asks: Vec::new() };
            for _ in 0..count {
                let [meter, kind, one, other, limit, rows] = rest.take()?;
                let mut ask = Ask { meter, kind: Kind::of([kind, one, other])?, limit, rows: Vec::new() };
                for _ in 0..rows {
                    let mut row = Row::default();
                    [row.window, row.until, row.have, row.least, row.target, row.used] = rest.take()?;
                    ask.rows.push(row);
                }
                message.asks.push(ask);
            }
            Some(message).filter(|_| rest.0.is_empty())
        };
        read_or(read, "message")
    }
}

impl Reply {
    /// Returns the reply as numbers: [`Reply::now`] to [`Reply::members`], the number of answers, and for
    /// each whether units are wanted, the number of rows, and the four numbers of each [`Piece`].
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let mut numbers = vec![self.now, self.life, self.learning, self.members, self.answers.len() as u64];
        for answer in &self.answers {
            numbers.extend([u64::from(answer.wanted), answer.rows.len() as u64]);
            numbers.extend(answer.rows.iter().flat_map(|piece| [piece.window, piece.until, piece.held, piece.granted]));
        }
        numbers
    }

    /// Reads a reply from numbers.
    ///
    /// # Errors
    /// If the numbers are not those of a reply.
    pub(crate) fn read(numbers: &[u64]) -> Result<Self, Error> {
        let mut rest = Numbers(numbers);
        let read = || {
            let [now, life, learning, members, answers] = rest.take()?;
            let mut reply = Self { now, life, learning, members, answers: Vec::new() };
            for _ in 0..answers {
                let [wanted, rows] = rest.take()?;
                let mut answer = Answer { wanted: wanted != 0, rows: Vec::new() };
                for _ in 0..rows {
                    let [window, until, held, granted] = rest.take()?;
                    answer.rows.push(Piece { window, until, held, granted });
                }
                reply.answers.push(answer);
            }
            Some(reply).filter(|_| rest.0.is_empty())
        };
        read_or(read, "reply")
    }
}

fn read_or<R>(read: impl FnOnce() -> Option<R>, what: &str) -> Result<R, Error> {
    read().ok_or_else(|| Error::Configuration(format!("these numbers are no {what} of a shared store")))
}

/// Numbers that are read one after the other.
pub(super) struct Numbers<'a>(pub(super) &'a [u64]);

impl Numbers<'_> {
    /// Takes the next numbers. None if there are too few, or if one is too large for some stores.
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u64; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        taken.iter().all(|&number| number <= MOST).then_some(*taken)
    }
}
