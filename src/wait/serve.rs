//! A look of a waiter: it serves all waiters whose turn it is, and learns its own result.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::Waker;

use super::line::{Freed, Key, Line};
use super::queue::{Lines, Patience, Queue, Served, Waiter, ring};
use super::reserve::Reservations;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::gate::Gate;
use crate::base::time::{Nanos, SECOND};
use crate::facts::Request;
use crate::group::{Attachment, Entry};
use crate::lease::Lease;
use crate::pick::Picker;

/// The longest time between a ring and the look of the waiter that was called. After it the waiter is passed
/// over: its loop is blocked or has stopped.
const ANSWERED_WITHIN: Nanos = SECOND / 10;

/// How long a lease is kept for a waiter that was served and does not look.
const COLLECTED_WITHIN: Nanos = SECOND;

/// A place behind all others.
const LAST: Key = (i32::MAX, u64::MAX);

/// How late a waiter's own look may be.
const OVERDUE: Nanos = SECOND;

/// Returns how long a waiter sleeps at most. The next look of any waiter makes up for a ring that was lost or
/// not answered. If many requests wait, some of them look all the time.
fn look_after(waiters: usize) -> Nanos {
    (SECOND / 2).saturating_add((waiters as Nanos).saturating_mul(SECOND / 200)).min(5 * SECOND)
}

/// The result of a look of a waiter.
///
/// See the example of [`Waiter`](crate::Waiter).
#[derive(Debug)]
pub enum Progress<T> {
    /// It has its lease.
    Served(Lease<T>),
    /// It looks again when its waker is called, or after this time in nanoseconds. None under a manual clock:
    /// the call that moves that clock wakes it.
    Waits(Option<Nanos>),
}

impl<T: Attachment> Queue<T> {
    /// Acquires without waiting, and without overtaking a waiter of the same or a lower priority number.
    #[cold]
    pub(crate) fn acquire(
        self: &Arc<Self>,
        picker: &Picker<T>,
        model_name: &str,
        request: &Request,
        priority: i32,
    ) -> Result<Lease<T>, Error> {
        let resolved = picker.registry.resolve(model_name)?;
        let (given_up, is_contended) = {
            let mut lines = self.lock();
            let given_up = self.take_back(&mut lines, 0, self.services.clock.now());
            (given_up, lines.is_contended(&resolved))
        };
        // Each release rings for the next waiter.
        for lease in given_up {
            lease.release(true);
        }
        if is_contended {
            let patience = Patience { timeout: Some(0), priority };
            let names = (resolved, picker.registry.asked_for(model_name));
            let waiter = self.wait(names, request.clone(), patience, Waker::noop().clone());
            if let Progress::Served(lease) = self.poll(picker, &waiter)? {
                return Ok(lease);
            }
        }
        picker.acquire(model_name, request)
    }

    /// Looks whether a waiter of this router has its lease. It tries for all waiters for its model name, if
    /// something may have changed.
    ///
    /// # Errors
    /// If waiting is over without a lease: waiting would not help, the timeout has come, or too many requests
    /// wait. After the end, poll no more.
    pub(crate) fn poll(&self, picker: &Picker<T>, waiter: &Waiter<T>) -> Result<Progress<T>, Error> {
        let mut bells = Vec::new();
        let mut lines = self.lock();
        let now = self.services.clock.now();
        let given_up = self.take_back(&mut lines, waiter.entered.get().map_or(0, |&(key, _)| key.1), now);
        let progress = self.look(picker, &mut lines, waiter, now, &mut bells);
        if let (Err(_), Some(&(key, _))) = (&progress, waiter.entered.get()) {
            self.leave(&mut lines, waiter, key);
        }
        lines.hand_on(&waiter.model_name, now, &mut bells);
        drop(lines);
        // This waiter has looked already.
        bells.retain(|bell| !bell.will_wake(&waiter.waker));
        ring(bells);
        // Each release rings for the next waiter.
        for lease in given_up {
            lease.release(true);
        }
        picker.deliver();
        progress
    }

    /// Takes back the leases that their waiters did not collect in time. The waiter that looks is left out.
    fn take_back(&self, lines: &mut Lines<T>, looks: u64, now: Nanos) -> Vec<Lease<T>> {
        match self.services.clock {
            Clock::System(_) => lines.take_back(now.saturating_sub(COLLECTED_WITHIN), looks),
            Clock::Manual(_) => Vec::new(),
        }
    }

    fn look(
        &self,
        picker: &Picker<T>,
        lines: &mut Lines<T>,
        waiter: &Waiter<T>,
        now: Nanos,
        bells: &mut Vec<Waker>,
    ) -> Result<Progress<T>, Error> {
        let Waiter { model_name, request, patience, .. } = waiter;
        let is_known = |id: &str| picker.registry.contains(id);
        let &(key, deadline) = waiter.entered.get_or_init(|| {
            lines.next_arrival += 1;
            let deadline = patience.timeout.map_or(Nanos::MAX, |timeout| now.saturating_add(timeout));
            ((patience.priority, lines.next_arrival), deadline)
        });
        let is_new = !lines.served.contains_key(&key.1) && self.enter(lines, waiter, (key, deadline), now, is_known);
        self.serve(picker, lines, waiter, (key, now), bells);
        if let Some(served) = lines.served.remove(&key.1) {
            self.services.bell.leave();
            return served.outcome.map(|lease| Progress::Served(lease.asked_for(|| Arc::clone(&waiter.asked_for))));
        }
        let oldest_served = lines.served_at.front().map(|&(at, _)| at);
        let Some(line) = lines.of.get_mut(model_name) else { return Ok(Progress::Waits(None)) };
        if is_new || deadline <= now {
            // The head of its class has tried in its place, but with a request of another size.
            let class = line.class_of.get(&key.1);
            let of_head = class.and_then(|class| line.classes.get(class)?.refused.clone());
            let renewed = picker.registry.renewed(model_name, request);
            let request = renewed.as_ref().unwrap_or(request);
            match picker.refusal(model_name, request).or_else(|| of_head.map(Error::NoAvailableDeployment)) {
                Some(Error::NoAvailableDeployment(unavailable)) if unavailable.reasons.may_change() => {
                    if patience.timeout == Some(0) {
                        return Err(Error::NoAvailableDeployment(unavailable));
                    }
                    if is_new && line.len > self.options.max_waiters {
                        return Err(Error::TooManyWaiters(unavailable, line.len - 1));
                    }
                    if deadline <= now {
                        return Err(Error::WaitTimeout(unavailable));
                    }
                }
                Some(error) => return Err(error),
                None => {}
            }
        }
        let mut until = deadline;
        if line.leader().is_some_and(|(leader, _)| leader == key) {
            line.armed = (key, line.alarm);
            until = until.min(line.alarm);
        }
        // The thread that moves a manual clock rings: see `Watch`.
        let Clock::System(_) = self.services.clock else { return Ok(Progress::Waits(None)) };
        until = until.min(now.saturating_add(look_after(line.len)));
        if let Some(at) = oldest_served {
            until = until.min(at.saturating_add(COLLECTED_WITHIN + 1));
        }
        let standing = line.class_of.get(&key.1).and_then(|class| line.classes.get_mut(class));
        if let Some(place) = standing.and_then(|standing| standing.places.get_mut(&key)) {
            place.due = until;
        }
        Ok(Progress::Waits(Some(until.saturating_sub(now))))
    }

    /// Tries for the heads that may find capacity: for those that have not tried yet, and for those that
    /// could use what was freed since the last look. If nothing has changed, it tries only for the waiter
    /// itself, if that is the head of its class.
    fn serve(
        &self,
        picker: &Picker<T>,
        lines: &mut Lines<T>,
        waiter: &Waiter<T>,
        (looks, now): (Key, Nanos),
        bells: &mut Vec<Waker>,
    ) {
        let claims = lines.claims_beside(&waiter.model_name);
        let Lines { of, served, served_at, .. } = lines;
        let (model_name, Some(line)) = (&waiter.model_name, of.get_mut(&waiter.model_name)) else { return };
        line.sort(|id| picker.registry.contains(id), |request| picker.registry.renewed(model_name, request));
        let is_timed = matches!(self.services.clock, Clock::System(_));
        let scope = self.scope(picker, line, (looks, now), model_name);
        let (mut behind, mut reservations, mut may_be_over) = (None, Reservations::new(claims), true);
        while let Some((key, request)) = scope.next(line, behind, looks) {
            behind = Some(key);
            if key != looks && is_timed && line.due(key).is_some_and(|due| due.saturating_add(OVERDUE) < now) {
                line.pass_over(key);
                continue;
            }
            if let Scope::Freed(freed) = &scope
                && !line.is_untried(key)
                && !freed.iter().any(|entry| picker.passes(entry, &request, now))
            {
                if !line.is_lacking(key) && freed.iter().any(|entry| picker.is_stopped_by_limits(entry, &request, now)) {
                    line.lack(key);
                }
                // If what was freed is taken again, nobody else finds it.
                if may_be_over && line.first_untried().is_none() {
                    let smallest = line.smallest();
                    if smallest.is_some_and(|smallest| !freed.iter().any(|entry| picker.passes(entry, &smallest, now))) {
                        break;
                    }
                    may_be_over = false;
                }
                continue;
            }
            reservations.reach(picker, line, key, model_name, now);
            match reservations.acquire(picker, model_name, &request, now) {
                Err(Error::NoAvailableDeployment(unavailable)) if unavailable.reasons.may_change() => {
                    line.alarm = line.alarm.min(unavailable.retry_at.unwrap_or(Nanos::MAX));
                    if unavailable.reasons.iter().any(|(gate, _)| gate == Gate::Quota) {
                        line.quotas.extend(picker.spent_quotas(model_name, &request));
                        line.quotas.extend(reservations.quotas());
                    }
                    line.refuse(key, unavailable);
                    if may_be_over && matches!(scope, Scope::All) && line.first_untried().is_none() {
                        if finds_nobody(picker, line, model_name) {
                            break;
                        }
                        may_be_over = false;
                    }
                }
                outcome => {
                    let Some(place) = line.remove(key) else { continue };
                    may_be_over = true;
                    bells.push(place.waker.clone());
                    served.insert(key.1, Served { outcome, model_name: Arc::clone(model_name), key, place });
                    if is_timed && key != looks {
                        served_at.push_back((now, key.1));
                    }
                    if picker.panics(model_name) {
                        // The panic may have begun with this lease. Heads that failed before may now succeed.
                        line.ring(None, now, bells);
                    }
                }
            }
            if matches!(scope, Scope::Itself) {
                break;
            }
        }
        // A head that has no more patience keeps others from the quota that it lacks, also those of other
        // lines.
        if !line.quotas.is_empty() {
            reservations.reach(picker, line, LAST, model_name, now);
            line.alarm = line.alarm.min(line.patience_ends(now));
        }
        if let Scope::Freed(freed) = scope {
            // Its own time may come before that of all that stopped the heads so far.
            line.alarm = freed.iter().filter_map(|entry| picker.available_at(entry, now)).fold(line.alarm, Nanos::min);
        }
    }

    /// Finds out which heads a look tries for. If it begins to try for all, what was freed is seen.
    fn scope(&self, picker: &Picker<T>, line: &mut Line, (looks, now): (Key, Nanos), model_name: &str) -> Scope<T> {
        let is_called = line.rung.is_some() || line.alarm <= now;
        if is_called {
            let is_timed = matches!(self.services.clock, Clock::System(_));
            if is_timed && line.rung.is_some_and(|at| at.saturating_add(ANSWERED_WITHIN) < now) {
                line.pass_over_leader(looks);
            }
            line.rung = None;
            let freed = match std::mem::replace(&mut line.freed, Freed::nothing()) {
                Freed::Some(ids) if line.alarm > now => picker.freed(model_name, &ids),
                _ => None,
            };
            match freed {
                Some(freed) if !freed.is_empty() => return Scope::Freed(freed),
                Some(_) => {}
                None => {
                    (line.alarm, line.quotas) = (Nanos::MAX, BTreeSet::new());
                    return Scope::All;
                }
            }
        }
        if line.first_untried().is_some() { Scope::Untried } else { Scope::Itself }
    }
}

/// The heads that a look tries for.
enum Scope<T> {
    All,
    /// Those that could use one of these deployments, and those that have not tried yet.
    Freed(Vec<Arc<Entry<T>>>),
    Untried,
    /// Only the waiter that looks, if it is a head.
    Itself,
}

impl<T> Scope<T> {
    /// Returns the next head to try for, behind a place in line, and its request.
    fn next(&self, line: &Line, behind: Option<Key>, looks: Key) -> Option<(Key, Arc<Request>)> {
        let (key, head) = match self {
            Self::All | Self::Freed(_) => line.next_head(behind)?,
            Self::Untried => line.first_untried().and_then(|key| Some((key, line.head(key)?)))?,
            Self::Itself => (looks, line.head(looks)?),
        };
        Some((key, Arc::clone(&head.request)))
    }
}

/// Returns whether no deployment lets even the smallest request of the heads pass: then each of them would
/// fail. Notes when trying again may help.
fn finds_nobody<T: Attachment>(picker: &Picker<T>, line: &mut Line, model_name: &str) -> bool {
    let Some(smallest) = line.smallest() else { return false };
    let Some(Error::NoAvailableDeployment(unavailable)) = picker.refusal(model_name, &smallest) else { return false };
    line.alarm = line.alarm.min(unavailable.retry_at.unwrap_or(Nanos::MAX));
    line.quotas.extend(picker.spent_quotas(model_name, &smallest));
    true
}
