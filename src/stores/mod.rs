//! The stores that processes share limits through, as far as they need no Python.

mod memory;

pub use memory::Memory;
