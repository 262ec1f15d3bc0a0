//! A registered deployment, and what becomes of it.
//!
//! The methods of [`Entry`] stand on the floors that they need:
//!
//! | file | methods |
//! |---|---|
//! | here | facts, rules, what becomes of it (`leave`, `heir`), slow start, `change` and `renew` its leaf, `finish` |
//! | `group/stats.rs` | `stats` |
//! | `gates/leaf.rs` | what the index needs of it (`Member`) |
//! | `gates/refusal.rs` | `describe` |
//! | `lease/outcome.rs` | `succeed`, `fail`, `record_success`, `record_failure`, `hear_good_news`, `cool_down`, `report_health` |
//! | `lease/learn.rs` | `hear`, `observe`, `learn`, `pause_quota`, `learn_concurrency`, `came_through` |

use std::fmt;
use std::sync::{Arc, Weak};

use super::services::Services;
use crate::base::clock::Now;
use crate::base::lock::Held;
use crate::base::position::NOWHERE;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{Mutex, hold};
use crate::base::time::Nanos;
use crate::counters::{Slot, State, mark};
use crate::facts::Deployment;
use crate::health::{Domain, HealthRules, Peers, Pool, Rules, Slice};
use crate::index::{Index, Place};
use crate::limits::Metering;

/// What an application attaches to each deployment.
///
/// ```
/// use std::sync::Arc;
/// use turnout::{Attachment, Deployment, Request, Router, Settings};
///
/// struct Endpoint(&'static str);
///
/// impl Attachment for Endpoint {
///     type Id = Arc<str>;
///
///     fn id(&self, deployment: &Deployment) -> Arc<str> {
///         deployment.id().into()
///     }
/// }
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, Endpoint("https://eu.example"))?);
/// let lease = router.acquire("gpt-4o", &Request::default())?;
/// assert_eq!(lease.attachment().0, "https://eu.example");
/// # Ok::<(), turnout::Error>(())
/// ```
pub trait Attachment: Send + Sync + 'static {
    /// The id as [`Router::select`](crate::Router::select) hands it out. It lies where a pick finds it
    /// without looking at the deployment.
    type Id: fmt::Debug + Send + Sync + 'static;

    /// Returns the id of a deployment. It is called when the deployment is handed to the router, under no
    /// lock.
    fn id(&self, deployment: &Deployment) -> Self::Id;
}

impl Attachment for () {
    type Id = Arc<str>;

    fn id(&self, deployment: &Deployment) -> Arc<str> {
        Arc::clone(deployment.shared_id())
    }
}

/// A registered deployment: its facts, its counters, and what the application attached.
///
/// ```
/// use turnout::{Deployment, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, ())?);
/// let entry = router.get("azure-eu")?;
/// assert_eq!(entry.deployment().model_name(), "gpt-4o");
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug)]
#[repr(C)] // the fields that an acquire reads come first and lie together
pub struct Entry<T> {
    pub(crate) slot: Slot,
    pub(crate) home: Home,
    pub(crate) attachment: T,
    pub(crate) services: Arc<Services>,
    /// Whether it has left the registry.
    pub(crate) left: AtomicBool,
    /// Rules of its own; None for most.
    pub(crate) own_rules: Option<Arc<Rules>>,
    /// Its counters beside the minute window; None for most.
    pub(crate) metering: Option<Box<Metering>>,
    pub(crate) deployment: Deployment,
    /// Registration order over the whole registry.
    pub(crate) order: u64,
    /// The entry that has its counters now. All entries that ever had these counters share this.
    pub(crate) heir: Heir<T>,
    /// Its failure domain. The rules say whether it matters.
    pub(crate) domain: Option<Arc<Domain<Self>>>,
}

/// Where a member is: the index of its group, and its place there.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) index: Arc<Index>,
    pub(crate) place: Place,
}

/// The entry that has a deployment's counters.
pub(crate) type Heir<T> = Arc<Mutex<Weak<Entry<T>>>>;

/// What has become of an entry.
enum Fate<T> {
    Registered,
    /// Its counters belong to this other entry.
    Replaced(Arc<Entry<T>>),
    Removed,
}

impl<T> Entry<T> {
    /// Returns its facts.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Returns what the application attached.
    pub fn attachment(&self) -> &T {
        &self.attachment
    }

    /// Returns the rules by which it cools down and comes back.
    #[inline]
    pub(crate) fn rules(&self) -> &Rules {
        match &self.own_rules {
            None => self.services.rules.get(),
            Some(rules) => rules,
        }
    }

    /// Returns the rules by which its group adds up outcomes, if this entry's outcomes are among them. They
    /// are if the rules look for outliers, and if its window is as long as theirs.
    pub(crate) fn pool_rules(&self) -> Option<&HealthRules> {
        let shared = self.services.rules.get().health().filter(|rules| rules.outlier_factor.is_some())?;
        self.rules().health().filter(|own| own.window == shared.window).map(|_| shared)
    }

    /// Returns the pool that adds up the group's outcomes, if this entry's outcomes are among them.
    pub(crate) fn pool(&self) -> Option<&Pool> {
        self.pool_rules().map(|_| &self.home.index.words.pool)
    }

    /// Goes on by the rules of now after other rules. Afterwards its group adds up its outcomes anew.
    pub(crate) fn follow_rules(&self, held: &Held<'_>, now: Nanos) {
        let rules = self.rules().health();
        if rules.is_some() {
            self.slot.vitals.forget_failures(held);
        }
        match (self.slot.made_breaker(), rules) {
            (Some(breaker), Some(rules)) => breaker.follow(held, rules, now),
            // The other rules know no place of a probation.
            (Some(breaker), None) => breaker.free_probe(held),
            (None, _) => (),
        }
    }

    // --- what becomes of it ---

    #[inline]
    pub(crate) fn is_registered(&self) -> bool {
        // Relaxed: it is written and read around the index's lock, which orders it.
        !self.left.load(Ordering::Relaxed)
    }

    /// Returns whether it is in the registry, and if not, which entry has its counters now.
    #[inline]
    fn fate(&self) -> Fate<T> {
        if self.is_registered() {
            return Fate::Registered;
        }
        self.heir().map_or(Fate::Removed, Fate::Replaced)
    }

    /// Returns the entry that has its counters now; None if it is registered itself, or if it was removed.
    #[inline]
    pub(crate) fn heir(&self) -> Option<Arc<Self>> {
        if self.is_registered() { None } else { hold(&self.heir).upgrade() }
    }

    /// Leaves the registry, and leaves its counters to an heir. This comes before the index is changed, so
    /// that no thread renews its leaf after that change.
    pub(crate) fn leave(&self, held: &Held<'_>, heir: Option<&Arc<Self>>) {
        *hold(&self.heir) = heir.map(Arc::downgrade).unwrap_or_default();
        self.left.store(true, Ordering::Relaxed);
        let moves = heir.is_none_or(|heir| !Arc::ptr_eq(&heir.home.index, &self.home.index));
        if !moves && heir.is_some_and(|heir| heir.rules() == self.rules()) {
            return;
        }
        self.tidy_slow_start(held, self.services.clock.now());
        if moves {
            self.slot.mark(held, mark::SLOW_START, false);
        }
        let breaker = self.slot.made_breaker();
        if let (Some(pool), Some(breaker)) = (self.pool(), breaker) {
            pool.forget(breaker.outcomes());
        }
        let Some(heir) = heir else { return };
        heir.follow_rules(held, self.services.clock.now());
        heir.keep_slow_start();
        if let (Some(pool), Some(breaker)) = (heir.pool(), breaker) {
            pool.take_in(breaker.outcomes());
        }
    }

    /// Takes the mark of limits away, if these facts have none. Until its group knows these facts, requests
    /// come by the old ones, and those may have limits.
    pub(crate) fn stop_metering(&self) {
        if self.metering.is_none() && self.slot.marks() & mark::METERED != 0 {
            self.slot.mark(&self.slot.hold(), mark::METERED, false);
        }
    }

    // --- slow start ---

    /// Joins a group that has other members.
    pub(crate) fn join(&self) {
        self.start_slowly(&self.slot.hold(), self.services.clock.now());
    }

    /// Begins a slow start, if the rules want one.
    pub(crate) fn start_slowly(&self, held: &Held<'_>, now: Nanos) {
        if let Some(length) = self.rules().health().map(|rules| rules.slow_start).filter(|&length| length > 0) {
            let ramp = &self.home.index.words.ramp;
            self.slot.start_slowly(held, now, ramp.picks());
            ramp.begin(now.saturating_add(length));
        }
    }

    /// Takes the mark of a slow start away that is over by the rules of now. Other rules would begin it
    /// again.
    pub(crate) fn tidy_slow_start(&self, held: &Held<'_>, now: Nanos) {
        let is_on = self.rules().health().is_some_and(|rules| self.slot.slow_start(rules, now).is_some());
        if !is_on && self.slot.marks() & mark::SLOW_START != 0 {
            self.slot.mark(held, mark::SLOW_START, false);
        }
    }

    /// Lets its group count picks until its slow start ends by the rules of now, if it is in one.
    pub(crate) fn keep_slow_start(&self) {
        let breaker = self.slot.made_breaker().filter(|_| self.slot.marks() & mark::SLOW_START != 0);
        if let (Some(breaker), Some(rules)) = (breaker, self.rules().health()) {
            self.home.index.words.ramp.begin(breaker.slow_since().saturating_add(rules.slow_start));
        }
    }

    /// Returns its slow start and the whole picks of its group until it is a candidate again; None if it is
    /// in no slow start.
    pub(crate) fn pace(&self, state: &State, now: Nanos) -> Option<(Slice, u64)> {
        let slice = self.rules().health().and_then(|rules| state.slow_start(rules, now))?;
        let ramp = &self.home.index.words.ramp;
        // A deployment that came from another group may bring a slow start of that one.
        ramp.is_on().then(|| {
            let share = ramp.share(self.deployment.weight());
            (slice, ramp.picks_left(state.annex().breaker.slow_last(), share, slice.percent))
        })
    }

    /// Notes that it was picked. Returns whether slow start has put its leaf out of date.
    pub(crate) fn was_picked(&self, now: Nanos) -> bool {
        let state = &*self.slot;
        if state.marks() & mark::SLOW_START == 0 {
            return false;
        }
        let Some(slice) = self.rules().health().and_then(|rules| state.slow_start(rules, now)) else { return true };
        let (ramp, breaker) = (&self.home.index.words.ramp, &state.annex().breaker);
        let held = state.hold();
        breaker.set_slow_last(&held, ramp.picked(breaker.slow_last(), ramp.share(self.deployment.weight()), slice.percent));
        true
    }

    // --- its leaf ---

    /// Renews the leaf of its counters, in the index that they belong to now. This comes after every change
    /// of the counters.
    #[inline]
    pub(crate) fn renew(&self, now: &Now<'_>) {
        self.change(now, |_| ());
    }

    /// Changes its counters and renews their leaf, in the index that they belong to now, under one lock. So a
    /// decision that depends on the other members of the group still holds when the change is done.
    #[inline]
    pub(crate) fn change<R>(&self, now: &Now<'_>, change: impl FnOnce(&Peers<'_>) -> R) -> R {
        let mut heir: Arc<Self>;
        let mut member = self;
        loop {
            let index = &member.home.index;
            let mut forest = index.lock();
            let position = member.home.place.position();
            // Asked under the lock: a member that is replaced or removed leaves before the tree is touched.
            match member.fate() {
                Fate::Registered => {
                    // A member without a place of its own waits for the rebuild, which makes its leaf from
                    // the counters of that time.
                    let place = Some(position).filter(|&position| position != NOWHERE);
                    let result = change(&Peers::new(forest.census(), &index.words.pool, place));
                    if place.is_some() {
                        forest.renew(position, member, now);
                    }
                    return result;
                }
                Fate::Replaced(by) => {
                    drop(forest);
                    heir = by;
                    member = &heir;
                }
                Fate::Removed => return change(&Peers::new(forest.census(), &index.words.pool, None)),
            }
        }
    }

    // --- what others learn of it ---

    /// Ends a change of its counters, after the leaf was renewed: delivers the events that were noted, and
    /// wakes the waiters that may find capacity now. No lock may be held.
    #[inline]
    pub(crate) fn finish(&self) {
        // Waiters come first: a callback that hangs must not hold them up.
        if self.services.bell.is_waited_at() {
            self.wake_waiters();
        }
        self.services.events.deliver();
    }

    /// Wakes the waiters that may find capacity at this deployment, and those that may find some because its
    /// quotas let requests through.
    #[cold]
    fn wake_waiters(&self) {
        let now = self.services.clock.now();
        let quotas = self.metering.as_ref().map_or_else(Vec::new, |metering| metering.open_quotas(now));
        let heir = self.heir();
        let entry = heir.as_deref().unwrap_or(self);
        // While gates are open to all, a change of one deployment may let requests pass to another.
        let is_alone = !entry.home.index.words.ramp.is_on() && entry.home.index.lock().census().heeds_health();
        let deployment = &entry.deployment;
        let freed = is_alone.then(|| (deployment.shared_id(), deployment.labels()));
        self.services.bell.ring(|room| room.wake(deployment.model_name(), freed, &quotas));
    }
}
