//! The errors that calls return.

use std::fmt;
use std::sync::Arc;

use super::gate::Gate;
use super::time::Nanos;

/// Why a call failed. The message names the value and what is allowed.
///
/// It is kept small, since the result of every pick has room for one.
///
/// ```
/// use turnout::{Error, Request, Router, Settings};
///
/// let router: Router<()> = Router::new(Settings::default())?;
/// let Err(Error::ModelNotFound(unknown)) = router.acquire("gpt-4o", &Request::default()) else { unreachable!() };
/// assert_eq!(unknown.name, "gpt-4o");
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// A value is out of range or unknown.
    Configuration(String),
    /// An alias would lead back to itself. These are the names on the way round.
    AliasCycle(Vec<Arc<str>>),
    /// No deployment serves the model.
    ModelNotFound(Box<UnknownModel>),
    /// There is no such alias.
    AliasNotFound(String),
    /// No deployment has the id.
    DeploymentNotFound(Box<UnknownDeployment>),
    /// Every deployment of the group was stopped by a gate.
    NoAvailableDeployment(Box<Unavailable>),
    /// Gates stopped every deployment of the group for as long as the request would wait.
    WaitTimeout(Box<Unavailable>),
    /// Every deployment of the group was stopped by a gate, and this many requests wait already: no more may.
    TooManyWaiters(Box<Unavailable>, usize),
    /// The tokens are above the limit of every deployment that the request could use.
    RequestTooLarge(Box<TooLarge>),
}

/// A name that no deployment serves.
///
/// ```
/// use turnout::{Deployment, Error, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, ())?);
/// let Err(Error::ModelNotFound(unknown)) = router.resolve("gpt-4") else { unreachable!() };
/// assert_eq!(unknown.near, ["gpt-4o"]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownModel {
    /// The name that was asked for.
    pub name: String,
    /// The name that aliases lead to from it; None if it is no alias.
    pub resolved: Option<Arc<str>>,
    /// Known names that look like it, best first.
    pub near: Vec<String>,
}

/// An id that no deployment has.
///
/// ```
/// use turnout::{Error, Router, Settings};
///
/// let router: Router<()> = Router::new(Settings::default())?;
/// let Err(Error::DeploymentNotFound(unknown)) = router.stats("azure-eu") else { unreachable!() };
/// assert_eq!(unknown.id, "azure-eu");
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownDeployment {
    /// The id that was asked for.
    pub id: String,
    /// Known ids that look like it, best first.
    pub near: Vec<String>,
}

/// A request that never fits.
///
/// ```
/// use turnout::{Deployment, Error, Request, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?.with_tpm_limit(Some(1000))?, ())?);
/// let request = Request { tokens: 2000, ..Request::default() };
/// let Err(Error::RequestTooLarge(too_large)) = router.acquire("gpt-4o", &request) else { unreachable!() };
/// assert_eq!(too_large.largest_limit, 1000);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLarge {
    /// The model name whose group was asked.
    pub model_name: Arc<str>,
    /// The tokens asked for.
    pub tokens: u64,
    /// The largest limit.
    pub largest_limit: u64,
}

/// What stopped the deployments of a group.
///
/// ```
/// use turnout::{Deployment, Error, Request, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?, ())?);
/// router.cool_down("azure-eu", 5_000_000_000)?;
/// let Err(Error::NoAvailableDeployment(unavailable)) = router.acquire("gpt-4o", &Request::default()) else {
///     unreachable!()
/// };
/// assert!(unavailable.retry_after.is_some_and(|seconds| seconds <= 5.0));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Unavailable {
    /// The model name whose group was asked.
    pub model_name: Arc<str>,
    /// Seconds until the earliest time at which a deployment may be available; None if no such time is known.
    pub retry_after: Option<f64>,
    pub(crate) retry_at: Option<Nanos>,
    /// Whether a shared store was asked for what the request lacks.
    pub(crate) is_asked_for: bool,
    /// How many deployments each gate stopped.
    pub reasons: Reasons,
}

/// How many deployments each gate stopped.
///
/// ```
/// use turnout::{Deployment, Error, Gate, Request, Router, Settings};
///
/// let router = Router::new(Settings::default())?;
/// drop(router.add(Deployment::new("azure-eu", "gpt-4o")?.with_max_parallel_requests(Some(1))?, ())?);
/// let lease = router.acquire("gpt-4o", &Request::default())?;
/// let Err(Error::NoAvailableDeployment(unavailable)) = router.acquire("gpt-4o", &Request::default()) else {
///     unreachable!()
/// };
/// assert_eq!(unavailable.reasons.iter().collect::<Vec<_>>(), [(Gate::MaxParallelRequests, 1)]);
/// assert!(!unavailable.reasons.all_cooling_down());
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reasons([usize; Gate::ALL.len()]);

impl Reasons {
    pub(crate) fn add(&mut self, gate: Gate, deployments: usize) {
        if let Some(count) = self.0.get_mut(gate as usize) {
            *count += deployments;
        }
    }

    /// Counts one deployment under another gate.
    pub(crate) fn recount(&mut self, from: Gate, to: Gate) {
        self.subtract(from, 1);
        self.add(to, 1);
    }

    pub(crate) fn subtract(&mut self, gate: Gate, deployments: usize) {
        if let Some(count) = self.0.get_mut(gate as usize) {
            *count = count.saturating_sub(deployments);
        }
    }

    /// Returns the gates that stopped any deployment, in their order, each with the number of deployments.
    pub fn iter(&self) -> impl Iterator<Item = (Gate, usize)> {
        Gate::ALL.into_iter().zip(self.0).filter(|&(_, count)| count > 0)
    }

    /// Returns the gates that stopped deployments which the request itself did not rule out.
    fn not_by_request(&self) -> impl Iterator<Item = Gate> {
        self.iter().map(|(gate, _)| gate).filter(|gate| !gate.is_wish())
    }

    /// Returns whether such gates stopped all deployments that the request could use. False if the request
    /// could use none.
    fn only(&self, is_such: impl Fn(Gate) -> bool) -> bool {
        self.may_change() && self.not_by_request().all(is_such)
    }

    /// Returns whether a deployment was stopped that the request itself did not rule out. Waiting may then
    /// help.
    pub(crate) fn may_change(&self) -> bool {
        self.not_by_request().next().is_some()
    }

    /// Returns whether cooldowns, and the probation after them, stopped all deployments that the request
    /// could use.
    #[must_use]
    pub fn all_cooling_down(&self) -> bool {
        self.only(Gate::is_cooldown)
    }

    /// Returns whether limits on requests and tokens stopped all deployments that the request could use.
    #[must_use]
    pub fn all_rate_limited(&self) -> bool {
        self.only(Gate::is_rate_limit)
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no deployment of {:?} is available: ", self.model_name)?;
        for (i, (gate, count)) in self.reasons.iter().enumerate() {
            write!(f, "{}{count} stopped by {gate}", if i > 0 { ", " } else { "" })?;
        }
        if let Some(seconds) = self.retry_after {
            write!(f, "; try again in {seconds:.3} s")?;
        }
        Ok(())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(message) => f.write_str(message),
            Self::AliasCycle(way) => {
                write!(f, "the alias would lead back to itself: ")?;
                for (i, name) in way.iter().enumerate() {
                    write!(f, "{}{name:?}", if i > 0 { " -> " } else { "" })?;
                }
                Ok(())
            }
            Self::ModelNotFound(unknown) => {
                let UnknownModel { name, resolved, near } = &**unknown;
                write!(f, "no deployment serves the model {name:?}")?;
                if let Some(resolved) = resolved {
                    write!(f, " (an alias that leads to {resolved:?})")?;
                }
                did_you_mean(f, near)
            }
            Self::AliasNotFound(alias) => write!(f, "there is no alias {alias:?}"),
            Self::DeploymentNotFound(unknown) => {
                write!(f, "no deployment has the id {:?}", unknown.id)?;
                did_you_mean(f, &unknown.near)
            }
            Self::NoAvailableDeployment(unavailable) => unavailable.fmt(f),
            Self::WaitTimeout(unavailable) => write!(f, "waited in vain: {unavailable}"),
            Self::TooManyWaiters(unavailable, waiting) => {
                write!(f, "{unavailable}; {waiting} wait for it, and max_waiters allows no more")
            }
            Self::RequestTooLarge(too_large) => {
                let TooLarge { model_name, tokens, largest_limit } = &**too_large;
                write!(
                    f,
                    "a request of {tokens} tokens never fits a deployment of {model_name:?}: the largest limit that it could use is \
                     {largest_limit}"
                )
            }
        }
    }
}

impl std::error::Error for Error {}

fn did_you_mean(f: &mut fmt::Formatter<'_>, near: &[String]) -> fmt::Result {
    for (i, name) in near.iter().enumerate() {
        write!(f, "{} {name:?}", if i > 0 { "," } else { "; did you mean" })?;
    }
    if near.is_empty() { Ok(()) } else { f.write_str("?") }
}
