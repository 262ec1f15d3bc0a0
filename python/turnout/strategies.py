"""The strategies as plain functions over `RoutingContext`s, for use without a router.

Each takes the candidates in registration order and returns the chosen deployment's id, or None without
candidates. The rules are those of litellm-rs, but for `cheapest`.
"""

from turnout._core import RoundRobinCounters as RoundRobinCounters
from turnout._core import RoutingContext as RoutingContext
from turnout._core import build_routing_contexts as build_routing_contexts
from turnout._core import cheapest as cheapest
from turnout._core import least_busy as least_busy
from turnout._core import lowest_latency as lowest_latency
from turnout._core import lowest_priority as lowest_priority
from turnout._core import lowest_usage as lowest_usage
from turnout._core import rate_limit_aware as rate_limit_aware
from turnout._core import round_robin as round_robin
from turnout._core import weighted_random as weighted_random

__all__ = [
    "RoundRobinCounters",
    "RoutingContext",
    "build_routing_contexts",
    "cheapest",
    "least_busy",
    "lowest_latency",
    "lowest_priority",
    "lowest_usage",
    "rate_limit_aware",
    "round_robin",
    "weighted_random",
]
