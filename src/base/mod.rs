//! The ground floor: time, chance, locks, names, labels, gates, errors and events.

pub(crate) mod clock;
pub(crate) mod current;
pub(crate) mod doorbell;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod fork;
pub(crate) mod gate;
pub(crate) mod labels;
pub(crate) mod lock;
pub(crate) mod manual_clock;
pub(crate) mod names;
pub(crate) mod position;
pub(crate) mod rng;
pub(crate) mod sync;
pub(crate) mod time;
pub(crate) mod trips;
pub(crate) mod wall;
pub(crate) mod wildcard;
