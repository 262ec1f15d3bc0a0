//! The checks of the gates.
//!
//! Limits on tokens are compared in two more places, which must agree with these checks: for the index
//! (`tokens_left` in `room`, and `index::tree`), and for the error (`available_at` and `exceeded` in `room`).

use super::refusal::Refusal;
use crate::base::clock::Now;
use crate::base::gate::each_gate;
use crate::base::time::Nanos;
use crate::counters::{State, mark};
use crate::facts::Request;
use crate::group::Entry;
use crate::health::has_come;
use crate::limits::to_next_minute;

/// The gates that are open to all deployments, since otherwise too few would be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a gate of its own")]
pub(crate) struct Waived {
    /// Whether the gates of health are open: the group panics.
    pub(crate) health: bool,
    /// Whether the gate of health checks is open: health checks took every member out.
    pub(crate) unhealthy: bool,
    pub(crate) slow_start: bool,
    /// Whether it does not matter what this process holds of limits that it shares with others.
    pub(crate) shared: bool,
}

/// What the checks look at: one deployment and one request.
struct Check<'a, 'c, T> {
    entry: &'a Entry<T>,
    state: &'a State,
    request: &'a Request,
    waived: Waived,
    now: &'a Now<'c>,
    cooldown_until: Nanos,
}

macro_rules! stages {
    ($( $stage:ident { $( $(#[$doc:meta])* $gate:ident $name:ident $kind:ident, )* } )*) => {
        /// The stages of the table: each runs the checks of its gates in their order.
        impl<T> Check<'_, '_, T> {
            $(
                #[inline(always)]
                #[allow(clippy::inline_always)] // see `check_alone`
                fn $stage(&self) -> Result<(), Refusal> {
                    $( self.$name()?; )*
                    Ok(())
                }
            )*
        }
    };
}
each_gate!(stages);

/// The checks: one method for each gate. It has the gate's name.
#[allow(clippy::inline_always)] // see `check_alone`
impl<T> Check<'_, '_, T> {
    // --- what the request asks for ---

    #[inline(always)]
    fn dialect(&self) -> Result<(), Refusal> {
        match &self.request.wishes {
            Some(wishes) if !wishes.accepts_dialect(self.entry.deployment().labels()) => Err(Refusal::Dialect),
            _ => Ok(()),
        }
    }

    #[inline(always)]
    fn tags(&self) -> Result<(), Refusal> {
        match &self.request.wishes {
            Some(wishes) if !wishes.accepts_tags(self.entry.deployment().labels()) => {
                Err(if wishes.by_default.is_some() { Refusal::DefaultTag } else { Refusal::Tags })
            }
            _ => Ok(()),
        }
    }

    #[inline(always)]
    fn only(&self) -> Result<(), Refusal> {
        match &self.request.wishes {
            Some(wishes) if wishes.leaves_out(self.entry.deployment().id()) => Err(Refusal::Only),
            _ => Ok(()),
        }
    }

    #[inline(always)]
    fn excluded(&self) -> Result<(), Refusal> {
        match &self.request.wishes {
            Some(wishes) if wishes.excludes(self.entry.deployment().id()) => Err(Refusal::Excluded),
            _ => Ok(()),
        }
    }

    // --- what every deployment counts ---

    #[inline(always)]
    fn cooling_down(&self) -> Result<(), Refusal> {
        let until = self.cooldown_until;
        if until != 0 && !has_come(until, self.now.get()) && !self.waived.health {
            self.now.note_change(until);
            return Err(Refusal::CoolingDown { ends_in: until - self.now.get(), cause: self.state.cause() });
        }
        Ok(())
    }

    #[inline(always)]
    fn unhealthy(&self) -> Result<(), Refusal> {
        if self.state.vitals.is_unhealthy() && !self.waived.health && !self.waived.unhealthy {
            Err(Refusal::Unhealthy)
        } else {
            Ok(())
        }
    }

    #[inline(always)]
    fn probation(&self) -> Result<(), Refusal> {
        // Some rules know no such place. Under them no request has it.
        let is_taken = || self.state.is_probed() || self.is_probed_elsewhere();
        if self.cooldown_until != 0 && !self.waived.health && is_taken() { Err(Refusal::Probation) } else { Ok(()) }
    }

    #[inline(always)]
    fn max_parallel_requests(&self) -> Result<(), Refusal> {
        if let Some(limit) = self.entry.deployment().max_parallel_requests() {
            let in_flight = self.state.in_flight();
            if in_flight >= limit {
                return Err(Refusal::MaxParallelRequests { in_flight, limit });
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn rpm_limit(&self) -> Result<(), Refusal> {
        if let Some(limit) = self.entry.deployment().rpm_limit()
            && self.state.window.requests_at_most() >= limit
        {
            let used = self.state.window.counts(self.now.wall()).requests;
            if used >= limit {
                return Err(Refusal::RpmLimit { used, limit, frees_in: minute_ends_in(self.now) });
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn tpm_limit(&self) -> Result<(), Refusal> {
        if let Some(limit) = self.entry.deployment().tpm_limit() {
            let asked = self.request.least_tokens();
            if limit.saturating_sub(self.state.window.tokens_at_most()) < asked {
                let used = self.state.window.counts(self.now.wall()).tokens;
                if limit.saturating_sub(used) < asked {
                    return Err(Refusal::TpmLimit { used, asked, limit, frees_in: minute_ends_in(self.now) });
                }
            }
        }
        Ok(())
    }

    /// Returns whether another process may have the one place of the probation.
    #[cold]
    fn is_probed_elsewhere(&self) -> bool {
        let share = self.entry.metering.as_ref().and_then(|metering| metering.share());
        share.is_some_and(|share| self.entry.rules().health().is_some() && share.lacks_probe(self.now.get()))
    }

    // --- what few deployments count ---

    #[inline]
    fn limit(&self) -> Result<(), Refusal> {
        if let Some(metering) = &self.entry.metering
            && let Some(shortfall) = metering.shortfall(self.request.into(), self.now.get())
        {
            self.now.note_change(self.now.get().saturating_add(shortfall.frees_in));
            return Err(Refusal::Limit(shortfall));
        }
        Ok(())
    }

    #[inline]
    fn learnt_parallel_requests(&self) -> Result<(), Refusal> {
        // Limits may have been configured since the cap was learnt.
        if self.state.marks() & mark::CAPPED != 0 && !self.entry.deployment().is_limited() {
            let (in_flight, limit) = (self.state.in_flight(), self.state.annex().cap.most());
            if in_flight >= limit {
                return Err(Refusal::LearntParallelRequests { in_flight, limit });
            }
        }
        Ok(())
    }

    #[inline]
    fn observed_limit(&self) -> Result<(), Refusal> {
        if self.state.marks() & mark::OBSERVED != 0
            && let Some(shortfall) = self.state.annex().observed.shortfall(self.request.into(), self.now.get())
        {
            self.now.note_change(self.now.get().saturating_add(shortfall.ends_in));
            return Err(Refusal::ObservedLimit(shortfall));
        }
        Ok(())
    }

    #[inline]
    fn slow_start(&self) -> Result<(), Refusal> {
        if self.state.marks() & mark::SLOW_START == 0 || self.waived.slow_start {
            return Ok(());
        }
        let Some((slice, picks_left)) = self.entry.pace(self.state, self.now.get()) else { return Ok(()) };
        self.now.note_change(slice.ends_at);
        if picks_left == 0 { Ok(()) } else { Err(Refusal::SlowStart { percent: slice.percent, picks_left }) }
    }

    #[inline]
    fn shared(&self) -> Result<(), Refusal> {
        if let Some(metering) = &self.entry.metering
            && !self.waived.shared
            && let Some(shortfall) = metering.share_shortfall(self.request.into(), self.now.get())
        {
            self.now.note_change(self.now.get().saturating_add(shortfall.frees_in));
            return Err(Refusal::Shared(shortfall));
        }
        Ok(())
    }

    // --- what it shares with others ---

    #[inline]
    fn quota(&self) -> Result<(), Refusal> {
        let metering = self.entry.metering.as_ref();
        match metering.and_then(|metering| metering.quota_shortfall(self.request.into(), self.now.get(), !self.waived.shared)) {
            Some((nth, shortfall)) => Err(Refusal::Quota { nth, shortfall }),
            None => Ok(()),
        }
    }
}

/// Lets a deployment pass, or names the first gate that stops it. It leaves out the gates of what the
/// deployment shares with others. So an index can keep the result.
///
/// The clock is read only if a number would stop the deployment, and a new minute or an elapsed cooldown may
/// have freed it.
#[inline(always)]
// most requests ask for nothing special, and for them the compiler drops much of this code
#[allow(clippy::inline_always)]
pub(super) fn check_alone<T>(
    entry: &Entry<T>,
    state: &State,
    request: &Request,
    waived: Waived,
    now: &Now<'_>,
) -> Result<(), Refusal> {
    let check = Check { entry, state, request, waived, now, cooldown_until: state.vitals.cooldown_until() };
    if request.wishes.is_some() {
        check.by_request()?;
    }
    check.by_counters()?;
    if state.marks() == 0 { Ok(()) } else { check_marks(entry, state, request, waived, now) }
}

/// Runs the checks that few deployments need. It takes the parts of a [`Check`] one by one, so that the other
/// checks need not put theirs into memory.
#[inline(never)]
fn check_marks<T>(entry: &Entry<T>, state: &State, request: &Request, waived: Waived, now: &Now<'_>) -> Result<(), Refusal> {
    Check { entry, state, request, waived, now, cooldown_until: 0 }.by_marks()
}

/// Runs the checks of what a deployment shares with others. See [`check_marks`].
#[inline(never)]
fn check_quotas<T>(entry: &Entry<T>, state: &State, request: &Request, waived: Waived, now: &Now<'_>) -> Result<(), Refusal> {
    Check { entry, state, request, waived, now, cooldown_until: 0 }.by_quotas()
}

/// Lets a deployment pass, or names the first gate that stops it. `state` has the entry's counters.
#[inline]
pub(crate) fn check<T>(entry: &Entry<T>, state: &State, request: &Request, waived: Waived, now: &Now<'_>) -> Result<(), Refusal> {
    check_alone(entry, state, request, waived, now)?;
    if state.marks() & mark::METERED == 0 { Ok(()) } else { check_quotas(entry, state, request, waived, now) }
}

/// Returns whether a request itself does not rule a deployment out.
pub(crate) fn is_wished<T>(entry: &Entry<T>, request: &Request, now: &Now<'_>) -> bool {
    let check = Check { entry, state: &entry.slot, request, waived: Waived::default(), now, cooldown_until: 0 };
    check.by_request().is_ok()
}

/// Returns the nanoseconds to the next minute. Notes that the counts that were just read change then.
#[inline]
pub(super) fn minute_ends_in(now: &Now<'_>) -> Nanos {
    let left = to_next_minute(now.wall());
    now.note_change(now.get().saturating_add(left));
    left
}
