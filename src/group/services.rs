//! The services that every deployment of a router needs when an outcome is reported. The router itself may be
//! gone by then.

use std::sync::Arc;

use crate::base::clock::Clock;
use crate::base::current::Current;
use crate::base::doorbell::Doorbell;
use crate::base::events::Events;
use crate::base::rng::Rng;
use crate::facts::Learning;
use crate::health::Rules;
use crate::limits::Desk;

/// What all deployments of a router share.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) clock: Clock,
    /// The rules of every deployment that has none of its own: see `Entry::rules`.
    pub(crate) rules: Current<Rules>,
    /// The source of the random part of cooldowns. It is apart from the draws of picks, so that cooldowns do
    /// not change picks.
    pub(crate) jitter: Rng,
    pub(crate) events: Arc<Events>,
    pub(crate) learning: Current<Learning>,
    pub(crate) bell: Doorbell,
    /// The talk with a store that processes share limits through, if there is one.
    pub(crate) desk: Option<Arc<Desk>>,
}
