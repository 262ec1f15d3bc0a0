//! Waiting for capacity: the waiters for each model name, their order, and the calls that wake them when
//! capacity may be free.
//!
//! | word | meaning |
//! |---|---|
//! | *line* | all waiters for one model name, by priority and then by arrival |
//! | *class* | waiters of a line with the same tags and excluded deployments; unknown ids do not count |
//! | *head* | the first waiter of a class |
//! | *leader* | the first waiter of a line |
//! | *ring* | a call of a waker: its waiter looks again |
//! | *freed* | a deployment that may have capacity which it had not when the heads last tried |
//! | *patience* | the time for which a head lets others take the tokens or requests that it lacks |
//! | *alarm* | the time at which trying again may help, for which the leader sleeps |
//! | *absent* | a waiter that did not look when it had to: its loop is blocked or has stopped |
//!
//! Within a class no waiter is overtaken, not even a large request by a small one that would fit. Waiters of
//! other classes may use capacity that this class cannot use. They do not wait for it.
//!
//! No waiter polls. The thread that frees capacity serves no waiter: it reads one counter ([`Doorbell`]) and,
//! if a request waits, rings for the leader of the line. The leader looks when it is rung for; a newcomer
//! looks when it arrives. The waiter that looks *serves*: it tries heads by the ordinary acquire, first come
//! first served, until each has failed. It rings for the waiters that got a lease. The reason for a failure
//! tells when trying again may help: that is the alarm.
//!
//! A head that has failed fails again until something is freed. So there is no ring for a deployment that the
//! wishes of all heads rule out, and a ring says what was freed: one deployment, or any. A look tries only
//! the heads that one of the freed deployments lets pass, and ends when these are taken again. It also tries
//! the heads that have not tried yet. When the alarm comes, and when deployments or options have changed, it
//! tries all. It also tries all while gates are open to a whole group, in a panic or a slow start: then one
//! deployment may let requests pass to another.
//!
//! A large request could starve, because smaller ones of other classes take the tokens that come back. So a
//! head that lacks tokens or requests, and has no more patience, reserves one deployment, or a quota.
//! Requests behind it are tried as if they excluded that deployment, or all that are under that quota. See
//! [`reserve`].
//!
//! No capacity stays free while a waiter that could use it sleeps. A waiter counts itself before it first
//! tries. Capacity is freed before the counter is read. The try and the change both lock the group's index.
//! So one of two things happens. Either the try comes second and sees what was freed, or the change comes
//! second and sees the waiter. A waiter that leaves hands a ring that it has not answered on to the next
//! waiter.
//!
//! Rings may be lost, and loops may stand still. So every waiter also looks by itself once in a while
//! (`serve::look_after`). The waiter that looks does three more things. It passes over a leader that did not
//! answer its ring, takes back leases that their waiters did not collect, and passes over waiters that are
//! late. An absent waiter keeps its place and is served again once it looks. Under a manual clock no waiter
//! is late.
//!
//! Groups share quotas. A release under a quota rings for its own line. If the quota lets requests through,
//! the release also rings for each line of which a head was stopped by that quota at its last try.
//!
//! All lines of a router share one lock. It is taken before the locks of groups and counters. Neither wakers
//! nor callbacks run under it.
//!
//! [`Doorbell`]: crate::base::doorbell::Doorbell

mod line;
mod queue;
mod reserve;
mod serve;

pub(crate) use queue::Queue;
pub use queue::{Patience, Waiter};
pub use serve::Progress;
