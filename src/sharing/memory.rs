//! A store in the memory of one process: for tests.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::base::sync::{Mutex, hold};
use crate::limits::Desk;
use crate::shared::{Books, Message, Micros, Reply, Terms};

/// A store in the memory of one process. Several routers of the process share limits through it, as routers
/// of several processes do through a file or a server. It is for tests: it answers at once, loses nothing,
/// and follows the clock of the router that asks. So under a [`ManualClock`](crate::ManualClock) the same
/// calls give the same results.
///
/// ```
/// use std::sync::Arc;
/// use turnout::{Deployment, Memory, Request, Router, Settings, Sharing};
///
/// let memory = Arc::new(Memory::default());
/// let router = || {
///     let shared = Some(Sharing::through(Arc::clone(&memory)));
///     let router = Router::new(Settings { shared, ..Settings::default() })?;
///     drop(router.add(Deployment::new("azure-eu", "gpt-4o")?.with_rpm_limit(Some(10))?, ())?);
///     Ok::<_, turnout::Error>(router)
/// };
/// let (one, other) = (router()?, router()?);
/// let admitted = [&one, &other, &one, &other].into_iter().cycle().take(20);
/// let admitted = admitted.filter(|router| router.acquire("gpt-4o", &Request::default()).is_ok()).count();
/// assert_eq!(admitted, 10);
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Default)]
pub struct Memory {
    books: Mutex<Books>,
    /// The desks of the routers that share through it.
    desks: Mutex<Vec<Weak<Desk>>>,
}

impl Memory {
    /// Adds a router by its desk.
    pub(crate) fn enter(&self, desk: &Arc<Desk>) {
        let mut desks = hold(&self.desks);
        desks.retain(|desk| desk.strong_count() > 0);
        desks.push(Arc::downgrade(desk));
    }

    /// Answers messages, one after the other.
    pub(crate) fn exchange(&self, messages: &[Message], now: Micros) -> Vec<Reply> {
        let mut books = hold(&self.books);
        // Nothing is ever lost: all lives have one name, and nothing has to be learnt.
        messages.iter().map(|message| books.sync(message, Terms { now, run: 1, life: 1, learn: 0 })).collect()
    }

    /// Returns how often something changed that a router may wait for.
    pub(crate) fn news(&self) -> u64 {
        hold(&self.books).news()
    }

    /// Answers all that a router asks. If it lacks something, lets the others give back what they do not
    /// need. The caller holds no lock.
    pub(crate) fn serve(&self, desk: &Arc<Desk>) {
        // A request asks anew: something may have changed since the last answer.
        desk.hear_news();
        self.answer(desk);
        let others: Vec<_> = hold(&self.desks).iter().filter_map(Weak::upgrade).collect();
        for other in others.iter().filter(|other| !Arc::ptr_eq(other, desk)) {
            other.hear_news();
            self.answer(other);
        }
        desk.hear_news();
        self.answer(desk);
        desk.take_ring();
    }

    /// Answers what any router has to say. A router calls it before a pick: no thread does it in between. The
    /// caller holds no lock.
    pub(crate) fn settle(&self) {
        let desks: Vec<_> = hold(&self.desks).iter().filter_map(Weak::upgrade).collect();
        for desk in desks {
            if desk.take_ring() {
                self.serve(&desk);
            } else {
                self.answer(&desk);
            }
        }
    }

    fn answer(&self, desk: &Desk) {
        // What an answer opens may let a router ask for more.
        const MOST: usize = 3;
        for _ in 0..MOST {
            let now = desk.now();
            let Some(batch) = desk.batch(now) else { return };
            let replies = self.exchange(&batch.messages, desk.store_time(now));
            let replies: Vec<_> = replies.into_iter().map(Some).collect();
            desk.take(&batch, &replies, now);
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("books", &self.books).finish_non_exhaustive()
    }
}
