//! The class `Deployment`.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping, PyMappingProxy, PyString, PyTuple};

use super::args::{self, optional, price_in_units, text, texts, whole};
use super::errors::wrong_type;
use super::limits::{limit_from, limit_objects, quota_from, quota_objects};
use super::options;
use crate::facts::Deployment;

/// One concrete target that can serve a model: an account, a region, a replica.
#[pyclass(name = "Deployment", module = "turnout", frozen)]
pub(crate) struct PyDeployment {
    pub(crate) facts: Deployment,
    /// The id as Python knows it, so that a pick returns it without making it.
    pub(crate) id: Py<PyString>,
    /// A read-only view of a copy of our own; None if there is nothing in it.
    metadata: Option<Py<PyMappingProxy>>,
    /// The objects as they were given; None if there are none.
    limits: Option<Py<PyTuple>>,
    quotas: Option<Py<PyTuple>>,
    health: Option<Py<PyAny>>,
    retry: Option<Py<PyAny>>,
    endpoint: Option<Py<PyAny>>,
}

#[pymethods]
impl PyDeployment {
    #[new]
    #[pyo3(
        signature = (deployment_id, model_name, *, model=None, weight=None, priority=None, rpm_limit=None, tpm_limit=None,
                     max_parallel_requests=None, limits=None, quotas=None, tags=None, metadata=None, domain=None, health=None,
                     retry=None, input_price=None, output_price=None, endpoint=None),
        text_signature = "(deployment_id, model_name, *, model=None, weight=1, priority=0, rpm_limit=None, tpm_limit=None, \
                          max_parallel_requests=None, limits=(), quotas=(), tags=(), metadata=None, domain=None, health=None, \
                          retry=None, input_price=None, output_price=None, endpoint=None)"
    )]
    #[allow(clippy::too_many_arguments)] // Python's keywords
    fn new(
        py: Python<'_>,
        deployment_id: &Bound<'_, PyAny>,
        model_name: &Bound<'_, PyAny>,
        model: Option<&Bound<'_, PyAny>>,
        weight: Option<&Bound<'_, PyAny>>,
        priority: Option<&Bound<'_, PyAny>>,
        rpm_limit: Option<&Bound<'_, PyAny>>,
        tpm_limit: Option<&Bound<'_, PyAny>>,
        max_parallel_requests: Option<&Bound<'_, PyAny>>,
        limits: Option<&Bound<'_, PyAny>>,
        quotas: Option<&Bound<'_, PyAny>>,
        tags: Option<&Bound<'_, PyAny>>,
        metadata: Option<&Bound<'_, PyAny>>,
        domain: Option<&Bound<'_, PyAny>>,
        health: Option<&Bound<'_, PyAny>>,
        retry: Option<&Bound<'_, PyAny>>,
        input_price: Option<&Bound<'_, PyAny>>,
        output_price: Option<&Bound<'_, PyAny>>,
        endpoint: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let id = text("deployment_id", deployment_id)?;
        let mut facts = Deployment::new(id, text("model_name", model_name)?)?;
        if let Some(model) = model {
            facts = facts.with_model(text("model", model)?)?;
        }
        if let Some(weight) = weight {
            facts = facts.with_weight(whole("weight", 0, u32::MAX, weight)?);
        }
        if let Some(priority) = priority {
            facts = facts.with_priority(whole("priority", 0, u32::MAX, priority)?);
        }
        facts = facts
            .with_rpm_limit(optional(rpm_limit, |limit| whole("rpm_limit", 1, u64::MAX, limit))?)?
            .with_tpm_limit(optional(tpm_limit, |limit| whole("tpm_limit", 1, u64::MAX, limit))?)?
            .with_max_parallel_requests(optional(max_parallel_requests, |limit| {
                whole("max_parallel_requests", 1, u32::MAX, limit)
            })?)?;
        if let Some(tags) = tags {
            facts = facts.with_tags(texts::<Vec<String>>("tags", tags)?)?;
        }
        let limits = limits.map(limit_objects).transpose()?.flatten();
        if let Some(limits) = &limits {
            facts = facts.with_limits(&limits.iter().map(|limit| limit_from(&limit)).collect::<PyResult<Vec<_>>>()?);
        }
        let quotas = quotas.map(quota_objects).transpose()?.flatten();
        if let Some(quotas) = &quotas {
            facts = facts.with_quotas(&quotas.iter().map(|quota| quota_from(&quota)).collect::<PyResult<Vec<_>>>()?)?;
        }
        facts = facts.with_domain(domain.filter(|domain| !domain.is_none()).map(|domain| text("domain", domain)).transpose()?)?;
        facts = facts.with_health(optional(health, options::rules)?)?.with_dialect(optional(endpoint, options::dialect)?);
        let price = |name: &str, value| optional(value, |value| args::price(name, value));
        facts = facts.with_prices(price("input_price", input_price)?, price("output_price", output_price)?);
        optional(retry, options::retry)?;
        // An exact str, so that no instance of a subclass outlives this call.
        let id = PyString::new(py, id).unbind();
        Ok(Self {
            facts,
            id,
            metadata: optional(metadata, read_only)?.flatten(),
            limits: limits.map(Bound::unbind),
            quotas: quotas.map(Bound::unbind),
            health: kept(health),
            retry: kept(retry),
            endpoint: kept(endpoint),
        })
    }

    /// Its unique id.
    #[getter]
    fn deployment_id<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        self.id.bind(py)
    }

    /// The public name that requests ask for.
    #[getter]
    fn model_name(&self) -> &str {
        self.facts.model_name()
    }

    /// The provider's own model identifier.
    #[getter]
    fn model(&self) -> &str {
        self.facts.model()
    }

    /// Relative share under ``simple_shuffle``.
    #[getter]
    fn weight(&self) -> u32 {
        self.facts.weight()
    }

    /// Rank under ``priority_based``, lower first.
    #[getter]
    fn priority(&self) -> u32 {
        self.facts.priority()
    }

    /// Most requests in one clock minute; None for no limit.
    #[getter]
    fn rpm_limit(&self) -> Option<u64> {
        self.facts.rpm_limit()
    }

    /// Most tokens in one clock minute; None for no limit.
    #[getter]
    fn tpm_limit(&self) -> Option<u64> {
        self.facts.tpm_limit()
    }

    /// Most leases in flight at once; None for no limit.
    #[getter]
    fn max_parallel_requests(&self) -> Option<u32> {
        self.facts.max_parallel_requests()
    }

    /// Its limits beside ``rpm_limit`` and ``tpm_limit``.
    #[getter]
    fn limits<'py>(&self, py: Python<'py>) -> Bound<'py, PyTuple> {
        given(py, self.limits.as_ref())
    }

    /// The quotas it is under.
    #[getter]
    fn quotas<'py>(&self, py: Python<'py>) -> Bound<'py, PyTuple> {
        given(py, self.quotas.as_ref())
    }

    /// Labels that requests may ask for.
    #[getter]
    fn tags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.facts.tags().iter().map(|tag| &**tag))
    }

    /// A read-only view of what the application attached.
    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> Bound<'py, PyMappingProxy> {
        match &self.metadata {
            Some(metadata) => metadata.bind(py).clone(),
            None => PyMappingProxy::new(py, PyDict::new(py).as_mapping()),
        }
    }

    /// Its failure domain: one outage takes away all deployments of it; None if it has none.
    #[getter]
    fn domain(&self) -> Option<&str> {
        self.facts.domain()
    }

    /// Its own rules of cooldown and probation; None if it follows the router's.
    #[getter]
    fn health(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.health.as_ref().map(|health| health.clone_ref(py))
    }

    /// How calls follow a failure of it with another attempt; None if the router's rules decide.
    #[getter]
    fn retry(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.retry.as_ref().map(|retry| retry.clone_ref(py))
    }

    /// The price of a million tokens of prompts; None if it is not known.
    #[getter]
    fn input_price(&self) -> Option<f64> {
        self.facts.input_price().map(price_in_units)
    }

    /// The price of a million tokens of answers; None if it is not known.
    #[getter]
    fn output_price(&self) -> Option<f64> {
        self.facts.output_price().map(price_in_units)
    }

    /// Where and how it is reached; None if that is the application's business.
    #[getter]
    fn endpoint(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.endpoint.as_ref().map(|endpoint| endpoint.clone_ref(py))
    }

    /// Return a copy with some facts changed.
    #[pyo3(signature = (**changes), text_signature = "($self, **changes)")]
    fn replace<'py>(slf: &Bound<'py, Self>, changes: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let facts = this.keywords(py)?;
        facts.set_item("deployment_id", &this.id)?;
        facts.set_item("model_name", this.facts.model_name())?;
        if let Some(changes) = changes {
            facts.update(changes.as_mapping())?;
        }
        slf.get_type().call((), Some(&facts))
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        ((self.id.bind(py), self.facts.model_name()), self.keywords(py)?).into_pyobject(py)
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let Ok(other) = other.cast::<Self>() else { return Ok(py.NotImplemented()) };
        let other = other.get();
        let equal = self.facts == other.facts
            && self.metadata(py).eq(other.metadata(py))?
            && self.endpoint(py).into_pyobject(py)?.eq(other.endpoint(py))?
            && self.retry(py).into_pyobject(py)?.eq(other.retry(py))?;
        Ok(equal.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.facts.id().hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let mut repr = format!("Deployment({}, {}", self.id.bind(py).repr()?, PyString::new(py, self.facts.model_name()).repr()?);
        for (name, value) in self.keywords(py)? {
            let _ = write!(repr, ", {name}={}", value.repr()?);
        }
        repr.push(')');
        Ok(repr)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.metadata)?;
        visit.call(&self.limits)?;
        visit.call(&self.quotas)?;
        visit.call(&self.health)?;
        visit.call(&self.retry)?;
        visit.call(&self.endpoint)
    }
}

impl PyDeployment {
    /// Whether it leads to other objects, and so perhaps back to itself.
    pub(crate) fn leads_on(&self) -> bool {
        self.metadata.is_some() || self.endpoint.is_some()
    }

    /// The keywords that the constructor needs to make an equal one.
    fn keywords<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let facts = &self.facts;
        let keywords = PyDict::new(py);
        if facts.model() != facts.model_name() {
            keywords.set_item("model", facts.model())?;
        }
        if facts.weight() != 1 {
            keywords.set_item("weight", facts.weight())?;
        }
        if facts.priority() != 0 {
            keywords.set_item("priority", facts.priority())?;
        }
        if let Some(limit) = facts.rpm_limit() {
            keywords.set_item("rpm_limit", limit)?;
        }
        if let Some(limit) = facts.tpm_limit() {
            keywords.set_item("tpm_limit", limit)?;
        }
        if let Some(limit) = facts.max_parallel_requests() {
            keywords.set_item("max_parallel_requests", limit)?;
        }
        if let Some(limits) = &self.limits {
            keywords.set_item("limits", limits)?;
        }
        if let Some(quotas) = &self.quotas {
            keywords.set_item("quotas", quotas)?;
        }
        if !facts.tags().is_empty() {
            keywords.set_item("tags", self.tags(py)?)?;
        }
        if let Some(metadata) = &self.metadata {
            keywords.set_item("metadata", py.get_type::<PyDict>().call1((metadata,))?)?;
        }
        if let Some(domain) = facts.domain() {
            keywords.set_item("domain", domain)?;
        }
        if let Some(health) = &self.health {
            keywords.set_item("health", health)?;
        }
        if let Some(retry) = &self.retry {
            keywords.set_item("retry", retry)?;
        }
        if let Some(price) = facts.input_price() {
            keywords.set_item("input_price", price_in_units(price))?;
        }
        if let Some(price) = facts.output_price() {
            keywords.set_item("output_price", price_in_units(price))?;
        }
        if let Some(endpoint) = &self.endpoint {
            keywords.set_item("endpoint", endpoint)?;
        }
        Ok(keywords)
    }
}

/// An object, unless it is None.
fn kept(object: Option<&Bound<'_, PyAny>>) -> Option<Py<PyAny>> {
    object.filter(|object| !object.is_none()).map(|object| object.clone().unbind())
}

/// The tuple that was given, or an empty one.
fn given<'py>(py: Python<'py>, tuple: Option<&Py<PyTuple>>) -> Bound<'py, PyTuple> {
    tuple.map_or_else(|| PyTuple::empty(py), |tuple| tuple.bind(py).clone())
}

/// A read-only view of a copy; None if it is empty.
fn read_only(metadata: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyMappingProxy>>> {
    let py = metadata.py();
    let mapping = metadata.cast::<PyMapping>().map_err(|_| wrong_type("metadata", "a mapping or None", metadata))?;
    let copy = PyDict::new(py);
    copy.update(mapping)?;
    Ok((!copy.is_empty()).then(|| PyMappingProxy::new(py, copy.as_mapping()).unbind()))
}
