//! Headers of answers: what a provider says of its limits, and how long to wait.
//!
//! Nothing here recurses or trusts a length: headers come from anywhere. A name or a value of more than 256
//! characters is not read at all. A value that makes no sense is as if it were not there.

mod dates;
mod names;
mod numbers;
mod reader;
mod structured;
mod texts;
mod times;
mod windows;

pub(crate) use dates::Present;
pub(crate) use names::is_known;
pub(crate) use numbers::{MOST_SECONDS, number, within};
pub(crate) use reader::{Heard, Reader};
pub(crate) use texts::MOST_CHARACTERS;
pub(crate) use times::Time;
