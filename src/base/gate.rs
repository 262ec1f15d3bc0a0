//! The gates: every check that can stop a deployment, in their order.

use std::fmt;

/// Hands the table of the gates to a macro.
///
/// A gate is one row of this table: its documentation, its variant of [`Gate`], its name, and what kind of
/// is. Rows stand in the order in which the gates are checked. `gates::check` makes one method of each stage.
/// For each row of the stage, this method calls the method that has the gate's name.
///
/// | kind | what it means for a request that every deployment refuses |
/// |---|---|
/// | `wish` | the request itself rules the deployment out: the deployment is not considered |
/// | `cooldown` | the deployment is out for a while |
/// | `rate_limit` | a limit on requests or tokens is spent |
/// | `other` | none of these |
macro_rules! each_gate {
    ($make:ident) => {
        $make! {
            by_request {
                /// The request is in another dialect than the deployment speaks.
                Dialect dialect wish,
                /// The deployment lacks the tags that the request asks for.
                Tags tags wish,
                /// The request names the only deployments that may serve it, and this is none of them.
                Only only wish,
                /// The request excludes the deployment.
                Excluded excluded wish,
            }
            by_counters {
                /// The deployment is cooling down.
                CoolingDown cooling_down cooldown,
                /// A health check took the deployment out.
                Unhealthy unhealthy other,
                /// The deployment is on probation, and another request has its one place.
                Probation probation cooldown,
                /// Every place in flight is taken.
                MaxParallelRequests max_parallel_requests other,
                /// Every request of this minute is spent.
                RpmLimit rpm_limit rate_limit,
                /// Too few tokens of this minute are left.
                TpmLimit tpm_limit rate_limit,
            }
            by_marks {
                /// Another limit of the deployment's own is spent.
                Limit limit rate_limit,
                /// All places in flight are taken. Refusals have taught how many there are.
                LearntParallelRequests learnt_parallel_requests other,
                /// The provider said that too little is left.
                ObservedLimit observed_limit rate_limit,
                /// The deployment has returned or joined, and its share is still small.
                SlowStart slow_start other,
                /// Other processes share a limit of the deployment's own, and this one holds too little of
                /// it.
                Shared shared rate_limit,
            }
            by_quotas {
                /// A limit of a quota that the deployment shares is spent, or the provider said so.
                Quota quota rate_limit,
            }
        }
    };
}
pub(crate) use each_gate;

macro_rules! gates {
    ($( $stage:ident { $( $(#[$doc:meta])* $gate:ident $name:ident $kind:ident, )* } )*) => {
        /// A check that can stop a deployment.
        ///
        /// ```
        /// use turnout::Gate;
        ///
        /// assert_eq!(Gate::RpmLimit.name(), "rpm_limit");
        /// assert_eq!(Gate::ALL.len(), 16);
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Gate {
            $($( $(#[$doc])* $gate, )*)*
        }

        impl Gate {
            /// All gates, in the order in which they are checked.
            pub const ALL: [Self; [$($( stringify!($name), )*)*].len()] = [$($( Self::$gate, )*)*];

            /// Returns its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($( Self::$gate => stringify!($name), )*)*
                }
            }

            const fn kind(self) -> Kind {
                match self {
                    $($( Self::$gate => Kind::$kind, )*)*
                }
            }
        }
    };
}
each_gate!(gates);

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of obstacle a gate is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the words of the table")]
enum Kind {
    wish,
    cooldown,
    rate_limit,
    other,
}

impl Gate {
    /// Returns whether the request itself rules the deployment out.
    pub(crate) fn is_wish(self) -> bool {
        self.kind() == Kind::wish
    }

    /// Returns whether the deployment is out for a while, or on probation afterwards.
    pub(crate) fn is_cooldown(self) -> bool {
        self.kind() == Kind::cooldown
    }

    /// Returns whether a limit on requests or tokens is spent.
    pub(crate) fn is_rate_limit(self) -> bool {
        self.kind() == Kind::rate_limit
    }
}
