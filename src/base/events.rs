//! Events of deployments and groups, for callbacks of the application.
//!
//! An event is noted where it happens, under the locks that are held there. It is told when the call that
//! caused it holds no lock any more: a callback may use the router. Without a subscriber nothing is noted.
//!
//! One thread tells at a time, so that subscribers hear of events in the order in which they happened. It
//! tells the events that were pending when it began, but no more than [`MOST_AT_ONCE`]. It also tells the
//! events that its callbacks cause. Other events are left to the next call. So no call tells more than its
//! share, even if other threads cause events faster than it tells them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use std::thread::ThreadId;

use super::fork;
use super::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use super::sync::{Mutex, MutexGuard, hold};
use super::time::Nanos;

/// The kind of an event.
///
/// ```
/// assert_eq!(turnout::EventKind::Cooldown.name(), "cooldown");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A deployment was taken out for a while, or its cooldown was made longer.
    Cooldown,
    /// A deployment is back in service.
    Recovery,
    /// So few members of a group are in service that their health is ignored.
    Panic,
    /// Enough members of a group are in service again.
    PanicOver,
    /// A limit of a deployment was learnt.
    LimitLearnt,
    /// The store through which limits are shared does not answer.
    StoreLost,
    /// The store through which limits are shared answers again.
    StoreBack,
}

impl EventKind {
    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cooldown => "cooldown",
            Self::Recovery => "recovery",
            Self::Panic => "panic",
            Self::PanicOver => "panic_over",
            Self::LimitLearnt => "limit_learnt",
            Self::StoreLost => "store_lost",
            Self::StoreBack => "store_back",
        }
    }
}

/// Something that has happened to a deployment or a group.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use turnout::{Deployment, Event, EventKind, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, ())?);
/// let seen = Arc::new(Mutex::new(Vec::<Event>::new()));
/// let log = Arc::clone(&seen);
/// let _subscription = router.subscribe(move |event| log.lock().unwrap().push(event.clone()));
/// router.cool_down("azure-eu", 1_000_000_000)?;
/// assert_eq!(seen.lock().unwrap()[0].kind, EventKind::Cooldown);
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What has happened.
    pub kind: EventKind,
    /// The deployment that it happened to; None if it happened to a group.
    pub deployment_id: Option<Arc<str>>,
    /// The model name of the group; empty if it happened to the store of the whole router.
    pub model_name: Arc<str>,
    /// The time, in nanoseconds of the router's clock.
    pub at: Nanos,
    /// More about it, for people to read.
    pub detail: String,
}

/// The most events that wait to be told. If a callback hangs, the oldest events are dropped.
const MOST_PENDING: usize = 10_000;

/// The most events that one call tells, beside those that its callbacks cause.
const MOST_AT_ONCE: usize = 100;

type Callback = Arc<dyn Fn(&Event) + Send + Sync>;

/// A callback that is called for every event from now on. The subscription ends with [`Subscription::end`],
/// or when the router and all leases on its deployments are gone.
///
/// ```
/// use turnout::{Deployment, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, ())?);
/// let subscription = router.subscribe(|event| println!("{}: {}", event.kind.name(), event.detail));
/// router.cool_down("azure-eu", 1_000_000_000)?; // prints "cooldown: asked for, out for 1.000 s"
/// subscription.end();
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug)]
pub struct Subscription {
    events: Weak<Events>,
    number: u64,
}

impl Subscription {
    pub(crate) fn new(events: &Arc<Events>, callback: Callback) -> Self {
        Self { number: events.subscribe(callback), events: Arc::downgrade(events) }
    }

    /// Ends the subscription, unless it has ended before.
    pub fn end(&self) {
        let callback = self.events.upgrade().and_then(|events| events.unsubscribe(self.number));
        // No lock is held here: a callback may run any code when it is dropped.
        drop(callback);
    }
}

/// The subscribers, and the events that they were not told yet.
#[derive(Default)]
pub(crate) struct Events {
    has_subscribers: AtomicBool,
    is_pending: AtomicBool,
    subscribers: Mutex<Subscribers>,
    queue: Mutex<Queue>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    pending: VecDeque<Event>,
    /// The thread that tells.
    teller: Option<ThreadId>,
    /// How many of the pending events the teller must tell.
    owed: usize,
    /// The process that the queue belongs to.
    forks: u64,
}

#[derive(Default)]
struct Subscribers {
    callbacks: Vec<(u64, Callback)>,
    last: u64,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("subscribers", &self.subscribers().callbacks.len()).finish_non_exhaustive()
    }
}

impl Events {
    fn subscribers(&self) -> MutexGuard<'_, Subscribers> {
        hold(&self.subscribers)
    }

    /// Calls `callback` for every event from now on. Returns the number that ends the subscription.
    fn subscribe(&self, callback: Callback) -> u64 {
        let mut subscribers = self.subscribers();
        subscribers.last += 1;
        let number = subscribers.last;
        subscribers.callbacks.push((number, callback));
        self.has_subscribers.store(true, Ordering::Relaxed);
        number
    }

    /// Ends a subscription. Returns the callback, which the caller drops when it holds no lock.
    fn unsubscribe(&self, number: u64) -> Option<Callback> {
        let mut subscribers = self.subscribers();
        let place = subscribers.callbacks.iter().position(|&(other, _)| other == number)?;
        let (_, callback) = subscribers.callbacks.remove(place);
        self.has_subscribers.store(!subscribers.callbacks.is_empty(), Ordering::Relaxed);
        Some(callback)
    }

    /// Notes an event, if there is a subscriber. Its lock is taken after all other locks.
    pub(crate) fn note(&self, event: impl FnOnce() -> Event) {
        if self.has_subscribers.load(Ordering::Relaxed) {
            let mut queue = self.queue();
            queue.pending.push_back(event());
            if queue.pending.len() > MOST_PENDING {
                queue.pending.pop_front();
                queue.owed = queue.owed.saturating_sub(1);
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            self.is_pending.store(true, Ordering::Relaxed);
        }
    }

    /// Returns how many events were dropped because too many waited to be told.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Tells the events that are pending, unless another thread is telling. The caller holds no lock.
    #[inline]
    pub(crate) fn deliver(&self) {
        if self.is_pending.load(Ordering::Relaxed) {
            self.deliver_pending();
        }
    }

    #[cold]
    fn deliver_pending(&self) {
        let mut queue = self.queue();
        let me = std::thread::current().id();
        match queue.teller {
            // A callback of this thread has caused the events.
            Some(teller) if teller == me => queue.owed = queue.pending.len().min(queue.owed.max(MOST_AT_ONCE)),
            Some(_) => {}
            None => {
                (queue.teller, queue.owed) = (Some(me), queue.pending.len().min(MOST_AT_ONCE));
                drop(queue);
                self.tell();
            }
        }
    }

    fn tell(&self) {
        let _telling = Telling(self);
        while let Some(event) = self.next() {
            let callbacks: Vec<_> = self.subscribers().callbacks.iter().map(|(_, callback)| Arc::clone(callback)).collect();
            for callback in callbacks {
                callback(&event);
            }
        }
    }

    /// Takes the next event that this thread must tell.
    fn next(&self) -> Option<Event> {
        let mut queue = self.queue();
        queue.owed = queue.owed.checked_sub(1)?;
        let next = queue.pending.pop_front();
        self.is_pending.store(!queue.pending.is_empty(), Ordering::Relaxed);
        next
    }

    /// Returns the queue. A forked child gets a new one: the parent tells its own events, and the thread that
    /// told them does not exist in the child.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        let mut queue = hold(&self.queue);
        if queue.forks != fork::forks() {
            *queue = Queue { forks: fork::forks(), ..Queue::default() };
        }
        queue
    }
}

/// Lets the next thread tell when this one has finished, even if a callback panicked.
struct Telling<'a>(&'a Events);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.queue().teller = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::PoisonError;

    use super::*;

    fn event(detail: &str) -> Event {
        Event { kind: EventKind::Panic, deployment_id: None, model_name: "m".into(), at: 0, detail: detail.to_owned() }
    }

    #[test]
    fn what_a_callback_causes_comes_after_what_it_was_called_for() {
        let (events, told) = (Arc::new(Events::default()), Arc::new(Mutex::new(Vec::new())));
        for name in ["a", "b"] {
            let (weak, told) = (Arc::downgrade(&events), Arc::clone(&told));
            events.subscribe(Arc::new(move |event| {
                told.lock().unwrap().push(format!("{name} {}", event.detail));
                let events = weak.upgrade().unwrap();
                if event.detail == "1" {
                    events.note(|| self::event("2"));
                    events.deliver();
                }
            }));
        }
        events.note(|| event("1"));
        events.deliver();
        assert_eq!(*told.lock().unwrap(), ["a 1", "b 1", "a 2", "b 2", "a 2", "b 2"]);
    }

    #[test]
    fn without_a_subscriber_nothing_is_noted() {
        let events = Events::default();
        events.note(|| event("1"));
        let number = events.subscribe(Arc::new(|_| ()));
        events.note(|| event("2"));
        assert_eq!(events.queue().pending.len(), 1);
        assert!(events.unsubscribe(number).is_some() && events.unsubscribe(number).is_none());
        events.note(|| event("3"));
        assert_eq!(events.queue().pending.len(), 1);
    }

    #[test]
    fn a_thread_tells_what_was_pending_and_leaves_the_events_of_others() {
        let _no_fork = fork::tests::FORKING.read().unwrap_or_else(PoisonError::into_inner);
        let (events, told) = (Arc::new(Events::default()), Arc::new(Mutex::new(Vec::new())));
        let (weak, log) = (Arc::downgrade(&events), Arc::clone(&told));
        events.subscribe(Arc::new(move |event| {
            log.lock().unwrap().push(event.detail.clone());
            let events = weak.upgrade().unwrap();
            let other = std::thread::spawn(move || {
                events.note(|| self::event("of another thread"));
                events.deliver();
            });
            other.join().unwrap();
        }));
        events.note(|| event("1"));
        events.note(|| event("2"));
        events.deliver();
        assert_eq!(*told.lock().unwrap(), ["1", "2"]);
        events.deliver();
        assert_eq!(told.lock().unwrap().len(), 4);
    }

    #[test]
    fn the_oldest_are_dropped_where_too_many_wait() {
        let _no_fork = fork::tests::FORKING.read().unwrap_or_else(PoisonError::into_inner);
        let (events, told) = (Events::default(), Arc::new(Mutex::new(Vec::new())));
        let log = Arc::clone(&told);
        events.subscribe(Arc::new(move |event| log.lock().unwrap().push(event.detail.clone())));
        for i in 0..MOST_PENDING + 3 {
            events.note(|| event(&i.to_string()));
        }
        assert_eq!(events.dropped(), 3);
        for calls in 1..=MOST_PENDING / MOST_AT_ONCE {
            events.deliver();
            assert_eq!(told.lock().unwrap().len(), calls * MOST_AT_ONCE);
        }
        assert_eq!(told.lock().unwrap()[0], "3");
    }

    #[test]
    fn a_forked_child_tells_its_own_events() {
        let _forking = fork::tests::FORKING.write().unwrap_or_else(PoisonError::into_inner);
        let (events, told) = (Arc::new(Events::default()), Arc::new(Mutex::new(Vec::new())));
        let (weak, log) = (Arc::downgrade(&events), Arc::clone(&told));
        events.subscribe(Arc::new(move |event| {
            log.lock().unwrap().push(event.detail.clone());
            if event.detail == "1" {
                fork::note_fork();
                let child = weak.upgrade().unwrap();
                child.note(|| self::event("of the child"));
                child.deliver();
            }
        }));
        events.note(|| event("1"));
        events.note(|| event("the parent tells this"));
        events.deliver();
        assert_eq!(*told.lock().unwrap(), ["1", "of the child"]);
    }

    #[test]
    fn a_callback_that_panics_does_not_silence_the_others_for_ever() {
        let (events, told) = (Events::default(), Arc::new(Mutex::new(Vec::new())));
        let log = Arc::clone(&told);
        events.subscribe(Arc::new(move |event| {
            assert_ne!(event.detail, "1");
            log.lock().unwrap().push(event.detail.clone());
        }));
        events.note(|| event("1"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| events.deliver())).is_err());
        events.note(|| event("2"));
        events.deliver();
        assert_eq!(*told.lock().unwrap(), ["2"]);
    }
}
