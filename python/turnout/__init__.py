"""The routing core for LLM traffic: for every request it picks one deployment of a model.

>>> from turnout import Deployment, Router
>>> deployments = [Deployment("azure-eu", "gpt-4o", rpm_limit=600), Deployment("openai", "gpt-4o")]
>>> router = Router(deployments, strategy="round_robin")
>>> router.select("gpt-4o")
'azure-eu'
>>> with router.acquire("gpt-4o", tokens=900) as lease:
...     lease.deployment_id
'openai'
"""

import atexit as _atexit
import os as _os
import warnings as _warnings
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from turnout import waiting as _waiting  # noqa: F401 - before a first wait can meet a fork
from turnout._core import Deployment as Deployment
from turnout._core import Lease as Lease
from turnout._core import ManualClock as ManualClock
from turnout._core import RoutingContext as RoutingContext
from turnout._core import __version__ as __version__
from turnout._core import _after_fork, _after_fork_in_parent, _at_exit, _before_fork
from turnout.enums import EventKind as EventKind
from turnout.enums import FailureKind as FailureKind
from turnout.enums import Status as Status
from turnout.enums import Strategy as Strategy
from turnout.exceptions import AliasCycle as AliasCycle
from turnout.exceptions import AllDeploymentsInCooldown as AllDeploymentsInCooldown
from turnout.exceptions import ConfigurationError as ConfigurationError
from turnout.exceptions import DeploymentNotFound as DeploymentNotFound
from turnout.exceptions import ModelNotFound as ModelNotFound
from turnout.exceptions import NoAvailableDeployment as NoAvailableDeployment
from turnout.exceptions import RateLimitExceeded as RateLimitExceeded
from turnout.exceptions import RequestTooLarge as RequestTooLarge
from turnout.exceptions import RouterError as RouterError
from turnout.exceptions import StoreLost as StoreLost
from turnout.exceptions import TooManyWaiters as TooManyWaiters
from turnout.exceptions import WaitTimeout as WaitTimeout
from turnout.providers.exceptions import Failure as Failure
from turnout.providers.exceptions import classify_exception as classify_exception
from turnout.providers.headers import Observed as Observed
from turnout.providers.headers import RateLimits as RateLimits
from turnout.providers.headers import read_rate_limits as read_rate_limits
from turnout.router import Router as Router

if TYPE_CHECKING:
    from turnout import probe as probe
    from turnout import strategies as strategies
    from turnout.endpoints import Endpoint as Endpoint
    from turnout.endpoints import Env as Env
    from turnout.execution.options import Backoff as Backoff
    from turnout.execution.options import Budget as Budget
    from turnout.execution.options import Fallbacks as Fallbacks
    from turnout.execution.options import Hedge as Hedge
    from turnout.execution.options import Options as Options
    from turnout.execution.options import Retry as Retry
    from turnout.execution.options import Timeouts as Timeouts
    from turnout.execution.record import AttemptRecord as AttemptRecord
    from turnout.execution.record import attempts_of as attempts_of
    from turnout.limits import Limit as Limit
    from turnout.limits import Quota as Quota
    from turnout.options import Health as Health
    from turnout.options import Learning as Learning
    from turnout.options import MinuteRules as MinuteRules
    from turnout.options import Waiting as Waiting
    from turnout.records import DeploymentStats as DeploymentStats
    from turnout.records import Event as Event
    from turnout.records import Explanation as Explanation
    from turnout.records import LimitStats as LimitStats
    from turnout.records import ObservedStats as ObservedStats
    from turnout.records import RouterMetrics as RouterMetrics
    from turnout.records import Verdict as Verdict
    from turnout.transports.asks import BASE_URL as BASE_URL

__all__ = [
    "AliasCycle",
    "AllDeploymentsInCooldown",
    "AttemptRecord",
    "BASE_URL",
    "Backoff",
    "Budget",
    "ConfigurationError",
    "Deployment",
    "DeploymentNotFound",
    "DeploymentStats",
    "Endpoint",
    "Env",
    "Event",
    "EventKind",
    "Explanation",
    "Failure",
    "FailureKind",
    "Fallbacks",
    "Health",
    "Hedge",
    "Learning",
    "Lease",
    "Limit",
    "LimitStats",
    "ManualClock",
    "MinuteRules",
    "ModelNotFound",
    "NoAvailableDeployment",
    "Observed",
    "ObservedStats",
    "Options",
    "Quota",
    "RateLimitExceeded",
    "RateLimits",
    "RequestTooLarge",
    "Retry",
    "Router",
    "RouterError",
    "RouterMetrics",
    "RoutingContext",
    "Status",
    "StoreLost",
    "Strategy",
    "Timeouts",
    "TooManyWaiters",
    "Verdict",
    "WaitTimeout",
    "Waiting",
    "__version__",
    "attempts_of",
    "classify_exception",
    "probe",
    "read_rate_limits",
    "strategies",
]

# These names are imported when they are first asked for: an import of all at once would take several times as
# long.
_LAZY = {
    "turnout.endpoints": ("Endpoint", "Env"),
    "turnout.execution.options": ("Backoff", "Budget", "Fallbacks", "Hedge", "Options", "Retry", "Timeouts"),
    "turnout.execution.record": ("AttemptRecord", "attempts_of"),
    "turnout.limits": ("Limit", "Quota"),
    "turnout.options": ("Health", "Learning", "MinuteRules", "Waiting"),
    "turnout.transports.asks": ("BASE_URL",),
    "turnout.records": (
        "DeploymentStats",
        "Event",
        "Explanation",
        "LimitStats",
        "ObservedStats",
        "RouterMetrics",
        "Verdict",
    ),
}
_HOME = {name: module for module, names in _LAZY.items() for name in names}
_SUBMODULES = frozenset(("clients", "httpx", "httpx2", "limits", "options", "probe", "records", "shared", "strategies", "testing"))
_OLD_NAMES = {"headers": "headers", "outcomes": "exceptions"}

if not TYPE_CHECKING:  # so that a type checker finds names that do not exist

    def __getattr__(name):
        if name in _OLD_NAMES:
            # Here, where the caller's line is known: the module's own warning would name importlib's.
            with _warnings.catch_warnings():
                _warnings.simplefilter("ignore", DeprecationWarning)
                module = _import_module(f"turnout.{name}")
            _warnings.warn(f"turnout.{name} is now turnout.providers.{_OLD_NAMES[name]}", DeprecationWarning, stacklevel=2)
            return module
        if name in _SUBMODULES:
            return _import_module(f"turnout.{name}")
        if name not in _HOME:
            raise AttributeError(f"module 'turnout' has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(_HOME[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *_HOME, *_SUBMODULES, *_OLD_NAMES})


# Threads that go on while the interpreter ends must not run Python code from the core.
_atexit.register(_at_exit)

# Workers that are forked from one process must not draw the same numbers. Nor may they inherit a lock that is
# held.
if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)
