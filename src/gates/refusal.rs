//! A refusal: the gate that stopped a deployment, in numbers and in words.

use std::fmt;

use crate::base::gate::Gate;
use crate::base::time::{Nanos, seconds};
use crate::group::Entry;
use crate::health::Cause;
use crate::limits::{LimitKind, LimitShortfall, ObservedShortfall, SharedShortfall, Shortfall};

/// The gate that stopped a deployment, with the numbers of the check.
///
/// ```
/// use turnout::{Deployment, Gate, Refusal, Request, Router, Settings, Verdict};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?.with_rpm_limit(Some(1))?, ())?);
/// let lease = router.acquire("gpt-4o", &Request::default())?;
/// let explanation = router.explain("gpt-4o", &Request::default())?;
/// let Some((_, Verdict::Stopped(refusal))) = explanation.verdicts.first() else { unreachable!() };
/// assert_eq!(refusal.gate(), Gate::RpmLimit);
/// assert!(matches!(refusal, Refusal::RpmLimit { used: 1, limit: 1, .. }));
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request is in another dialect than the deployment speaks.
    Dialect,
    /// The deployment lacks the tags that the request asks for.
    Tags,
    /// The deployment lacks the default tag. The request asks for no tags, or for tags that no deployment
    /// has.
    DefaultTag,
    /// The request names the only deployments that may serve it, and this is none of them.
    Only,
    /// The request excludes the deployment.
    Excluded,
    /// The deployment is cooling down.
    CoolingDown {
        /// Nanoseconds until the cooldown ends.
        ends_in: Nanos,
        /// Why it cools down, if the rules of `Health` noted it.
        cause: Option<Cause>,
    },
    /// A health check took the deployment out.
    Unhealthy,
    /// The deployment is on probation, and another request has its one place.
    Probation,
    /// Every place in flight is taken.
    MaxParallelRequests {
        /// Leases in flight.
        in_flight: u32,
        /// The most there may be.
        limit: u32,
    },
    /// Every request of this minute is spent.
    RpmLimit {
        /// Requests counted.
        used: u64,
        /// The most there may be.
        limit: u64,
        /// Nanoseconds until the next minute.
        frees_in: Nanos,
    },
    /// Too few tokens of this minute are left.
    TpmLimit {
        /// Tokens counted.
        used: u64,
        /// Tokens asked for.
        asked: u64,
        /// The most there may be.
        limit: u64,
        /// Nanoseconds until the next minute.
        frees_in: Nanos,
    },
    /// Another limit of the deployment's own is spent.
    Limit(LimitShortfall),
    /// All places in flight are taken. Refusals have taught how many there are.
    LearntParallelRequests {
        /// Leases in flight.
        in_flight: u32,
        /// The most there may be.
        limit: u32,
    },
    /// The provider said that too little is left.
    ObservedLimit(ObservedShortfall),
    /// The deployment has returned or joined, and its share is still small. This gate is ignored where no
    /// other deployment is left.
    SlowStart {
        /// Its share, in percent of a fair one.
        percent: u64,
        /// How many picks of its group must come before this gate lets it pass.
        picks_left: u64,
    },
    /// Other processes share a limit of the deployment's own, and this one holds too little of it.
    Shared(SharedShortfall),
    /// A limit of a quota that the deployment shares is spent, or the provider said so.
    Quota {
        /// Which of its quotas, in the order of their locks.
        nth: u32,
        /// Which of the quota's limits stopped it, and why.
        shortfall: Shortfall,
    },
}

impl Refusal {
    /// Returns the gate.
    #[must_use]
    pub fn gate(&self) -> Gate {
        match self {
            Self::Dialect => Gate::Dialect,
            Self::Tags | Self::DefaultTag => Gate::Tags,
            Self::Only => Gate::Only,
            Self::Excluded => Gate::Excluded,
            Self::CoolingDown { .. } => Gate::CoolingDown,
            Self::Unhealthy => Gate::Unhealthy,
            Self::Probation => Gate::Probation,
            Self::MaxParallelRequests { .. } => Gate::MaxParallelRequests,
            Self::RpmLimit { .. } => Gate::RpmLimit,
            Self::TpmLimit { .. } => Gate::TpmLimit,
            Self::Limit(_) => Gate::Limit,
            Self::LearntParallelRequests { .. } => Gate::LearntParallelRequests,
            Self::ObservedLimit(_) => Gate::ObservedLimit,
            Self::SlowStart { .. } => Gate::SlowStart,
            Self::Shared(_) => Gate::Shared,
            Self::Quota { .. } => Gate::Quota,
        }
    }
}

/// The text does not name the limit or the quota: [`Entry::describe`] does.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Dialect => f.write_str("does not speak the dialect of the request"),
            Self::Only => f.write_str("not among the only deployments asked for"),
            Self::Tags => f.write_str("lacks the tags asked for"),
            Self::DefaultTag => f.write_str("lacks the default tag, which serves here"),
            Self::Excluded => f.write_str("excluded by the request"),
            Self::CoolingDown { ends_in, cause: None } => write!(f, "cooling down, ends in {:.1} s", seconds(ends_in)),
            Self::CoolingDown { ends_in, cause: Some(cause) } => {
                write!(f, "cooling down ({cause}), ends in {:.1} s", seconds(ends_in))
            }
            Self::Unhealthy => f.write_str("reported unhealthy"),
            Self::Probation => f.write_str("on probation, and its one place is taken"),
            Self::MaxParallelRequests { in_flight, limit } => write!(f, "in flight {in_flight}/{limit}"),
            Self::RpmLimit { used, limit, frees_in } => write!(f, "rpm {used}/{limit}, frees in {:.1} s", seconds(frees_in)),
            Self::TpmLimit { asked, limit, .. } if asked > limit => write!(f, "tpm limit {limit}, {asked} asked for: never fits"),
            Self::TpmLimit { used, asked, limit, frees_in } => {
                write!(f, "tpm {used}/{limit}, {asked} asked for, frees in {:.1} s", seconds(frees_in))
            }
            Self::Limit(shortfall) => shortfall.fmt(f),
            Self::LearntParallelRequests { in_flight, limit } => write!(f, "in flight {in_flight}/{limit}, learnt from refusals"),
            Self::ObservedLimit(shortfall) => shortfall.fmt(f),
            Self::Shared(shortfall) => shortfall.fmt(f),
            Self::Quota { shortfall, .. } => shortfall.fmt(f),
            Self::SlowStart { percent, picks_left } => {
                write!(f, "slow start at {percent} % of a fair share, a candidate again after {picks_left} picks")
            }
        }
    }
}

/// What a request lacks, where more of it comes by and by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lacks {
    /// A limit of the deployment's own.
    Own,
    /// A limit of a quota, by the quota's serial number.
    Quota(u64),
}

impl<T> Entry<T> {
    /// Returns what a request that was refused here lacks, if that comes by and by. All of a fixed window
    /// comes at once, when the next one begins: what is left of this one brings nobody nearer. So None for
    /// those.
    pub(crate) fn lacks(&self, refusal: &Refusal) -> Option<Lacks> {
        let nth = |nth: u32| usize::try_from(nth).unwrap_or(usize::MAX);
        let (limit, lacks) = match refusal {
            Refusal::Limit(shortfall) => (self.deployment().limits().get(nth(shortfall.nth)), Lacks::Own),
            Refusal::Quota { nth: at, shortfall: Shortfall::Limit(shortfall) } => {
                let ledger = self.metering.as_ref()?.quotas().get(nth(*at))?;
                (ledger.quota().limits().get(nth(shortfall.nth)), Lacks::Quota(ledger.serial()))
            }
            _ => return None,
        };
        limit.filter(|limit| !matches!(limit.kind(), LimitKind::Fixed(_))).map(|_| lacks)
    }

    /// Returns in words what stopped it.
    pub fn describe(&self, refusal: &Refusal) -> String {
        let nth = |nth: u32| usize::try_from(nth).unwrap_or(usize::MAX);
        let cause = match refusal {
            Refusal::Limit(shortfall) => self.deployment().limits().get(nth(shortfall.nth)).map(ToString::to_string),
            Refusal::Shared(shortfall) => {
                let share = self.metering.as_ref().and_then(|metering| metering.share());
                return share.map_or_else(|| refusal.to_string(), |share| share.describe(shortfall, self.services.clock.now()));
            }
            Refusal::Quota { nth: at, shortfall: Shortfall::Shared(shortfall) } => {
                let ledger = self.metering.as_ref().and_then(|metering| metering.quotas().get(nth(*at)));
                let share = ledger.and_then(|ledger| Some((ledger.quota().id(), ledger.share()?)));
                return share.map_or_else(
                    || refusal.to_string(),
                    |(id, share)| format!("quota {id:?}: {}", share.describe(shortfall, self.services.clock.now())),
                );
            }
            Refusal::Quota { nth: at, shortfall } => {
                let quota = self.metering.as_ref().and_then(|metering| Some(metering.quotas().get(nth(*at))?.quota()));
                quota.map(|quota| {
                    let limit = match shortfall {
                        Shortfall::Limit(shortfall) => quota.limits().get(nth(shortfall.nth)),
                        Shortfall::Observed(_) | Shortfall::Shared(_) => None,
                    };
                    let limit = limit.map(|limit| format!(": {limit}")).unwrap_or_default();
                    format!("quota {:?}{limit}", quota.id())
                })
            }
            _ => None,
        };
        cause.map_or_else(|| refusal.to_string(), |cause| format!("{cause}: {refusal}"))
    }
}
