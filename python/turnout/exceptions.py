"""The exceptions that turnout raises.

::

    RouterError
    ├── ConfigurationError        (ValueError)   a value is out of range or unknown
    │   └── AliasCycle                           an alias would lead back to itself
    ├── ModelNotFound             (LookupError)  no deployment serves the model
    ├── DeploymentNotFound        (LookupError)  no deployment has the id
    ├── NoAvailableDeployment                    every deployment of the group was stopped by a gate
    │   ├── AllDeploymentsInCooldown             all of them by their cooldowns
    │   ├── RateLimitExceeded                    all of them by their request or token limits
    │   ├── WaitTimeout           (TimeoutError) and waiting did not help in time
    │   └── TooManyWaiters                       and no further call may wait
    ├── RequestTooLarge                          the request is above every token limit
    └── StoreLost                                the store of shared state does not answer

A value of the wrong type raises Python's own `TypeError`.
"""

from collections.abc import Mapping

__all__ = [
    "AliasCycle",
    "AllDeploymentsInCooldown",
    "ConfigurationError",
    "DeploymentNotFound",
    "ModelNotFound",
    "NoAvailableDeployment",
    "RateLimitExceeded",
    "RequestTooLarge",
    "RouterError",
    "StoreLost",
    "TooManyWaiters",
    "WaitTimeout",
]


class RouterError(Exception):
    """The base of all exceptions of turnout."""


class ConfigurationError(RouterError, ValueError):
    """A value is out of range or unknown. The message names it and what is allowed."""


class AliasCycle(ConfigurationError):
    """An alias would lead back to itself. The message shows the way round."""


class ModelNotFound(RouterError, LookupError):
    """No deployment serves the model.

    Attributes:
        model_name: The name that was asked for.
        near: Known names that look like it, best first.
    """

    def __init__(self, message: str, model_name: str = "", near: tuple[str, ...] = ()) -> None:
        super().__init__(message, model_name, near)
        self.model_name = model_name
        self.near = near

    def __str__(self) -> str:
        return str(self.args[0])


class DeploymentNotFound(RouterError, LookupError):
    """No deployment has the id.

    Attributes:
        deployment_id: The id that was asked for.
        near: Known ids that look like it, best first.
    """

    def __init__(self, message: str, deployment_id: str = "", near: tuple[str, ...] = ()) -> None:
        super().__init__(message, deployment_id, near)
        self.deployment_id = deployment_id
        self.near = near

    def __str__(self) -> str:
        return str(self.args[0])


class NoAvailableDeployment(RouterError):
    """Every deployment of the group was stopped by a gate.

    Attributes:
        model_name: The model name whose group was asked.
        retry_after: Seconds until the earliest time at which some deployment may be available. It follows
            from the ends of cooldowns and from the times at which limits become free. None if no such time is
            known: a place in flight becomes free when its lease ends, and nobody knows when a health check
            will report.
        reasons: How many deployments each gate stopped, by its name: ``dialect``, ``tags``, ``only``,
            ``excluded``, ``cooling_down``, ``unhealthy``, ``probation``, ``max_parallel_requests``,
            ``rpm_limit``, ``tpm_limit``, ``limit`` (one of ``Deployment.limits``),
            ``learnt_parallel_requests``, ``observed_limit`` (the provider said so), ``slow_start``,
            ``shared`` (this process holds too little of a limit that processes share), ``quota``.
    """

    def __init__(
        self,
        message: str,
        model_name: str = "",
        retry_after: float | None = None,
        reasons: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message, model_name, retry_after, dict(reasons or {}))
        self.model_name = model_name
        self.retry_after = retry_after
        self.reasons: dict[str, int] = dict(reasons or {})

    def __str__(self) -> str:
        return str(self.args[0])


class AllDeploymentsInCooldown(NoAvailableDeployment):
    """Every deployment that the request could use is cooling down, or on probation with its one place
    taken.
    """


class RateLimitExceeded(NoAvailableDeployment):
    """Every deployment that the request could use has spent one of its limits or quotas."""


class WaitTimeout(NoAvailableDeployment, TimeoutError):
    """No deployment became available while the call would wait. The attributes tell of the last try."""


class TooManyWaiters(NoAvailableDeployment):
    """No deployment is available, and as many calls wait for the model name as ``Waiting`` allows."""


class RequestTooLarge(RouterError):
    """The request is above the token limit of every deployment that it could use, so that waiting does not
    help.

    Attributes:
        model_name: The model name whose group was asked.
        tokens: The tokens that were asked for.
        largest_limit: The largest token limit among those deployments.
    """

    def __init__(self, message: str, model_name: str = "", tokens: int = 0, largest_limit: int = 0) -> None:
        super().__init__(message, model_name, tokens, largest_limit)
        self.model_name = model_name
        self.tokens = tokens
        self.largest_limit = largest_limit

    def __str__(self) -> str:
        return str(self.args[0])


class StoreLost(RouterError):
    """The store of shared state does not answer: it cannot be reached, it is too slow, or it refuses."""
