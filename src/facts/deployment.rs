//! The facts of a deployment, validated.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use super::price::Price;
use crate::base::error::Error;
use crate::base::labels::{Dialect, Labels};
use crate::base::names::not_empty;
use crate::base::wildcard::{captures, fill, is_pattern};
use crate::health::Rules;
use crate::limits::{Limit, Quota};

/// One concrete target that can serve a model. Immutable; cloning shares its strings.
///
/// ```
/// let deployment = turnout::Deployment::new("azure-eu", "gpt-4o")?
///     .with_weight(3)
///     .with_tpm_limit(Some(100_000))?
///     .with_tags(["eu"])?;
/// assert_eq!((deployment.id(), deployment.weight()), ("azure-eu", 3));
/// assert!(turnout::Deployment::new("", "gpt-4o").is_err());
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C)] // the facts that every pick reads come first and lie together
pub struct Deployment {
    weight: u32,
    priority: u32,
    rpm_limit: Option<NonZeroU64>,
    tpm_limit: Option<NonZeroU64>,
    max_parallel_requests: Option<NonZeroU32>,
    /// Whether its model name is a pattern.
    serves_many: bool,
    id: Arc<str>,
    model_name: Arc<str>,
    model: Arc<str>,
    tags: Arc<[Arc<str>]>,
    rare: Option<Arc<Rare>>,
}

/// Facts that few deployments have. They lie in a place of their own, which copies of the deployment share.
#[derive(Debug, Clone, PartialEq, Default)]
struct Rare {
    limits: Vec<Limit>,
    quotas: Vec<Quota>,
    domain: Option<Arc<str>>,
    dialect: Option<Dialect>,
    health: Option<Arc<Rules>>,
    input_price: Option<u64>,
    output_price: Option<u64>,
}

/// The rules were checked: none of their numbers is NaN, so each equals itself.
impl Eq for Rare {}

impl Deployment {
    /// Makes a deployment of weight 1 and priority 0, without limits or tags. Its model is `model_name`.
    ///
    /// # Errors
    /// If a name is empty.
    pub fn new(id: &str, model_name: &str) -> Result<Self, Error> {
        let id = not_empty("deployment_id", id)?;
        let model_name = not_empty("model_name", model_name)?;
        Ok(Self {
            id,
            serves_many: is_pattern(&model_name),
            model: Arc::clone(&model_name),
            model_name,
            tags: Arc::default(),
            weight: 1,
            priority: 0,
            max_parallel_requests: None,
            rpm_limit: None,
            tpm_limit: None,
            rare: None,
        })
    }

    /// Sets the provider's own model identifier.
    ///
    /// # Errors
    /// If it is empty.
    pub fn with_model(self, model: &str) -> Result<Self, Error> {
        Ok(Self { model: not_empty("model", model)?, ..self })
    }

    /// Sets the relative share.
    #[must_use]
    pub fn with_weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// Sets the rank, lower first.
    #[must_use]
    pub fn with_priority(self, priority: u32) -> Self {
        Self { priority, ..self }
    }

    /// Sets the most requests in a minute.
    ///
    /// # Errors
    /// If it is 0.
    pub fn with_rpm_limit(self, rpm_limit: Option<u64>) -> Result<Self, Error> {
        Ok(Self { rpm_limit: not_zero("rpm_limit", rpm_limit, NonZeroU64::new)?, ..self })
    }

    /// Sets the most tokens in a minute.
    ///
    /// # Errors
    /// If it is 0.
    pub fn with_tpm_limit(self, tpm_limit: Option<u64>) -> Result<Self, Error> {
        Ok(Self { tpm_limit: not_zero("tpm_limit", tpm_limit, NonZeroU64::new)?, ..self })
    }

    /// Sets the most leases in flight at once.
    ///
    /// # Errors
    /// If it is 0.
    pub fn with_max_parallel_requests(self, limit: Option<u32>) -> Result<Self, Error> {
        Ok(Self { max_parallel_requests: not_zero("max_parallel_requests", limit, NonZeroU32::new)?, ..self })
    }

    fn with_rare(self, change: impl FnOnce(&mut Rare)) -> Self {
        let mut rare = self.rare.as_deref().cloned().unwrap_or_default();
        change(&mut rare);
        Self { rare: (rare != Rare::default()).then(|| Arc::new(rare)), ..self }
    }

    /// Sets limits beside those on requests and tokens a minute and on leases in flight.
    #[must_use]
    pub fn with_limits(self, limits: &[Limit]) -> Self {
        self.with_rare(|rare| rare.limits = limits.to_vec())
    }

    /// Sets the quotas, which other deployments may share.
    ///
    /// # Errors
    /// If two have the same id.
    pub fn with_quotas(self, quotas: &[Quota]) -> Result<Self, Error> {
        for (nth, quota) in quotas.iter().enumerate() {
            if quotas.iter().take(nth).any(|other| other.id() == quota.id()) {
                return Err(Error::Configuration(format!("the quota {:?} is given twice to {:?}", quota.id(), self.id())));
            }
        }
        Ok(self.with_rare(|rare| rare.quotas = quotas.to_vec()))
    }

    /// Sets the labels. The order is kept, repetitions are dropped.
    ///
    /// # Errors
    /// If one is empty.
    pub fn with_tags<S: AsRef<str>>(self, tags: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let mut kept: Vec<Arc<str>> = Vec::new();
        for tag in tags {
            let tag = not_empty("a tag", tag.as_ref())?;
            if !kept.contains(&tag) {
                kept.push(tag);
            }
        }
        Ok(Self { tags: kept.into(), ..self })
    }

    /// Sets the failure domain. One outage takes away all deployments of a domain together.
    ///
    /// # Errors
    /// If it is empty.
    pub fn with_domain(self, domain: Option<&str>) -> Result<Self, Error> {
        let domain = domain.map(|domain| not_empty("domain", domain)).transpose()?;
        Ok(self.with_rare(|rare| rare.domain = domain))
    }

    /// Sets the dialect that it speaks. A request that names another dialect never reaches it.
    #[must_use]
    pub fn with_dialect(self, dialect: Option<Dialect>) -> Self {
        self.with_rare(|rare| rare.dialect = dialect)
    }

    /// Sets rules of its own for its cooldowns and its return. They take the place of the router's rules.
    ///
    /// # Errors
    /// If a number of the rules makes no sense.
    pub fn with_health(self, health: Option<Rules>) -> Result<Self, Error> {
        health.map_or(Ok(()), |rules| rules.check())?;
        Ok(self.with_rare(|rare| rare.health = health.map(Arc::new)))
    }

    /// Sets the prices of the tokens of prompts and of answers: see [`Price`].
    #[must_use]
    pub fn with_prices(self, input: Option<u64>, output: Option<u64>) -> Self {
        self.with_rare(|rare| (rare.input_price, rare.output_price) = (input, output))
    }

    /// Returns its unique id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn shared_id(&self) -> &Arc<str> {
        &self.id
    }

    /// Returns the public name that requests ask for.
    #[must_use]
    pub fn model_name(&self) -> &str {
        &self.model_name
    }

    pub(crate) fn shared_model_name(&self) -> &Arc<str> {
        &self.model_name
    }

    /// Returns the provider's own model identifier.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Returns whether its model name has a `*`, and so stands for many names.
    #[inline]
    pub(crate) fn serves_many(&self) -> bool {
        self.serves_many
    }

    /// Returns the provider's own identifier of the model that a request asks for. It is [`Self::model`] with
    /// each `*` replaced by what the `*` of the model name stands for in `name`.
    ///
    /// ```
    /// let deployment = turnout::Deployment::new("openai", "openai/*")?.with_model("*")?;
    /// assert_eq!(deployment.model_for("openai/gpt-4o"), "gpt-4o");
    /// # Ok::<(), turnout::Error>(())
    /// ```
    #[must_use]
    pub fn model_for(&self, name: &str) -> String {
        captures(&self.model_name, name).map_or_else(|| self.model.to_string(), |captures| fill(&self.model, &captures))
    }

    /// Returns its labels.
    #[must_use]
    pub fn tags(&self) -> &[Arc<str>] {
        &self.tags
    }

    /// Returns its limits beside requests and tokens a minute.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        self.rare.as_ref().map_or(&[], |rare| &rare.limits)
    }

    /// Returns the quotas it is under.
    #[must_use]
    pub fn quotas(&self) -> &[Quota] {
        self.rare.as_ref().map_or(&[], |rare| &rare.quotas)
    }

    /// Returns whether it has a limit of any kind.
    pub(crate) fn is_limited(&self) -> bool {
        let counts = self.rpm_limit.is_some() || self.tpm_limit.is_some() || self.max_parallel_requests.is_some();
        counts || !self.limits().is_empty() || !self.quotas().is_empty()
    }

    /// Returns its failure domain.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        self.shared_domain().map(|domain| &**domain)
    }

    pub(crate) fn shared_domain(&self) -> Option<&Arc<str>> {
        self.rare.as_ref()?.domain.as_ref()
    }

    /// Returns the dialect that it speaks, if that is known.
    #[must_use]
    pub fn dialect(&self) -> Option<Dialect> {
        self.rare.as_ref()?.dialect
    }

    pub(crate) fn labels(&self) -> Labels<'_> {
        Labels { tags: &self.tags, dialect: self.dialect() }
    }

    /// Returns the rules of its own, if it has any.
    #[must_use]
    pub fn health(&self) -> Option<&Rules> {
        self.shared_health().map(|rules| &**rules)
    }

    pub(crate) fn shared_health(&self) -> Option<&Arc<Rules>> {
        self.rare.as_ref()?.health.as_ref()
    }

    /// Returns the price of the tokens of prompts, if it is given.
    #[must_use]
    pub fn input_price(&self) -> Option<u64> {
        self.rare.as_ref()?.input_price
    }

    /// Returns the price of the tokens of answers, if it is given.
    #[must_use]
    pub fn output_price(&self) -> Option<u64> {
        self.rare.as_ref()?.output_price
    }

    /// Returns what its tokens cost. If one price is given, the other tokens are free. None if no price is
    /// given.
    #[must_use]
    pub fn price(&self) -> Option<Price> {
        Price::of(self.input_price(), self.output_price())
    }

    /// Returns the relative share.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Returns the rank, lower first.
    #[must_use]
    pub fn priority(&self) -> u32 {
        self.priority
    }

    /// Returns the most leases in flight at once.
    #[must_use]
    pub fn max_parallel_requests(&self) -> Option<u32> {
        self.max_parallel_requests.map(NonZeroU32::get)
    }

    /// Returns the most requests in a minute.
    #[must_use]
    pub fn rpm_limit(&self) -> Option<u64> {
        self.rpm_limit.map(NonZeroU64::get)
    }

    /// Returns the most tokens in a minute.
    #[must_use]
    pub fn tpm_limit(&self) -> Option<u64> {
        self.tpm_limit.map(NonZeroU64::get)
    }
}

fn not_zero<N, Z>(what: &str, limit: Option<N>, not_zero: impl FnOnce(N) -> Option<Z>) -> Result<Option<Z>, Error> {
    let refused = || Error::Configuration(format!("{what} must be at least 1, or None for no limit, not 0"));
    limit.map(|limit| not_zero(limit).ok_or_else(refused)).transpose()
}
