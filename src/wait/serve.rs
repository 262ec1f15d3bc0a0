//! A look of a waiter: it serves all waiters whose turn it is, and learns its own result.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::task::Waker;

use super::line::Key;
use super::queue::{Lines, Patience, Queue, Served, Waiter, ring};
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::gate::Gate;
use crate::base::time::{Nanos, SECOND};
use crate::facts::Request;
use crate::group::Attachment;
use crate::lease::Lease;
use crate::pick::Picker;

/// The longest time between a ring and the look of the waiter that was called. After it the waiter is passed
/// over: its loop is blocked or has stopped.
const ANSWERED_WITHIN: Nanos = SECOND / 10;

/// How long a lease is kept for a waiter that was served and does not look.
const COLLECTED_WITHIN: Nanos = SECOND;

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
        if self.waiting_for(&resolved) > 0 {
            let patience = Patience { timeout: Some(0), priority };
            let waiter = self.wait(resolved, request.clone(), patience, Waker::noop().clone());
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
        let given_up = match self.services.clock {
            Clock::System(_) => {
                let looks = waiter.entered.get().map_or(0, |&(key, _)| key.1);
                lines.take_back(now.saturating_sub(COLLECTED_WITHIN), looks, &self.services.bell)
            }
            Clock::Manual(_) => Vec::new(),
        };
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
        let is_new = !lines.served.contains_key(&key.1) && self.enter(lines, waiter, (key, deadline), is_known);
        self.serve(picker, lines, waiter, (key, now), bells);
        if let Some(served) = lines.served.remove(&key.1) {
            return served.outcome.map(Progress::Served);
        }
        let oldest_served = lines.served_at.front().map(|&(at, _)| at);
        let Some(line) = lines.of.get_mut(model_name) else { return Ok(Progress::Waits(None)) };
        if is_new || deadline <= now {
            // The head of its class has tried in its place, but with a request of another size.
            let class = line.class_of.get(&key.1);
            let of_head = class.and_then(|class| line.classes.get(class)?.refused.clone());
            match picker.refusal(model_name, request).or_else(|| of_head.map(Error::NoAvailableDeployment)) {
                Some(Error::NoAvailableDeployment(unavailable)) if unavailable.reasons.may_change() => {
                    if patience.timeout == Some(0) {
                        return Err(Error::NoAvailableDeployment(unavailable));
                    }
                    if is_new && line.len > self.max_waiters {
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

    /// Tries for the heads of all classes until each has failed. If nothing has changed since they failed, it
    /// tries only for the waiter itself, if that is the head of its class.
    fn serve(
        &self,
        picker: &Picker<T>,
        lines: &mut Lines<T>,
        waiter: &Waiter<T>,
        (key, now): (Key, Nanos),
        bells: &mut Vec<Waker>,
    ) {
        let Some(line) = lines.of.get_mut(&waiter.model_name) else { return };
        line.sort(|id| picker.registry.contains(id));
        let is_timed = matches!(self.services.clock, Clock::System(_));
        let is_absent = |due: Nanos| is_timed && due.saturating_add(OVERDUE) < now;
        let mut heads: BinaryHeap<_>;
        if line.rung.is_some() || line.alarm <= now {
            if is_timed && line.rung.is_some_and(|at| at.saturating_add(ANSWERED_WITHIN) < now) {
                line.pass_over_leader(key);
            }
            (line.rung, line.alarm, line.waits_for_quota) = (None, Nanos::MAX, false);
            heads = line.all_heads();
        } else {
            let class = line.class_of.get(&key.1).filter(|class| line.head_of(class) == Some(key));
            heads = class.map(|class| Reverse((key, Arc::clone(class)))).into_iter().collect();
        }
        let looks = key;
        while let Some(Reverse((key, class))) = heads.pop() {
            let Some(standing) = line.classes.get_mut(&class) else { continue };
            let Some(place) = standing.places.get(&key) else { continue };
            if key != looks && is_absent(place.due) {
                line.pass_over(key);
                heads.extend(line.head_of(&class).map(|next| Reverse((next, class))));
                continue;
            }
            match picker.acquire(&waiter.model_name, &place.request) {
                Err(Error::NoAvailableDeployment(unavailable)) if unavailable.reasons.may_change() => {
                    line.alarm = line.alarm.min(unavailable.retry_at.unwrap_or(Nanos::MAX));
                    line.waits_for_quota |= unavailable.reasons.iter().any(|(gate, _)| gate == Gate::Quota);
                    standing.refused = Some(unavailable);
                }
                outcome => {
                    let Some(place) = line.remove(key) else { continue };
                    self.services.bell.leave();
                    bells.push(place.waker.clone());
                    lines.served.insert(key.1, Served { outcome, model_name: Arc::clone(&waiter.model_name), key, place });
                    if is_timed && key != looks {
                        lines.served_at.push_back((now, key.1));
                    }
                    if picker.panics(&waiter.model_name) {
                        // The panic may have begun with this lease. Heads that failed before may now succeed.
                        heads = line.all_heads();
                    } else {
                        heads.extend(line.head_of(&class).map(|next| Reverse((next, class))));
                    }
                }
            }
        }
    }
}
