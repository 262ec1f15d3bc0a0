//! What a request costs.

use super::request::Request;

/// What the tokens of a deployment cost, in millionths of a unit of any currency for a million tokens. They
/// are whole numbers, so that equal costs are equal.
///
/// ```
/// use turnout::{Deployment, Price};
///
/// let deployment = Deployment::new("azure-eu", "gpt-4o")?.with_prices(Some(2_500_000), Some(10_000_000));
/// assert_eq!(deployment.price(), Some(Price { input: 2_500_000, output: 10_000_000 }));
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Price {
    /// The price of the tokens of prompts.
    pub input: u64,
    /// The price of the tokens of answers.
    pub output: u64,
}

/// The tokens of a request, as far as its cost needs them. There is at least one of each kind.
///
/// ```
/// use turnout::{Request, Size};
///
/// let size = Size::from(&Request { split: Some((900, 100)), ..Request::default() });
/// assert_eq!((size.input, size.output), (900, 100));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The tokens of the prompt.
    pub input: u64,
    /// The tokens of the answer.
    pub output: u64,
}

impl Size {
    /// Makes a size of which one half is the prompt and the other half the answer. If it is unknown, it is a
    /// million tokens.
    fn halves(tokens: u64) -> Self {
        let half = if tokens == 0 { 500_000 } else { tokens.div_ceil(2) };
        Self { input: half, output: half }
    }
}

impl From<&Request> for Size {
    fn from(request: &Request) -> Self {
        match request.split {
            Some((input, output)) => Self { input: input.max(1), output: output.max(1) },
            None => Self::halves(request.tokens),
        }
    }
}

/// How many of the units of [`Price::cost`] make one unit of the currency.
const UNITS: f64 = 1e12;

impl Price {
    /// Makes the price of which one part, both or none are known. If one part is known, the other tokens are
    /// free.
    pub(crate) fn of(input: Option<u64>, output: Option<u64>) -> Option<Self> {
        (input.is_some() || output.is_some()).then(|| Self { input: input.unwrap_or(0), output: output.unwrap_or(0) })
    }

    /// Returns what a request costs, in 10^-12 of a unit of the currency.
    pub(crate) fn cost(self, size: Size) -> u128 {
        let part = |price: u64, tokens: u64| u128::from(price) * u128::from(tokens);
        part(self.input, size.input).saturating_add(part(self.output, size.output))
    }

    /// Returns what a request costs, in units of the currency.
    #[allow(clippy::cast_precision_loss)] // for people to read
    pub(crate) fn cost_in_units(self, size: Size) -> f64 {
        self.cost(size) as f64 / UNITS
    }
}
