//! The request that a pick is made for.

use rustc_hash::FxHashSet;

use crate::base::labels::{Dialect, Labels};
use crate::limits::Demand;

/// A request that a pick is made for.
///
/// ```
/// use turnout::{Deployment, Request, Router, Settings, Wishes};
///
/// let router = Router::new(Settings::default())?;
/// for (id, region) in [("azure-eu", "eu"), ("azure-us", "us")] {
///     drop(router.add(Deployment::new(id, "gpt-4o")?.with_tags([region])?, ())?);
/// }
/// let wishes = Wishes { tags: vec!["eu".to_owned()], ..Wishes::default() };
/// let request = Request { tokens: 900, wishes: Some(Box::new(wishes)), ..Request::default() };
/// assert_eq!(router.acquire("gpt-4o", &request)?.deployment().id(), "azure-eu");
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The tokens that it is expected to use.
    pub tokens: u64,
    /// The tokens of the prompt and of the answer, if they are known.
    pub split: Option<(u64, u64)>,
    /// Which deployments it can use; None for all of the group. Most requests have no wishes: for them this
    /// costs a pointer.
    pub wishes: Option<Box<Wishes>>,
}

/// Which deployments a request can use.
///
/// ```
/// use turnout::{Request, Wishes};
///
/// let wishes = Wishes { exclude: ["azure-eu".to_owned()].into_iter().collect(), ..Wishes::default() };
/// let another_attempt = Request { wishes: Some(Box::new(wishes)), ..Request::default() };
/// ```
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Labels that the deployment must have. Sort them: the index keeps one tree per list, and order tells
    /// lists apart.
    pub tags: Vec<String>,
    /// Whether one of the labels is enough.
    pub any_tag: bool,
    /// The request's own labels, if the router put its default tag in their place.
    pub by_default: Option<Vec<String>>,
    /// Ids that must not be picked.
    pub exclude: FxHashSet<String>,
    /// The only ids that may be picked; None for any.
    pub only: Option<FxHashSet<String>>,
    /// The dialect that the deployment must speak; None for any.
    pub dialect: Option<Dialect>,
}

impl Wishes {
    /// Returns whether it asks for labels.
    pub(crate) fn asks_for_labels(&self) -> bool {
        !self.tags.is_empty() || self.dialect.is_some()
    }

    /// Returns whether a deployment has the labels.
    pub(crate) fn accepts(&self, labels: Labels<'_>) -> bool {
        self.accepts_dialect(labels) && self.accepts_tags(labels)
    }

    pub(crate) fn accepts_dialect(&self, labels: Labels<'_>) -> bool {
        self.dialect.is_none() || self.dialect == labels.dialect
    }

    pub(crate) fn accepts_tags(&self, labels: Labels<'_>) -> bool {
        let has = |wanted: &String| labels.tags.iter().any(|tag| **tag == **wanted);
        self.tags.is_empty() || if self.any_tag { self.tags.iter().any(has) } else { self.tags.iter().all(has) }
    }

    /// Returns whether a deployment is excluded by its id.
    pub(crate) fn excludes(&self, id: &str) -> bool {
        self.exclude.contains(id)
    }

    /// Returns whether a deployment is left out by its id, since only others may be picked.
    pub(crate) fn leaves_out(&self, id: &str) -> bool {
        self.only.as_ref().is_some_and(|only| !only.contains(id))
    }

    /// Returns whether a deployment may be picked.
    pub(crate) fn allows(&self, id: &str, labels: Labels<'_>) -> bool {
        self.accepts(labels) && !self.excludes(id) && !self.leaves_out(id)
    }
}

impl Request {
    /// Returns the tokens that must be left. A request of unknown size needs one token.
    pub(crate) fn least_tokens(&self) -> u64 {
        self.tokens.max(1)
    }

    /// Returns whether it needs at least what another request needs.
    pub(crate) fn is_as_large_as(&self, other: &Self) -> bool {
        self.split == other.split && self.tokens >= other.tokens
    }

    /// Returns whether it has no prompt or no answer. It may then pass where a request of unknown parts would
    /// not.
    #[inline]
    pub(crate) fn lacks_part(&self) -> bool {
        self.split.is_some_and(|(input, output)| input == 0 || output == 0)
    }
}

impl From<&Request> for Demand {
    fn from(request: &Request) -> Self {
        Self { tokens: request.tokens, split: request.split }
    }
}
