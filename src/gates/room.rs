//! The room that a deployment's limits leave, and the time at which they leave more.

use super::check::{Waived, is_wished, minute_ends_in};
use crate::base::clock::Now;
use crate::base::time::Nanos;
use crate::counters::{State, mark};
use crate::facts::Request;
use crate::group::Entry;
use crate::health::has_come;
use crate::limits::{Unit, to_next_minute};

/// The tokens that a deployment has left.
pub(super) struct Room {
    /// The tokens that are left for any request.
    pub(super) tokens: u64,
    /// When time may add to the tokens; [`Nanos::MAX`] if it does not.
    pub(super) refills_at: Nanos,
    /// Whether some requests may find more tokens now: see `index::Leaf`.
    pub(super) understates: bool,
}

/// Returns whether a request without a prompt or without an answer may pass where a request of unknown parts
/// does not.
pub(super) fn limits_parts<T>(entry: &Entry<T>, state: &State, now: &Now<'_>) -> bool {
    entry.metering.as_ref().is_some_and(|metering| metering.limits_parts())
        || (state.marks() & mark::OBSERVED != 0 && state.annex().observed.active(now.get()).any(|(unit, ..)| unit.is_part()))
}

#[inline(always)]
#[allow(clippy::inline_always)] // see `check_alone`
pub(super) fn tokens_left<T>(entry: &Entry<T>, state: &State, now: &Now<'_>) -> Room {
    let tokens = match entry.deployment().tpm_limit() {
        Some(limit) if state.window.tokens_at_most() != 0 => {
            minute_ends_in(now);
            limit.saturating_sub(state.window.counts(now.wall()).tokens)
        }
        limit => limit.unwrap_or(u64::MAX),
    };
    if state.marks() == 0 {
        Room { tokens, refills_at: now.take_change(), understates: false }
    } else {
        tokens_left_marked(entry, state, tokens, now)
    }
}

/// Goes on from the `tokens` that the minute leaves: takes the other limits into account.
#[inline(never)]
fn tokens_left_marked<T>(entry: &Entry<T>, state: &State, mut tokens: u64, now: &Now<'_>) -> Room {
    let mut understates = false;
    if let Some(metering) = &entry.metering {
        let own = metering.tokens_left(now);
        tokens = tokens.min(own.0);
        understates = own.1;
    }
    if state.marks() & mark::OBSERVED != 0 {
        for (unit, observed, until) in state.annex().observed.active(now.get()) {
            if unit != Unit::Requests {
                understates |= unit.is_part();
                tokens = tokens.min(observed);
                now.note_change(until);
            }
        }
    }
    Room { tokens, refills_at: now.take_change(), understates }
}

/// Returns the smallest limit of a deployment that a request exceeds by itself, so that it never fits; None
/// if it may fit.
pub(crate) fn exceeded<T>(entry: &Entry<T>, request: &Request) -> Option<u64> {
    let minute = entry.deployment().tpm_limit().filter(|&limit| request.least_tokens() > limit);
    let metered = entry.metering.as_ref().and_then(|metering| metering.exceeded(request.into()));
    minute.into_iter().chain(metered).min()
}

/// Returns when a deployment that a gate stops may be available; None if no such time is known.
pub(crate) fn available_at<T>(entry: &Entry<T>, request: &Request, waived: Waived, now: &Now<'_>) -> Option<Nanos> {
    let own = frees_at(entry, request, waived, now)?;
    let quotas = match &entry.metering {
        Some(metering) => metering.quotas_free_at(request.into(), now.get())?,
        None => now.get(),
    };
    Some(own.max(quotas)).filter(|&at| at > now.get())
}

/// Returns when a deployment may be available, now at the earliest, if its quotas let requests through. None
/// if no such time is known.
pub(super) fn frees_at<T>(entry: &Entry<T>, request: &Request, waived: Waived, now: &Now<'_>) -> Option<Nanos> {
    let state = &*entry.slot;
    let deployment = entry.deployment();
    let asked = request.least_tokens();
    let cooldown_until = if waived.health { 0 } else { state.vitals.cooldown_until() };
    // Nobody knows when a health check will report, or when the lease of a probation will end.
    let is_unknown =
        !waived.health && ((state.vitals.is_unhealthy() && !waived.unhealthy) || (cooldown_until != 0 && state.is_probed()));
    if is_unknown || !is_wished(entry, request, now) || exceeded(entry, request).is_some() {
        return None;
    }
    let (now, wall) = (now.get(), now.wall());
    let counts = state.window.counts(wall);
    let spent = deployment.rpm_limit().is_some_and(|limit| counts.requests >= limit)
        || deployment.tpm_limit().is_some_and(|limit| limit.saturating_sub(counts.tokens) < asked);
    let window_frees = if spent { now.saturating_add(to_next_minute(wall)) } else { now };
    let metered_frees = match &entry.metering {
        Some(metering) => metering.own_frees_at(request.into(), now)?,
        None => now,
    };
    let observed_frees =
        if state.marks() & mark::OBSERVED != 0 { state.annex().observed.frees_at(request.into(), now) } else { now };
    let cooldown_ends = if has_come(cooldown_until, now) { now } else { cooldown_until };
    Some(window_frees.max(cooldown_ends).max(metered_frees).max(observed_frees))
}
