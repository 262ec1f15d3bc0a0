//! Reports on limits, for people to read.

use std::sync::Arc;

use super::limit::Limit;
use super::meter::Meter;
use super::metering::Metering;
use super::observed::Observations;
use super::quota::Quota;
use super::share::Share;
use super::unit::Unit;
use crate::base::time::{Nanos, seconds};

/// The report on a limit, for people to read.
///
/// ```
/// use turnout::{Deployment, Limit, LimitKind, Request, Router, Settings, Unit};
///
/// let limit = Limit::new(Unit::Tokens, 1000, 60_000_000_000, LimitKind::Sliding)?;
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?.with_limits(&[limit]), ())?);
/// let lease = router.acquire("gpt-4o", &Request { tokens: 300, ..Request::default() })?;
/// assert_eq!(router.stats("azure-eu")?.limits[0].remaining, 700);
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LimitStats {
    /// The limit.
    pub limit: Limit,
    /// The quota it belongs to; None for the deployment's own.
    pub quota: Option<Arc<str>>,
    /// The units that are used.
    pub used: u64,
    /// The units that are left to use now.
    pub remaining: u64,
    /// Seconds until all of the limit is left, if nothing more is used.
    pub resets_in: f64,
    /// The units that this process may still use now, if it shares the limit with others.
    pub held: Option<u64>,
    /// The units that all processes together were granted, by the last answer of the store.
    pub granted: Option<u64>,
}

impl LimitStats {
    fn new(meter: &Meter, quota: Option<&Quota>, held: Option<(u64, u64)>, now: Nanos) -> Self {
        let full_at = meter.frees_at(now, meter.limit().capacity()).unwrap_or(now);
        Self {
            limit: *meter.limit(),
            quota: quota.map(|quota| Arc::clone(quota.shared_id())),
            used: meter.used(now),
            remaining: meter.left(now),
            resets_in: seconds(full_at.saturating_sub(now)),
            held: held.map(|(held, _)| held),
            granted: held.map(|(_, granted)| granted),
        }
    }

    /// Returns the limits of an owner.
    fn of<'a>(
        meters: &'a [Meter],
        quota: Option<&'a Quota>,
        share: Option<&'a Share>,
        now: Nanos,
    ) -> impl Iterator<Item = Self> + 'a {
        let held = share.into_iter().flat_map(move |share| share.held_of_limits(now)).map(Some).chain(std::iter::repeat(None));
        meters.iter().zip(held).map(move |(meter, held)| Self::new(meter, quota, held, now))
    }

    /// Returns all limits of a deployment.
    pub(crate) fn all(metering: Option<&Metering>, now: Nanos) -> Vec<Self> {
        let Some(metering) = metering else { return Vec::new() };
        let own = Self::of(metering.own(), None, metering.share(), now);
        let quotas = metering.quotas().iter();
        own.chain(quotas.flat_map(|ledger| Self::of(ledger.meters(), Some(ledger.quota()), ledger.share(), now))).collect()
    }
}

/// The report on what a provider said, for people to read.
///
/// ```
/// use turnout::{Deployment, Observed, Router, Settings, Unit};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, ())?);
/// router.observe("azure-eu", &[Observed { unit: Unit::Tokens, limit: None, remaining: 7, reset: None }], None)?;
/// assert_eq!(router.stats("azure-eu")?.observed[0].remaining, 7);
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedStats {
    /// The unit that it limits.
    pub unit: Unit,
    /// The quota that this is about; None for the deployment itself.
    pub quota: Option<Arc<str>>,
    /// The units that it said may be used in all, if it said so.
    pub limit: Option<u64>,
    /// The units that it said are left, less those that were reserved since.
    pub remaining: u64,
    /// Seconds until this answer is out of date.
    pub resets_in: f64,
}

impl ObservedStats {
    /// Returns all that still holds for a deployment.
    pub(crate) fn all(own: Option<&Observations>, metering: Option<&Metering>, now: Nanos) -> Vec<Self> {
        let quotas = metering.into_iter().flat_map(Metering::quotas);
        let quotas = quotas.map(|ledger| (Some(ledger.quota().shared_id()), ledger.observed()));
        let all = own.into_iter().map(|own| (None, own)).chain(quotas);
        all.flat_map(|(quota, observed)| Self::of(observed, quota, now)).collect()
    }

    /// Returns what still holds of one owner's observations. No requests are left while the provider wants
    /// none.
    fn of(observed: &Observations, quota: Option<&Arc<str>>, now: Nanos) -> Vec<Self> {
        let stats = |unit, limit, remaining, until: Nanos| {
            let limit = Some(limit).filter(|&limit| limit > 0);
            Self { unit, quota: quota.cloned(), limit, remaining, resets_in: seconds(until - now) }
        };
        let paused_until = observed.paused_until();
        let pause = (now < paused_until).then(|| stats(Unit::Requests, 0, 0, paused_until));
        let active = observed.active(now).map(|(unit, left, until)| stats(unit, observed.limit(unit), left, until));
        pause.into_iter().chain(active).collect()
    }
}
