//! The units that a request takes.

use super::unit::Unit;

/// The units that a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) tokens: u64,
    /// The tokens of the prompt and of the answer. None if only their sum is known: each part may then be all
    /// of it.
    pub(crate) split: Option<(u64, u64)>,
}

impl Demand {
    /// Returns how many units of one kind are counted.
    pub(crate) fn of(&self, unit: Unit) -> u64 {
        match (unit, self.split) {
            (Unit::Requests, _) => 1,
            (Unit::InputTokens, Some((input, _))) => input,
            (Unit::OutputTokens, Some((_, output))) => output,
            (Unit::Tokens | Unit::InputTokens | Unit::OutputTokens, _) => self.tokens,
        }
    }

    /// Returns how many units must be left. A request of unknown size needs one token.
    pub(crate) fn least(&self, unit: Unit) -> u64 {
        let known = unit.is_part() && self.split.is_some();
        self.of(unit).max(u64::from(!known))
    }

    /// Returns what the request really took, where that is known, and the estimate otherwise.
    #[inline]
    pub(crate) fn settled(self, tokens: Option<u64>, split: Option<(u64, u64)>) -> Self {
        match (tokens, split) {
            (_, Some((input, output))) => Self { tokens: tokens.unwrap_or(input.saturating_add(output)), split },
            // The prompt stays as it was; the answer is the rest.
            (Some(tokens), None) => {
                let split = self.split.map(|(input, _)| (input.min(tokens), tokens.saturating_sub(input)));
                Self { tokens, split }
            }
            (None, None) => self,
        }
    }
}
