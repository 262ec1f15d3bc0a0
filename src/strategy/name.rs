//! The names of the rules.

use std::fmt;
use std::str::FromStr;

use crate::base::error::Error;

/// Hands the table of the rules to a macro. If tokens in braces are given, they come before the table.
///
/// A row is the variant of [`Strategy`], the type of its [`Rule`](super::Rule), its name, and `LiteLLM`'s
/// spellings of it.
macro_rules! each_rule {
    ($make:ident $($with:tt)?) => {
        $make! { $($with)?
            /// At random, in proportion to the weights:
            /// [`weighted_random`](crate::strategy::weighted_random).
            SimpleShuffle: WeightedRandom, "simple_shuffle" ["simple-shuffle"];
            /// The fewest requests in flight: [`least_busy`](crate::strategy::least_busy).
            LeastBusy: LeastBusy, "least_busy" ["least-busy"];
            /// The smallest share of used tokens: [`lowest_usage`](crate::strategy::lowest_usage).
            UsageBased: LowestUsage, "usage_based" ["usage-based-routing", "usage-based-routing-v2"];
            /// The lowest average latency: [`lowest_latency`](crate::strategy::lowest_latency).
            LatencyBased: LowestLatency, "latency_based" ["latency-based-routing"];
            /// The lowest priority number: [`lowest_priority`](crate::strategy::lowest_priority).
            PriorityBased: LowestPriority, "priority_based" ["cost_based", "cost-based-routing"];
            /// The farthest from its limits: [`rate_limit_aware`](crate::strategy::rate_limit_aware).
            RateLimitAware: RateLimitAware, "rate_limit_aware" [];
            /// In turn: [`round_robin`](crate::strategy::round_robin).
            RoundRobin: RoundRobin, "round_robin" [];
            /// The least expected cost: [`cheapest`](crate::strategy::cheapest).
            Cheapest: Cheapest, "cheapest" [];
        }
    };
}
pub(crate) use each_rule;

macro_rules! names {
    ($( $(#[$doc:meta])* $variant:ident: $rule:ident, $name:literal [$($spelling:literal),*]; )*) => {
        /// The name of a rule.
        ///
        /// ```
        /// use turnout::Strategy;
        ///
        /// assert_eq!("latency-based-routing".parse::<Strategy>()?, Strategy::LatencyBased);
        /// assert_eq!(Strategy::default().name(), "simple_shuffle");
        /// # Ok::<(), turnout::Error>(())
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Strategy {
            $( $(#[$doc])* $variant, )*
        }

        impl Strategy {
            /// All of them.
            pub const ALL: [Self; [$( $name, )*].len()] = [$( Self::$variant, )*];

            /// `LiteLLM`'s spellings, each with what it means here.
            const SPELLINGS: [(&'static str, Self); [$( $( $spelling, )* )*].len()] = [$( $( ($spelling, Self::$variant), )* )*];

            /// Returns whether it compares what is in flight.
            pub(crate) const fn compares_in_flight(self) -> bool {
                matches!(self, Self::LeastBusy)
            }

            /// Returns its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $name, )*
                }
            }

            /// Returns whether the fair shares of candidates follow their weights.
            pub(crate) const fn follows_weights(self) -> bool {
                match self {
                    $( Self::$variant => <super::$rule as super::rule::Rule>::FOLLOWS_WEIGHTS, )*
                }
            }
        }
    };
}
each_rule!(names);

/// How a group picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Order {
    pub(crate) strategy: Strategy,
    /// Whether the strategy picks among the candidates of the lowest priority only.
    pub(crate) tiers: bool,
}

#[allow(clippy::derivable_impls)] // the table knows no attribute for one row
impl Default for Strategy {
    fn default() -> Self {
        Self::SimpleShuffle
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Strategy {
    type Err = Error;

    /// Reads a name, or one of `LiteLLM`'s spellings.
    fn from_str(name: &str) -> Result<Self, Error> {
        let own = Self::ALL.into_iter().map(|strategy| (strategy.name(), strategy));
        let known = own.chain(Self::SPELLINGS).find(|&(known, _)| known == name);
        known.map(|(_, strategy)| strategy).ok_or_else(|| {
            let spellings = Self::SPELLINGS.map(|(spelling, _)| spelling);
            Error::Configuration(format!(
                "unknown strategy {name:?}: must be one of {}, or one of LiteLLM's spellings {}",
                Self::ALL.map(Self::name).join(", "),
                spellings.join(", ")
            ))
        })
    }
}
