//! The extension module `turnout._core`: conversions and calls, no decisions.

#![allow(clippy::needless_pass_by_value)] // PyO3 hands arguments over

mod args;
mod attached;
mod attempts;
mod calls;
mod clock;
mod deployment;
mod door;
mod errors;
mod events;
#[cfg(unix)]
mod file;
mod handle;
mod interrupt;
mod lease;
mod limits;
mod modules;
mod options;
mod pause;
mod picks;
mod records;
mod router;
mod said;
mod section;
mod shared;
mod sharing;
mod strategies;
mod waiting;
mod wire;

/// The native module: everything that runs on the way to a pick.
#[pyo3::pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::attempts::PyRetryBudget;
    #[pymodule_export]
    use super::clock::PyManualClock;
    #[pymodule_export]
    use super::deployment::PyDeployment;
    #[cfg(unix)]
    #[pymodule_export]
    use super::file::PyFileLedger;
    #[pymodule_export]
    use super::handle::PyRouter;
    #[pymodule_export]
    use super::lease::PyLease;
    #[pymodule_export]
    use super::limits::time_zone;
    #[pymodule_export]
    use super::said::{is_read, read_header_pairs, read_number, read_plain_headers, read_time};
    #[pymodule_export]
    use super::shared::{PyBooks, process_name};
    #[pymodule_export]
    use super::sharing::{PyBatch, PyDesk, PyMemory};
    #[pymodule_export]
    use super::strategies::{
        PyRoundRobinCounters, PyRoutingContext, build_routing_contexts, cheapest, least_busy, lowest_latency, lowest_priority,
        lowest_usage, rate_limit_aware, round_robin, weighted_random,
    };

    #[pymodule_export]
    use super::waiting::PyWaiter;
    #[pymodule_export]
    use super::wire::{PyRequestScan, PyStreamScanner, read_answer, rewrite_request, scan_request};

    #[pymodule_export]
    #[allow(non_upper_case_globals)] // the name Python knows
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::errors::find(module.py());
        super::modules::find_first(module.py())
    }

    /// Forget, in a forked child, what belongs to the parent: its requests in flight, its random draws, its
    /// threads.
    #[pyfunction]
    fn _after_fork() {
        super::section::after_fork_in_child();
        crate::base::fork::after_fork();
        super::door::after_fork();
    }

    /// Report an exception that nobody can catch. `source` is what raised it.
    #[pyfunction]
    #[pyo3(signature = (error, source, /))]
    fn _write_unraisable(py: Python<'_>, error: &Bound<'_, PyAny>, source: &Bound<'_, PyAny>) {
        PyErr::from_value(error.clone()).write_unraisable(py, Some(source));
    }

    /// Wait until no call holds a lock without the GIL, and let none begin, before this thread forks.
    #[pyfunction]
    fn _before_fork(py: Python<'_>) {
        super::section::before_fork(py);
    }

    /// Let calls give up the GIL again, in the process that has forked.
    #[pyfunction]
    fn _after_fork_in_parent() {
        super::section::after_fork_in_parent();
    }

    /// Run Python code in no other thread than this one from now on: the interpreter ends.
    #[pyfunction]
    fn _at_exit(py: Python<'_>) {
        super::door::close(py);
    }
}
