//! The leaf that an index keeps of a deployment. The gates and the rule that a walk uses make it.

use std::sync::Arc;

use super::check::{Waived, check_alone};
use super::live::Live;
use super::room::{frees_at, limits_parts, tokens_left};
use crate::base::clock::Now;
use crate::base::events::{Event, EventKind};
use crate::base::labels::Labels;
use crate::base::time::Nanos;
use crate::counters::{State, mark};
use crate::facts::Request;
use crate::group::Entry;
use crate::health::Fitness;
use crate::index::{Leaf, Member, Obstacle, Place, QuotaBits};
use crate::strategy::Rule;

/// The request that a leaf is made for: of unknown size, without wishes.
static ANY: Request = Request { tokens: 0, split: None, wishes: None };

impl<T> Member for Entry<T> {
    #[inline]
    fn place(&self) -> &Place {
        &self.home.place
    }

    #[inline]
    fn labels(&self) -> Labels<'_> {
        self.deployment().labels()
    }

    #[inline]
    fn fitness(&self, now: &Now<'_>) -> Fitness {
        self.slot.fitness(now)
    }

    #[inline]
    fn leaf<R: Rule>(&self, now: &Now<'_>) -> Leaf<R::Leaf> {
        let state = &*self.slot;
        now.take_change();
        // Which gate it is does not matter here, so that the compiler drops all refusals.
        if check_alone(self, state, &ANY, Waived::default(), now).is_err() {
            let until = now.take_change();
            return Leaf {
                understates: limits_parts(self, state, now),
                is_well: state.vitals.is_well(),
                due_pick: self.due_pick(state, now),
                ..Leaf::stopped(until)
            };
        }
        let candidate = Some(R::leaf(&Live { entry: self, state, now }));
        let changes_at = now.take_change();
        let room = tokens_left(self, state, now);
        Leaf {
            candidate,
            tokens: room.tokens,
            understates: room.understates,
            changes_at,
            refills_at: room.refills_at,
            is_well: state.vitals.is_well(),
            due_pick: self.due_pick(state, now),
        }
    }

    fn quotas(&self) -> QuotaBits {
        self.metering.as_ref().map_or(0, |metering| metering.bits())
    }

    fn obstacle(&self, now: &Now<'_>) -> Obstacle {
        let refusal = check_alone(self, &self.slot, &ANY, Waived::default(), now).err();
        let frees_at = frees_at(self, &ANY, Waived::default(), now);
        // A time that has come stops nothing: it is 0, whatever the time is.
        let frees_at = frees_at.map(|at| if at > now.get() { at } else { 0 });
        Obstacle { gate: refusal.map(|refusal| refusal.gate()), frees_at, quotas: self.quotas() }
    }

    fn announce_panic(&self, panics: bool, now: Nanos) {
        let (kind, detail) = if panics {
            (EventKind::Panic, "too few are in service: health is ignored")
        } else {
            (EventKind::PanicOver, "enough are in service")
        };
        self.services.events.note(|| Event {
            kind,
            deployment_id: None,
            model_name: Arc::clone(self.deployment().shared_model_name()),
            at: now,
            detail: detail.to_owned(),
        });
    }
}

impl<T> Entry<T> {
    /// Returns the count of its group's picks at which it is a candidate again, if it is in slow start. If
    /// slow start does not stop it, this is the largest number. If it is in none, this is 0.
    #[inline]
    fn due_pick(&self, state: &State, now: &Now<'_>) -> u64 {
        if state.marks() & mark::SLOW_START == 0 { 0 } else { self.due_pick_paced(state, now) }
    }

    #[cold]
    fn due_pick_paced(&self, state: &State, now: &Now<'_>) -> u64 {
        match self.pace(state, now.get()) {
            Some((_, picks_left)) if picks_left > 0 => self.home.index.words.ramp.due_pick(picks_left),
            _ => u64::MAX,
        }
    }
}
