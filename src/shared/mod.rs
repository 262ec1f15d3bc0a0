//! The bookkeeping of what processes share: which piece of each limit is whose.
//!
//! Every process holds a *piece* of each limit: the units that it may use without asking. A *store* (memory,
//! a file, a server) keeps the [`Books`]: what all pieces are. A process tells the books what it has and what
//! it would like to have, in a [`Message`], and learns in a [`Reply`] what it may have. All pieces of a limit
//! together are never more than the limit. So what processes use within their pieces is not either.
//!
//! Nothing here does input or output, and nothing reads a clock. A server's script must agree with these
//! rules message by message.
//!
//! | word | meaning |
//! |---|---|
//! | *owner* | a deployment, or a quota: it has limits |
//! | *meter* | one limit of an owner, as the books know it |
//! | *member* | a process that has spoken of an owner, until its lease ends |
//! | *window* | a stretch of time of a meter; a piece belongs to one |
//! | *life* | a name of an owner's record since it was last lost |
//! | *learning* | the time after a loss in which nothing is granted: members tell what they hold |
//!
//! All numbers of a message are absolute: what a process has in all, never by how much it changed. So a
//! message that comes twice, or late, does no harm, and after a loss the next messages restore the books.

mod board;
mod books;
mod message;
mod pieces;
mod pot;
mod record;

pub(crate) use books::{Books, Terms};
pub(crate) use message::{Answer, Ask, Kind, MOST, Message, Micros, Piece, Reply, Row};
