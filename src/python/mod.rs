//! The extension module `turnout._core`: conversions and calls, no decisions.

#![allow(clippy::needless_pass_by_value)] // PyO3 hands arguments over

mod args;
mod attached;
mod clock;
mod deployment;
mod door;
mod errors;
mod events;
mod handle;
mod interrupt;
mod lease;
mod limits;
mod modules;
mod options;
mod picks;
mod records;
mod router;
mod strategies;
mod waiting;

/// The native module: everything that runs on the way to a pick.
#[pyo3::pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::clock::PyManualClock;
    #[pymodule_export]
    use super::deployment::PyDeployment;
    #[pymodule_export]
    use super::handle::PyRouter;
    #[pymodule_export]
    use super::lease::PyLease;
    #[pymodule_export]
    use super::limits::time_zone;
    #[pymodule_export]
    use super::strategies::{
        PyRoundRobinCounters, PyRoutingContext, build_routing_contexts, least_busy, lowest_latency, lowest_priority, lowest_usage,
        rate_limit_aware, round_robin, weighted_random,
    };

    #[pymodule_export]
    use super::waiting::PyWaiter;

    #[pymodule_export]
    #[allow(non_upper_case_globals)] // the name Python knows
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::errors::find(module.py());
        super::modules::find_first(module.py())
    }

    /// Forget, in a forked child, what is the parent's: its requests in flight, its random draws, its
    /// threads.
    #[pyfunction]
    fn _after_fork() {
        crate::base::fork::after_fork();
        super::door::after_fork();
    }

    /// Run Python code in no other thread than this one from now on: the interpreter ends.
    #[pyfunction]
    fn _at_exit(py: Python<'_>) {
        super::door::close(py);
    }
}
