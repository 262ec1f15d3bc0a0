//! Bodies of requests and answers: what a router has to know of them, read in one pass over the bytes.
//!
//! Nothing here builds a tree, recurses or trusts a length: bodies come from anywhere.

mod facts;
mod json;
mod request;
mod skip;
mod sse;
mod stream;
mod usage;

pub(crate) use facts::read_answer;
pub(crate) use request::{Quoted, RequestScan};
pub(crate) use stream::{Dialect, Seen, Stream};
pub(crate) use usage::Usage;
