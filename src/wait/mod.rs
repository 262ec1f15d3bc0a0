//! Waiting for capacity: who waits for which model name, in which order, and who is woken when some may be
//! free.
//!
//! | word | who or what it is |
//! |---|---|
//! | *line* | all that wait for one model name, by priority and then by arrival |
//! | *class* | those of a line that wish for the same tags and exclude the same deployments; unknown ids do not count |
//! | *head* | the first of a class |
//! | *leader* | the first of a line |
//! | *ring* | a call of a waker: its waiter looks again |
//! | *alarm* | the time at which trying again may help, for which the leader sleeps |
//! | *absent* | one that did not look when it had to: its loop is blocked or has stopped |
//!
//! Within a class nobody is overtaken, not even a large request by a small one that would fit. Those of other
//! classes may use what it cannot use, and do not wait for it.
//!
//! Nobody polls. The thread that frees capacity serves nobody: it reads one counter ([`Doorbell`]) and, if
//! anybody waits, rings for the leader of the line. The leader looks when it is rung for; a newcomer looks
//! when it arrives. The one that looks *serves*: it tries the head of each class by the ordinary acquire,
//! first come first served, until each has failed, and rings for those that got a lease. The reason for a
//! failure tells when trying again may help: that is the alarm.
//!
//! No capacity stays free while a waiter sleeps that could use it. A waiter counts itself before it first
//! tries. Capacity is freed before the counter is read. The try and the change both lock the group's index.
//! So one of two things happens: the try comes second and sees what was freed, or the change comes second and
//! sees the waiter. A waiter that leaves hands a ring that it has not answered on to the next.
//!
//! Rings may be lost, and loops may stand still. So every waiter also looks by itself once in a while
//! (`serve::look_after`). The one that looks passes over a leader that did not answer its ring, takes back
//! leases that nobody collected, and passes over waiters that are late. An absent waiter keeps its place and
//! is served again once it looks. Under a manual clock nobody is late.
//!
//! A quota is shared by groups. A release under one rings for its own line, and for the lines of which a head
//! was stopped by a quota when it last tried.
//!
//! All lines of a router share one lock. It is taken before the locks of groups and counters. Neither wakers
//! nor callbacks run under it.
//!
//! [`Doorbell`]: crate::base::doorbell::Doorbell

mod line;
mod queue;
mod serve;

pub(crate) use queue::Queue;
pub use queue::{Patience, Waiter};
pub use serve::Progress;
