//! What can go wrong.

use std::fmt;
use std::sync::Arc;

use crate::clock::Nanos;
use crate::select::Refusal;

/// Why a call failed. The message names the value and what is allowed.
///
/// It is kept small, since every pick returns room for one.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// A value is out of range or unknown.
    Configuration(String),
    /// An alias would lead back to itself; the names on the way round.
    AliasCycle(Vec<Arc<str>>),
    /// No deployment serves the model.
    ModelNotFound(Box<UnknownModel>),
    /// There is no such alias.
    AliasNotFound(String),
    /// No deployment has the id.
    DeploymentNotFound(Box<UnknownDeployment>),
    /// Every deployment of the group was stopped by a gate.
    NoAvailableDeployment(Box<Unavailable>),
    /// It was so for as long as the request would wait.
    WaitTimeout(Box<Unavailable>),
    /// It is so, and so many wait already that no more may.
    TooManyWaiters(Box<Unavailable>, usize),
    /// The tokens are above the limit of every deployment that the request could use.
    RequestTooLarge(Box<TooLarge>),
}

/// A name that no deployment serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownModel {
    /// The name that was asked for.
    pub name: String,
    /// Where aliases led from it, if they did.
    pub resolved: Option<Arc<str>>,
    /// Known names that look like it, best first.
    pub near: Vec<String>,
}

/// An id that no deployment has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownDeployment {
    /// The id that was asked for.
    pub id: String,
    /// Known ids that look like it, best first.
    pub near: Vec<String>,
}

/// A request that never fits.
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
#[derive(Debug, Clone, PartialEq)]
pub struct Unavailable {
    /// The model name whose group was asked.
    pub model_name: Arc<str>,
    /// Seconds until the earliest time at which one may be available; None if no such time is known.
    pub retry_after: Option<f64>,
    pub(crate) retry_at: Option<Nanos>,
    /// How many each gate stopped.
    pub reasons: Reasons,
}

/// How many deployments each gate stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reasons([usize; Refusal::GATES.len()]);

/// The gates by which a request itself rules deployments out.
const RULED_OUT: [&str; 2] = ["tags", "excluded"];

impl Reasons {
    pub(crate) fn count(&mut self, refusal: &Refusal) {
        if let Some(count) = self.0.get_mut(refusal.order()) {
            *count += 1;
        }
    }

    /// The gates that stopped any, in their order, with how many.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, usize)> {
        Refusal::GATES.into_iter().zip(self.0).filter(|&(_, count)| count > 0)
    }

    fn only(&self, gates: &[&str]) -> bool {
        // Deployments that the request itself ruled out have no say.
        let mut others = self.iter().filter(|(gate, _)| !RULED_OUT.contains(gate)).peekable();
        others.peek().is_some() && others.all(|(gate, _)| gates.contains(&gate))
    }

    /// Whether any was stopped by more than the request itself, so that waiting may help.
    pub(crate) fn may_change(&self) -> bool {
        self.iter().any(|(gate, _)| !RULED_OUT.contains(&gate))
    }

    /// Whether cooldowns, and probation after them, stopped all that the request could use.
    #[must_use]
    pub fn all_cooling_down(&self) -> bool {
        self.only(&["cooling_down", "probation"])
    }

    /// Whether limits on requests and tokens stopped all that the request could use.
    #[must_use]
    pub fn all_rate_limited(&self) -> bool {
        self.only(&["rpm_limit", "tpm_limit", "limit", "observed_limit", "quota"])
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
