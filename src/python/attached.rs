//! The attachment of each deployment.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::deployment::PyDeployment;
use crate::facts::Deployment;
use crate::group::Attachment;

/// The attachment of each deployment.
pub(crate) struct Attached {
    /// The object that Python gave and gets back.
    pub(crate) deployment: Py<PyDeployment>,
    /// Whether the object leads to other objects, and so perhaps back to itself.
    pub(crate) leads_on: bool,
}

impl Attachment for Attached {
    type Id = Py<PyString>;

    fn id(&self, _: &Deployment) -> Py<PyString> {
        Python::attach(|py| self.deployment.get().id.clone_ref(py))
    }
}
