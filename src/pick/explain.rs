//! The observer that takes notes for an explanation.

use std::sync::Arc;

use super::walk::Observer;
use crate::base::position::Position;
use crate::gates::Refusal;
use crate::group::{Attachment, Entry, Group};
use crate::strategy::Strategy;

/// What a pick would do, and why.
///
/// ```
/// use turnout::{Deployment, Request, Router, Settings, Verdict};
///
/// let router = Router::new(Settings::default())?;
/// for id in ["azure-eu", "azure-us"] {
///     drop(router.add(Deployment::new(id, "gpt-4o")?, ())?);
/// }
/// let explanation = router.explain("gpt-4o", &Request::default())?;
/// assert_eq!((explanation.score_name, explanation.verdicts.len()), ("weight", 2));
/// assert!(matches!(explanation.verdicts[0].1, Verdict::Candidate { probability: 0.5, .. }));
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug)]
pub struct Explanation<T> {
    /// The model name whose group was asked.
    pub model_name: Arc<str>,
    /// The rule in force.
    pub strategy: Strategy,
    /// The name of the scores.
    pub score_name: &'static str,
    /// The deployment that would be picked.
    pub winner: Option<Arc<Entry<T>>>,
    /// If there is no winner: the seconds until a deployment may be available, if that time is known.
    pub retry_after: Option<f64>,
    /// One verdict for each deployment, in registration order.
    pub verdicts: Vec<(Arc<Entry<T>>, Verdict)>,
    /// Whether so few deployments of the group are in service that their health is ignored.
    pub panic: bool,
}

/// What a pick makes of one deployment.
///
/// See the example of [`Explanation`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// A gate stopped the deployment.
    Stopped(Refusal),
    /// The deployment passed every gate.
    Candidate {
        /// The value that the strategy compares.
        score: f64,
        /// The probability that the strategy picks it.
        probability: f64,
    },
    /// The deployment passed every gate, but others of a lower priority did so too, and the router has tiers.
    Spare,
}

/// Notes of a walk.
pub(super) struct Notes {
    pub(super) score_name: &'static str,
    /// One verdict for each member, in order.
    pub(super) verdicts: Vec<(Position, Verdict)>,
}

impl Notes {
    pub(super) fn new<T: Attachment>(group: &Group<T>) -> Self {
        Self { score_name: "", verdicts: Vec::with_capacity(group.len()) }
    }
}

impl Observer for Notes {
    fn passed(&mut self, position: Position) {
        self.verdicts.push((position, Verdict::Candidate { score: 0.0, probability: 0.0 }));
    }

    fn stopped(&mut self, position: Position, refusal: Refusal) {
        self.verdicts.push((position, Verdict::Stopped(refusal)));
    }

    fn assessed(&mut self, score_name: &'static str, assess: impl Fn(Position) -> Option<(f64, f64)>) {
        self.score_name = score_name;
        for (position, verdict) in &mut self.verdicts {
            if let Verdict::Candidate { .. } = verdict {
                let assessed = assess(*position);
                *verdict = assessed.map_or(Verdict::Spare, |(score, probability)| Verdict::Candidate { score, probability });
            }
        }
    }
}
