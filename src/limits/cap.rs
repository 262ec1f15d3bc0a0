//! A cap on requests in flight, learnt from refusals.

use crate::base::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::base::time::Nanos;

/// A cap on requests in flight, found by additive increase and multiplicative decrease (Chiu and Jain, 1989).
///
/// - A refusal lowers it to seven tenths of the requests that were in flight. All requests that were sent
///   before the refusal lower it only once.
/// - The cap grows by one after as many successes as the cap. Only successes count during which the cap was
///   reached.
#[derive(Debug, Default)]
pub(crate) struct Cap {
    /// 0 for none.
    most: AtomicU32,
    /// Successes since it was last changed.
    successes: AtomicU32,
    cut_at: AtomicU64,
}

impl Cap {
    /// Returns the most requests that may be in flight; 0 if nothing was learnt.
    pub(crate) fn most(&self) -> u32 {
        self.most.load(Ordering::Relaxed)
    }

    /// Records that a request was refused for its rate. It was sent at `sent_at`, while `in_flight` requests
    /// were in flight. Returns whether that lowers the cap.
    pub(crate) fn refused(&self, sent_at: Nanos, in_flight: u32, now: Nanos) -> bool {
        // A clock may be coarse: a request that was sent at the very time of the refusal did not know of it.
        if self.most() != 0 && sent_at <= self.cut_at.load(Ordering::Relaxed) {
            return false;
        }
        let kept = u32::try_from(u64::from(in_flight) * 7 / 10).unwrap_or(u32::MAX);
        self.most.store(kept.max(1), Ordering::Relaxed);
        self.successes.store(0, Ordering::Relaxed);
        self.cut_at.store(now, Ordering::Relaxed);
        true
    }

    /// Records a success, while `in_flight` requests were in flight.
    pub(crate) fn served(&self, in_flight: u32) {
        let most = self.most();
        if in_flight < most {
            return;
        }
        let successes = self.successes.load(Ordering::Relaxed).saturating_add(1);
        let is_round = successes >= most;
        self.successes.store(if is_round { 0 } else { successes }, Ordering::Relaxed);
        if is_round {
            self.most.store(most.saturating_add(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn clear(&self) {
        self.most.store(0, Ordering::Relaxed);
        self.successes.store(0, Ordering::Relaxed);
        self.cut_at.store(0, Ordering::Relaxed);
    }
}
