//! A waiter looks: it serves all whose turn it is, and learns what has become of itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::task::Waker;

use super::line::Key;
use super::queue::{Lines, Patience, Queue, Waiter, ring};
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::time::Nanos;
use crate::facts::Request;
use crate::group::Attachment;
use crate::lease::Lease;
use crate::pick::Picker;

/// What has become of a waiter.
///
/// See the example of [`Waiter`](crate::Waiter).
#[derive(Debug)]
pub enum Progress<T> {
    /// It has its lease.
    Served(Lease<T>),
    /// It looks again when its waker is called, or after this time in nanoseconds if there is one.
    Waits(Option<Nanos>),
}

impl<T: Attachment> Queue<T> {
    /// Returns acquires without waiting, and without overtaking a waiter of the same or a lower priority
    /// number.
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

    /// Looks whether a waiter of this router has its lease, trying for all who wait for its model name if
    /// something may have changed.
    ///
    /// # Errors
    /// If waiting is over without a lease: for what it would not mend, for the timeout, or since too many
    /// wait. After the end, poll no more.
    pub(crate) fn poll(&self, picker: &Picker<T>, waiter: &Waiter<T>) -> Result<Progress<T>, Error> {
        let mut bells = Vec::new();
        let mut lines = self.lock();
        let progress = self.look(picker, &mut lines, waiter, &mut bells);
        if let (Err(_), Some(&(key, _))) = (&progress, waiter.entered.get()) {
            self.leave(&mut lines, waiter, key);
        }
        lines.hand_on(&waiter.model_name, &mut bells);
        drop(lines);
        // It has looked.
        bells.retain(|bell| !bell.will_wake(&waiter.waker));
        ring(bells);
        picker.deliver();
        progress
    }

    fn look(
        &self,
        picker: &Picker<T>,
        lines: &mut Lines<T>,
        waiter: &Waiter<T>,
        bells: &mut Vec<Waker>,
    ) -> Result<Progress<T>, Error> {
        let Waiter { model_name, class, request, patience, .. } = waiter;
        let now = self.services.clock.now();
        let &(key, deadline) = waiter.entered.get_or_init(|| {
            lines.next_arrival += 1;
            let deadline = patience.timeout.map_or(Nanos::MAX, |timeout| now.saturating_add(timeout));
            ((patience.priority, lines.next_arrival), deadline)
        });
        let is_new = !lines.served.contains_key(&key.1) && self.enter(lines, waiter, (key, deadline));
        self.serve(picker, lines, waiter, (key, now), bells);
        if let Some(outcome) = lines.served.remove(&key.1) {
            return outcome.map(Progress::Served);
        }
        let Some(line) = lines.of.get_mut(model_name) else { return Ok(Progress::Waits(None)) };
        if is_new || deadline <= now {
            // The head of its class has tried in its place, but for a request of another size.
            let of_head = line.classes.get(class).and_then(|standing| standing.refused.clone());
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
        Ok(Progress::Waits(match self.services.clock {
            Clock::System(_) => (until != Nanos::MAX).then(|| until.saturating_sub(now)),
            // The thread that moves it rings: see `Watch`.
            Clock::Manual(_) => None,
        }))
    }

    /// Tries for the heads of all classes until each has failed. If nothing has changed since the others
    /// failed, it tries for the waiter alone, if that is the head of its class.
    fn serve(
        &self,
        picker: &Picker<T>,
        lines: &mut Lines<T>,
        waiter: &Waiter<T>,
        (key, now): (Key, Nanos),
        bells: &mut Vec<Waker>,
    ) {
        let Some(line) = lines.of.get_mut(&waiter.model_name) else { return };
        let mut heads: BinaryHeap<_>;
        if line.rung || line.alarm <= now {
            (line.rung, line.alarm) = (false, Nanos::MAX);
            heads = line.all_heads();
        } else {
            let head = line.classes.get(&waiter.class).and_then(|standing| standing.places.first_key_value());
            heads = head.filter(|&(&head, _)| head == key).map(|_| Reverse((key, Arc::clone(&waiter.class)))).into_iter().collect();
        }
        while let Some(Reverse((key, class))) = heads.pop() {
            let Some(standing) = line.classes.get_mut(&class) else { continue };
            let Some(place) = standing.places.get(&key) else { continue };
            match picker.acquire(&waiter.model_name, &place.request) {
                Err(Error::NoAvailableDeployment(unavailable)) if unavailable.reasons.may_change() => {
                    line.alarm = line.alarm.min(unavailable.retry_at.unwrap_or(Nanos::MAX));
                    standing.refused = Some(unavailable);
                }
                outcome => {
                    lines.served.insert(key.1, outcome);
                    let next = standing.places.range((key.0, key.1 + 1)..).next().map(|(&next, _)| next);
                    bells.extend(line.remove(&class, key).map(|place| place.waker));
                    self.services.bell.leave();
                    if picker.panics(&waiter.model_name) {
                        // Perhaps since this one was served, and others failed before.
                        heads = line.all_heads();
                    } else {
                        heads.extend(next.map(|next| Reverse((next, class))));
                    }
                }
            }
        }
    }
}
