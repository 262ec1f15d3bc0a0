"""The native module: everything that runs on the way to a pick."""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, final

from typing_extensions import Self, disjoint_base

from turnout._carrier import Carrier
from turnout.endpoints import Endpoint
from turnout.enums import FailureKind, Strategy
from turnout.execution.attempts import Attempts
from turnout.execution.options import Fallbacks, Hedge, Options, Retry, Timeouts
from turnout.execution.record import AttemptRecord
from turnout.execution.state import Execution
from turnout.limits import Limit, Quota
from turnout.options import Health, Learning, MinuteRules, Waiting
from turnout.records import DeploymentStats, Event, Explanation, RouterMetrics

__all__ = [
    "Deployment",
    "Lease",
    "ManualClock",
    "Memory",
    "RoundRobinCounters",
    "Router",
    "RoutingContext",
    "_RetryBudget",
    "_RequestScan",
    "_StreamScanner",
    "_Batch",
    "_Books",
    "_Desk",
    "_FileLedger",
    "_Waiter",
    "__version__",
    "_after_fork",
    "_after_fork_in_parent",
    "_at_exit",
    "_before_fork",
    "_is_read",
    "_process_name",
    "_read_answer",
    "_read_header_pairs",
    "_read_number",
    "_read_plain_headers",
    "_read_time",
    "_rewrite_request",
    "_scan_request",
    "_time_zone",
    "_write_unraisable",
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

__version__: str

_T = TypeVar("_T")

_StrategyName: TypeAlias = Literal[
    "simple_shuffle",
    "least_busy",
    "usage_based",
    "latency_based",
    "priority_based",
    "rate_limit_aware",
    "round_robin",
    "cheapest",
    # LiteLLM's spellings
    "simple-shuffle",
    "least-busy",
    "usage-based-routing",
    "usage-based-routing-v2",
    "latency-based-routing",
    "cost_based",
    "cost-based-routing",
]
_FailureKindName: TypeAlias = Literal[
    "error",
    "connection",
    "rate_limit",
    "auth",
    "not_found",
    "timeout",
    "manual",
    "bad_request",
    "content_policy",
    "context_window",
    "cancelled",
]
_Dialect: TypeAlias = Literal["openai", "anthropic"]
_TagsMatch: TypeAlias = Literal["all", "any"]

class _Store(Protocol):
    """What carries messages to the books of a shared store."""

    def exchange(self, batch: Sequence[tuple[str, str, list[int]]], /) -> Sequence[Sequence[int] | None]: ...

@final
class Deployment:
    """One concrete target that can serve a model: an account, a region, a replica.

    A deployment is immutable. Two are equal when every fact is equal. All deployments with the same
    ``model_name`` form its group.

    Args:
        deployment_id: Unique in a router, not empty.
        model_name: The public name that requests ask for, not empty. A ``*`` in it stands for any characters:
            ``"openai/*"`` serves every name that begins with ``openai/``, unless it is another model name or
            an alias. Of several that fit the longest counts.
        model: The provider's own model identifier; ``model_name`` if not given. A ``*`` in it stands for what
            the ``*`` of ``model_name`` stands for (see :attr:`Lease.model`).
        weight: Relative share under ``simple_shuffle``, 0 to 4,294,967,295. A weight of 0 gets no traffic
            from that strategy while another candidate has more.
        priority: Rank under ``priority_based``, and in a router with tiers, lower first, 0 to 4,294,967,295.
        rpm_limit: Most requests admitted in one clock minute, at least 1; None for no limit.
        tpm_limit: Most tokens admitted in one clock minute, at least 1; None for no limit.
        max_parallel_requests: Most leases in flight at once, 1 to 4,294,967,295; None for no limit.
        limits: Further limits of its own, of any kind and period (see :class:`turnout.Limit`). Under
            ``usage_based`` and ``rate_limit_aware`` the fullest of them counts; a bucket's use is rounded up
            to whole hundredths there.
        quotas: Limits that it shares with other deployments (see :class:`turnout.Quota`).
        tags: Labels that requests may ask for, none of them empty. The order is kept, repetitions are
            dropped.
        metadata: Data that the application wants to find again on the lease, such as a base URL. A shallow
            copy is kept. It is read-only.
        domain: Its failure domain, such as a region: one outage takes away all deployments of it. With
            :class:`turnout.Health`, errors of connection count against all deployments of the domain.
        health: Rules of cooldown and probation of its own, in place of the router's: a
            :class:`turnout.Health` or a :class:`turnout.MinuteRules`. The router's rules decide about a whole
            group (``panic_threshold``, ``fail_open``, ``outlier_factor``, failure domains). Outliers are
            looked for among deployments whose ``window`` is the router's.
        retry: How calls follow a failure of this deployment with another attempt, in place of the router's
            ``retry``. A ``retry`` of the call itself comes first. Its ``budget`` is not used: a call has one.
        input_price: The price of a million tokens of prompts, from 0 to 1e9 in any one currency, rounded to
            a millionth; None if it is not known. ``cheapest`` compares it. If only one of the two prices is
            given, the other tokens are free.
        output_price: The price of a million tokens of answers, likewise.
        endpoint: Where and how it is reached, for the clients and transports of this package; None if that is
            the application's business.

    Raises:
        ConfigurationError: A value is out of range or empty.
        TypeError: A value is of the wrong type.

    Example:
        >>> from turnout import Deployment
        >>> Deployment("azure-eu", "gpt-4o", rpm_limit=600)
        Deployment('azure-eu', 'gpt-4o', rpm_limit=600)
    """

    def __new__(
        cls,
        deployment_id: str,
        model_name: str,
        *,
        model: str | None = None,
        weight: int = 1,
        priority: int = 0,
        rpm_limit: int | None = None,
        tpm_limit: int | None = None,
        max_parallel_requests: int | None = None,
        limits: Iterable[Limit] = (),
        quotas: Iterable[Quota] = (),
        tags: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        domain: str | None = None,
        health: Health | MinuteRules | None = None,
        retry: Retry | None = None,
        input_price: float | None = None,
        output_price: float | None = None,
        endpoint: Endpoint | None = None,
    ) -> Self: ...
    @property
    def deployment_id(self) -> str:
        """Its unique id."""

    @property
    def model_name(self) -> str:
        """The public name that requests ask for."""

    @property
    def model(self) -> str:
        """The provider's own model identifier."""

    @property
    def weight(self) -> int:
        """Relative share under ``simple_shuffle``."""

    @property
    def priority(self) -> int:
        """Rank under ``priority_based``, lower first."""

    @property
    def rpm_limit(self) -> int | None:
        """Most requests in one clock minute; None for no limit."""

    @property
    def tpm_limit(self) -> int | None:
        """Most tokens in one clock minute; None for no limit."""

    @property
    def max_parallel_requests(self) -> int | None:
        """Most leases in flight at once; None for no limit."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Its limits beside ``rpm_limit`` and ``tpm_limit``."""

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """The quotas it is under."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Labels that requests may ask for."""

    @property
    def metadata(self) -> MappingProxyType[str, Any]:
        """A read-only view of what the application attached."""

    @property
    def domain(self) -> str | None:
        """Its failure domain: one outage takes away all deployments of it; None if it has none."""

    @property
    def health(self) -> Health | MinuteRules | None:
        """Its own rules of cooldown and probation; None if it follows the router's."""

    @property
    def retry(self) -> Retry | None:
        """How calls follow a failure of it with another attempt; None if the router's rules decide."""

    @property
    def input_price(self) -> float | None:
        """The price of a million tokens of prompts; None if it is not known."""

    @property
    def output_price(self) -> float | None:
        """The price of a million tokens of answers; None if it is not known."""

    @property
    def endpoint(self) -> Endpoint | None:
        """Where and how it is reached; None if that is the application's business."""

    def replace(self, **changes: Any) -> Deployment:
        """Return a copy with some facts changed.

        Args:
            **changes: Any keyword of the constructor, ``deployment_id`` and ``model_name`` included.

        Returns:
            A new deployment; this one stays as it is.

        Raises:
            ConfigurationError: A value is out of range or empty.
            TypeError: A keyword is unknown or a value is of the wrong type.
        """

    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[str, str], dict[str, Any]]: ...

@final
class ManualClock:
    """A clock that moves only when told to, for tests and simulations.

    Give it to ``Router(clock=…)``: windows, cooldowns and measured latencies then follow it. Routers may
    share it, and any thread may move it. Like a real clock, it can be set back. A router never sees time run
    backwards. After a step back of up to a minute, the router's time stands still until the clock has caught
    up. After a longer step back, the router's time goes on from where it was.

    Args:
        start: The first reading in seconds, finite and at least 0. Clock minutes begin at multiples of 60.

    Raises:
        ConfigurationError: ``start`` is negative, not finite, or over 1e10.

    Example:
        >>> from turnout import ManualClock
        >>> clock = ManualClock()
        >>> clock.advance(1.5)
        >>> clock.now()
        1.5
    """

    def __new__(cls, start: float = 0.0) -> Self: ...
    def advance(self, seconds: float, /) -> None:
        """Move the clock forward.

        Args:
            seconds: How far, finite and at least 0.

        Raises:
            ConfigurationError: ``seconds`` is negative or not finite, or the reading would pass 1e10.
        """

    def set(self, seconds: float, /) -> None:
        """Set the reading, forward or back.

        Args:
            seconds: The new reading, finite, 0 to 1e10.

        Raises:
            ConfigurationError: ``seconds`` is negative, not finite, or over 1e10.
        """

    def now(self) -> float:
        """Return the reading in seconds."""

@final
class Lease:
    """One acquired place on a deployment: a request in flight, counted in its minute's window together with
    its estimated tokens.

    :meth:`Router.acquire` makes it. It ends once: by the first of :meth:`success`, :meth:`failure`,
    :meth:`release` and the end of its ``with`` (or ``async with``) block. Later ends do nothing. The end of a
    block without an exception is a success with the measured latency. An exception that leaves the block is a
    failure; :func:`turnout.classify_exception` tells its kind. A cancellation is a release. A lease that is
    lost without any of these releases itself and warns with ``ResourceWarning``.

    Any thread may end it. It can also be ended after its deployment or its router is gone.
    """

    @property
    def deployment(self) -> Deployment:
        """The chosen deployment, the very object that was given to the router."""

    @property
    def deployment_id(self) -> str:
        """The id of the chosen deployment."""

    @property
    def model_name(self) -> str:
        """The model name whose group was asked (an alias is resolved)."""

    @property
    def model(self) -> str:
        """The provider's own identifier of the model to ask for.

        It is ``deployment.model``. If the deployment's ``model_name`` has a ``*``, each ``*`` of the model is
        replaced by what that of the model name stands for in the name that was asked for.

        Examples:
            >>> from turnout import Deployment, Router
            >>> router = Router([Deployment("openai", "openai/*", model="*")])
            >>> with router.acquire("openai/gpt-4o") as lease:
            ...     lease.model
            'gpt-4o'
        """

    @property
    def tokens(self) -> int:
        """The tokens reserved at acquire."""

    @property
    def released(self) -> bool:
        """Whether the lease has ended."""

    def success(
        self,
        tokens: int | None = None,
        latency: float | None = None,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
    ) -> bool:
        """End the lease with a success.

        Args:
            tokens: The tokens that were really used. They replace the estimate in the window that took it. If
                that window is over, nothing changes there. A bucket is then as full as if these tokens had
                been known. None takes the sum of the next two, and keeps the estimate if they are None as
                well.
            latency: The seconds that the request took; None takes the time since acquire.
            input_tokens: How many of the tokens were the prompt's; None for the rest beside
                ``output_tokens``. If both are None, the prompt is as large as was estimated.
            output_tokens: How many of the tokens were the answer's; None for the rest beside
                ``input_tokens``.

        Returns:
            True if this call ended the lease, False if it had ended before.

        Raises:
            ConfigurationError: A number of tokens is negative or too large, ``tokens`` less than the sum of
                the others, or ``latency`` negative or not finite. The lease goes on.
        """

    def failure(
        self,
        kind: FailureKind | _FailureKindName = "error",
        retry_after: float | None = None,
        *,
        scope: Literal["deployment", "account"] | None = None,
    ) -> bool:
        """End the lease with a failure. What it reserved stays in the window, since the provider may have
        counted it.

        Args:
            kind: What went wrong; it decides whether the deployment cools down (see
                :class:`turnout.FailureKind`).
            retry_after: Seconds after which the provider wants to be asked again. The deployment cools down
                for this long, for any kind that is not neutral, and under any rules. 0 is no wait.
                ``Learning(longest_wait=…)`` is the longest that counts.
            scope: What a refusal (``rate_limit``) is about. ``"deployment"``: the deployment waits.
                ``"account"``: of its quotas, the one that is nearest to its limit is paused, for all
                deployments under it. None if that is not known: then the deployment waits.

        Returns:
            True if this call ended the lease, False if it had ended before.

        Raises:
            ConfigurationError: ``kind`` or ``scope`` is unknown, or ``retry_after`` negative or not finite.
                The lease goes on.
        """

    def release(
        self,
        unused: bool = False,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
    ) -> bool:
        """End the lease without an outcome: the deployment's health does not change.

        Args:
            unused: Whether the request was never sent. The reservation in the window is then given back too.
                By default it stays.
            tokens: The tokens that were used up to now, if that is known: a reader who leaves a stream pays
                for what was generated. They replace the estimate, as for :meth:`success`.
            input_tokens: As for :meth:`success`.
            output_tokens: As for :meth:`success`.

        Returns:
            True if this call ended the lease, False if it had ended before.

        Raises:
            ConfigurationError: Tokens are given although nothing was used, or as for :meth:`success`.
        """

    def first_token(self) -> bool:
        """Record that the first token of the answer has come. A call after the first, or after the end of the
        lease, does nothing.

        The time since acquire goes into ``DeploymentStats.avg_first_token``. The strategies that compare
        latencies compare it, once it is known of a candidate: the time of a whole stream depends on the
        length of the answer and on its reader.

        Returns:
            True if this call was the first.
        """

    @property
    def first_token_after(self) -> float | None:
        """Seconds from the acquire to the first token; None if that was not recorded."""

    @property
    def _acquired_at(self) -> float:
        """When it was acquired, by the clock of ``Router._now``."""

    def _fail(self, error: BaseException, /) -> tuple[str | None, float | None]:
        """End the lease by an exception, and tell the kind of the failure and the wait that was named."""

    def observe(self, headers: Any, /) -> None:
        """Record what the answer's headers say about the provider's limits.

        The limits that the provider says are left hold until they reset. They count beside the limits that
        are configured: the stricter one stops a request. A wait that the provider asks for (``retry-after``)
        holds to its end, or until an answer to a later request shows that the provider serves again. A limit
        that is spent holds no longer than that wait. If a quota has a limit of the same unit and amount, the
        answer is about that quota. Otherwise it is about the deployment. This works before and after the end
        of the lease. An exception that leaves the block is read without this call (see
        :class:`turnout.Learning`).

        Args:
            headers: Any mapping of header names, or an object with ``headers`` or with a ``response`` that
                has them. Headers that are not understood are ignored (see :func:`turnout.read_rate_limits`).
        """

    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> Literal[False]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> Literal[False]: ...

@disjoint_base
class Router:
    """Picks one deployment of a model for every request.

    Safe to use from any number of threads and event loops; routers share nothing with each other.

    It may be subclassed. ``__new__`` takes the arguments. So a subclass with arguments of its own defines
    ``__new__``.

    Args:
        deployments: The first deployments, in registration order.
        strategy: The rule that picks among candidates, for every model name that ``strategies`` does not
            name. LiteLLM's spellings are accepted too.
        strategies: The strategies of single model names.
        tiers: Whether the strategies pick among the candidates of the lowest ``priority`` only. Those of the
            next one serve once none of these is left: cooling down, full or at their limits.
        default_tag: The tag of the deployments that serve requests without tags, and requests whose tags no
            deployment of the group has. It counts in groups that have a deployment with this tag. With None,
            any deployment serves requests without tags. LiteLLM's tag for this is ``"default"``.
        allowed_fails: Deprecated, like the next three: give :class:`turnout.MinuteRules` as ``health``.
        min_requests: See ``allowed_fails``.
        cooldown_time: See ``allowed_fails``.
        success_threshold: See ``allowed_fails``.
        health: The rules of cooldown and probation: a :class:`turnout.Health`, a
            :class:`turnout.MinuteRules`, or None for ``Health()``.
        learning: What is learnt from providers; None for ``Learning()``.
        waiting: How many calls may wait for capacity; None for ``Waiting()``.
        retry: Whether and how a failed attempt of a whole request is followed by another one; None for
            ``Retry()``. This and the next four hold for :meth:`call`, :meth:`call_async`, :meth:`attempts`
            and the clients.
        fallbacks: Which other model names serve a request that its own group cannot serve; None for none.
        timeouts: How long a request may take; None for ``Timeouts()``.
        hedge: Whether a slow attempt gets a second one beside it; None for no.
        model_options: Such options of single model names, as :class:`turnout.Options`.
        seed: Makes the random draws repeatable, 0 to 2**64 - 1. With None the system seeds them, anew in
            every forked process.
        clock: A :class:`ManualClock`, or None for the system's monotonic clock, which starts at the wall
            clock's time. Windows follow the minutes of the wall clock. They follow it when it is set forward,
            and not when it is set back.
        shared: The store through which it shares its limits with routers of other processes: one of
            :mod:`turnout.shared`, or any object with a method ``exchange``; None to share nothing. Windows
            then follow the store's clock.

    Raises:
        ConfigurationError: A value is out of range, a strategy unknown, an id given twice, or ``health``
            given together with one of ``allowed_fails``, ``min_requests``, ``cooldown_time`` and
            ``success_threshold``.
        TypeError: A value is of the wrong type.

    Example:
        >>> from turnout import Deployment, Router
        >>> deployments = [Deployment("azure-eu", "gpt-4o"), Deployment("openai", "gpt-4o", priority=1)]
        >>> router = Router(deployments, strategy="priority_based")
        >>> router.select("gpt-4o")
        'azure-eu'
    """

    def __new__(
        cls,
        deployments: Iterable[Deployment] = (),
        *,
        strategy: Strategy | _StrategyName = "simple_shuffle",
        strategies: Mapping[str, Strategy | _StrategyName] | None = None,
        tiers: bool = False,
        default_tag: str | None = None,
        allowed_fails: int | None = None,
        min_requests: int | None = None,
        cooldown_time: float | None = None,
        success_threshold: int | None = None,
        health: Health | MinuteRules | None = None,
        learning: Learning | None = None,
        waiting: Waiting | None = None,
        retry: Retry | None = None,
        fallbacks: Fallbacks | None = None,
        timeouts: Timeouts | None = None,
        hedge: Hedge | None = None,
        model_options: Mapping[str, Options] | None = None,
        seed: int | None = None,
        clock: ManualClock | None = None,
        shared: _Store | None = None,
    ) -> Self: ...
    @property
    def _carrier(self) -> Carrier | None:
        """What carries the talk with a shared store; None if nothing has to."""

    # --- configs ---
    @classmethod
    def from_config(
        cls,
        source: str | Path | Mapping[str, Any],
        *,
        strict: bool = False,
        seed: int | None = None,
        clock: ManualClock | None = None,
    ) -> Self:
        """Make a router from a config.

        It needs pydantic and PyYAML: ``pip install 'turnout[config]'``.

        Args:
            source: A file in YAML, TOML or JSON, or what would stand in it as a mapping. It has turnout's own
                form or that of LiteLLM's Router and proxy. What is in it tells which.
            strict: Whether a setting that has no effect is an error. Otherwise one warning names all of them.
            seed: As for the router.
            clock: As for the router.

        Returns:
            The router.

        Raises:
            ConfigurationError: Something is wrong. The text has a line for each problem, with the file and
                the line in it.
            ImportError: A library is missing.
            TypeError: The source is neither a path nor a mapping.

        Example:
            >>> from turnout import Router
            >>> config = {"deployments": [{"id": "eu", "model_name": "gpt-4o"}]}
            >>> router = Router.from_config(config)
            >>> router.select("gpt-4o")
            'eu'
        """

    def reload(self, source: str | Path | Mapping[str, Any], *, strict: bool = False) -> None:
        """Take over a config while the router is in use. Counts, leases, cooldowns and waiters stay.

        Deployments are told apart by their ids. Options that the config does not name are as for a new
        router. All is checked before anything is changed.

        Args:
            source: As for :meth:`from_config`.
            strict: As for :meth:`from_config`.

        Raises:
            ConfigurationError: Something is wrong. Nothing is changed then. Another ``waiting`` has no effect
                on a router in use.
            ImportError: A library is missing.
            TypeError: The source is neither a path nor a mapping.
        """

    # --- options ---
    def configure(
        self,
        *,
        strategy: Strategy | _StrategyName | None = None,
        strategies: Mapping[str, Strategy | _StrategyName] | None = None,
        tiers: bool | None = None,
        default_tag: str | None = None,
        health: Health | MinuteRules | None = None,
        learning: Learning | None = None,
        retry: Retry | None = None,
        fallbacks: Fallbacks | None = None,
        timeouts: Timeouts | None = None,
        hedge: Hedge | None = None,
        model_options: Mapping[str, Options] | None = None,
    ) -> None:
        """Change options while the router is in use. Counts, leases, cooldowns and waiters stay.

        An option that is left out, or None, stays as it is. All options are checked before anything is
        changed.

        Args:
            strategy: The rule for every model name that ``strategies`` does not name.
            strategies: The strategies of single model names. They replace all that there were.
            tiers: As for the router.
            default_tag: As for the router; an empty text for no such tag. Calls that wait follow it.
            health: The rules of cooldown and probation. A cooldown that has begun keeps its end.
            learning: What is learnt from providers.
            retry: As for the router. A call that has begun keeps its options.
            fallbacks: As for the router.
            timeouts: As for the router.
            hedge: As for the router.
            model_options: Such options of single model names. They replace all that there were.

        Raises:
            ConfigurationError: A strategy is unknown, or a number makes no sense.
            TypeError: A value is of the wrong type.

        Example:
            >>> from turnout import Deployment, Router
            >>> router = Router([Deployment("a", "m")])
            >>> router.configure(strategy="least_busy")
            >>> router.strategy
            <Strategy.LEAST_BUSY: 'least_busy'>
        """

    # --- registry ---
    def add_deployment(self, deployment: Deployment, /) -> None:
        """Add a deployment at the end of its group.

        If a deployment has the same id, the new one replaces its facts and keeps its state and its place.
        With another model name it moves to the end of that group.

        Args:
            deployment: The deployment.

        Raises:
            ConfigurationError: Its model name is an alias.
        """

    def remove_deployment(self, deployment_id: str, /) -> Deployment:
        """Take a deployment out. Its live leases stay valid and harmless.

        Args:
            deployment_id: Its id.

        Returns:
            The deployment.

        Raises:
            DeploymentNotFound: There is none with this id.
        """

    def set_deployments(self, deployments: Iterable[Deployment], /) -> None:
        """Replace all deployments. Ids that stay keep their state; live leases of ids that go stay valid and
        harmless.

        Args:
            deployments: The new deployments, in registration order.

        Raises:
            ConfigurationError: An id is given twice, or a model name is an alias. Nothing is changed then.
        """

    def get_deployment(self, deployment_id: str, /) -> Deployment:
        """Return the deployment with an id.

        Args:
            deployment_id: Its id.

        Raises:
            DeploymentNotFound: There is none with this id.
        """

    def deployments(self, model_name: str | None = None, /) -> list[Deployment]:
        """List deployments in registration order.

        Args:
            model_name: Only the group that this model name or alias leads to; None for all.

        Raises:
            ModelNotFound: No deployment serves the model.
        """

    def models(self) -> list[str]:
        """List the model names that have a deployment, sorted. Aliases are not among them."""

    def aliases(self) -> dict[str, str]:
        """Return every alias with the name it stands for."""

    def add_alias(self, alias: str, target: str, /) -> None:
        """Let a name stand for another name. The other name may be an alias itself and need not exist yet. An
        old alias of the same name is replaced.

        Args:
            alias: The new name, not empty and not a model name.
            target: The name it stands for.

        Raises:
            AliasCycle: The target leads back to the alias. Nothing is changed then.
            ConfigurationError: A name is empty, or ``alias`` is a model name.
        """

    def remove_alias(self, alias: str, /) -> str:
        """Take an alias away.

        Args:
            alias: The alias.

        Returns:
            The name it stood for.

        Raises:
            ModelNotFound: There is no such alias.
        """

    def resolve(self, name: str, /) -> str:
        """Follow aliases to the model name.

        Args:
            name: A model name or an alias, or a name that a model name with ``*`` serves.

        Returns:
            The model name. It may have a ``*``: the exact name comes first, then an alias, then the longest
            model name with ``*`` that fits.

        Raises:
            ModelNotFound: It leads to no model that has a deployment.
        """

    def __len__(self) -> int: ...
    def __contains__(self, deployment_id: object, /) -> bool: ...

    # --- picks ---
    def select(
        self,
        model_name: str,
        /,
        *,
        tokens: int = 0,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        tags: Iterable[str] | None = None,
        tags_match: _TagsMatch = "all",
        exclude: Iterable[str] | None = None,
        only: Iterable[str] | None = None,
        dialect: _Dialect | None = None,
    ) -> str:
        """Pick a deployment and reserve nothing. The only side effects are the round-robin turn and the
        random draw.

        Args:
            model_name: The model name or an alias.
            tokens: The tokens that the request is expected to use, prompt and answer, at least 0. Only a
                deployment that has this many left is picked. 0 means that the size is not known: then one
                token must be left. If it is not given, it is the sum of the next two.
            input_tokens: How many of the tokens are the prompt's; None for the rest beside ``output_tokens``,
                or if it is not known. If both are None, each may be all of ``tokens``. Each then counts as
                all of them where prompt and answer are limited apart.
            output_tokens: How many of the tokens are the answer's; None as for ``input_tokens``.
            tags: Labels that the deployment must have.
            tags_match: ``"all"`` for every one of ``tags``, ``"any"`` for at least one.
            exclude: Ids that must not be picked, such as those that were tried already.
            only: The only ids that may be picked, such as that of the deployment which keeps a conversation;
                None for any.
            dialect: The dialect that the deployment must speak, ``"openai"`` or ``"anthropic"``; None for
                any.

        Returns:
            The deployment's id.

        Raises:
            ConfigurationError: ``tokens`` is less than ``input_tokens`` + ``output_tokens``, or one of them
                out of range.
            ModelNotFound: No deployment serves the model.
            NoAvailableDeployment: No deployment passes every gate now (``AllDeploymentsInCooldown`` and
                ``RateLimitExceeded`` if that one cause stopped all of them).
            RequestTooLarge: ``tokens`` is above the limit of every deployment: it will never fit.
        """

    def select_many(
        self,
        model_name: str,
        n: int,
        /,
        *,
        tokens: int = 0,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        tags: Iterable[str] | None = None,
        tags_match: _TagsMatch = "all",
        exclude: Iterable[str] | None = None,
        only: Iterable[str] | None = None,
        dialect: _Dialect | None = None,
    ) -> list[str]:
        """Pick ``n`` times in one call, as ``n`` calls of :meth:`select` would: an id may come more than
        once.

        Args:
            model_name: As for :meth:`select`.
            n: How many picks, 0 to 10,000,000.
            tokens: As for :meth:`select`.
            input_tokens: As for :meth:`select`.
            output_tokens: As for :meth:`select`.
            tags: As for :meth:`select`.
            tags_match: As for :meth:`select`.
            exclude: As for :meth:`select`.
            only: As for :meth:`select`.
            dialect: As for :meth:`select`.

        Returns:
            The ids, in the order of the picks.

        Raises:
            ConfigurationError: ``n`` is out of range.
            ModelNotFound: As for :meth:`select`.
            NoAvailableDeployment: As for :meth:`select`.
            RequestTooLarge: As for :meth:`select`.
        """

    def acquire(
        self,
        model_name: str,
        /,
        *,
        tokens: int = 0,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        tags: Iterable[str] | None = None,
        tags_match: _TagsMatch = "all",
        exclude: Iterable[str] | None = None,
        only: Iterable[str] | None = None,
        dialect: _Dialect | None = None,
        timeout: float | None = 0.0,
        priority: int = 0,
    ) -> Lease:
        """Pick a deployment and reserve, in one step or not at all: one in flight, one request and ``tokens``
        tokens this minute.

        With a ``timeout`` it waits for capacity and holds up its thread: in an event loop use
        :meth:`acquire_async`. First come is first served. A call overtakes no earlier call with the same tags
        and exclusions, even if it does not wait itself.

        Args:
            model_name: As for :meth:`select`.
            tokens: As for :meth:`select`; reserved until the outcome says how many there were.
            input_tokens: As for :meth:`select`.
            output_tokens: As for :meth:`select`.
            tags: As for :meth:`select`.
            tags_match: As for :meth:`select`.
            exclude: As for :meth:`select`.
            only: As for :meth:`select`.
            dialect: As for :meth:`select`.
            timeout: The most seconds to wait, of the router's clock. 0 does not wait, None waits for as long
                as it takes.
            priority: Among calls that wait, lower numbers are served first, -2**31 to 2**31 - 1.

        Returns:
            The lease, to be used as a context manager or ended by hand.

        Raises:
            ModelNotFound: As for :meth:`select`. It is raised at once, like every error that waiting would
                not help against.
            NoAvailableDeployment: As for :meth:`select`.
            RequestTooLarge: As for :meth:`select`.
            TooManyWaiters: As many calls wait for the model name already as may.
            WaitTimeout: No deployment became available in time.

        Example:
            >>> from turnout import Deployment, Router, WaitTimeout
            >>> router = Router([Deployment("a", "m", max_parallel_requests=1)])
            >>> with router.acquire("m"):
            ...     try:
            ...         router.acquire("m", timeout=0.01)
            ...     except WaitTimeout as error:
            ...         error.reasons
            {'max_parallel_requests': 1}
        """

    async def acquire_async(
        self,
        model_name: str,
        /,
        *,
        tokens: int = 0,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        tags: Iterable[str] | None = None,
        tags_match: _TagsMatch = "all",
        exclude: Iterable[str] | None = None,
        only: Iterable[str] | None = None,
        dialect: _Dialect | None = None,
        timeout: float | None = None,
        priority: int = 0,
    ) -> Lease:
        """Like :meth:`acquire`, but wait for capacity without holding up the event loop.

        It works under asyncio and trio (and anyio on either). A task that is cancelled gives up its place. If
        it was given a lease at that moment, the lease goes to the next waiter.

        Args:
            model_name: As for :meth:`select`.
            tokens: As for :meth:`acquire`.
            input_tokens: As for :meth:`select`.
            output_tokens: As for :meth:`select`.
            tags: As for :meth:`select`.
            tags_match: As for :meth:`select`.
            exclude: As for :meth:`select`.
            only: As for :meth:`select`.
            dialect: As for :meth:`select`.
            timeout: The most seconds to wait, of the router's clock. None waits for as long as it takes, 0
                does not wait.
            priority: As for :meth:`acquire`.

        Returns:
            The lease, to be used as a context manager or ended by hand: ``async with await
            router.acquire_async("m") as lease``.

        Raises:
            ModelNotFound: As for :meth:`acquire`.
            NoAvailableDeployment: As for :meth:`acquire`.
            RequestTooLarge: As for :meth:`acquire`.
            TooManyWaiters: As for :meth:`acquire`.
            WaitTimeout: As for :meth:`acquire`.
        """

    def explain(
        self,
        model_name: str,
        /,
        *,
        tokens: int = 0,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        tags: Iterable[str] | None = None,
        tags_match: _TagsMatch = "all",
        exclude: Iterable[str] | None = None,
        only: Iterable[str] | None = None,
        dialect: _Dialect | None = None,
    ) -> Explanation:
        """Say what :meth:`select` or :meth:`acquire` would do now, and why. It has no side effect.

        It runs the same code that picks. It looks at the next random draw and does not consume it. So a pick
        right after it takes the deployment that it names, if nothing happens in between.

        Args:
            model_name: As for :meth:`select`.
            tokens: As for :meth:`select`.
            input_tokens: As for :meth:`select`.
            output_tokens: As for :meth:`select`.
            tags: As for :meth:`select`.
            tags_match: As for :meth:`select`.
            exclude: As for :meth:`select`.
            only: As for :meth:`select`.
            dialect: As for :meth:`select`.

        Returns:
            The verdict on every deployment of the group. ``print`` it, or take its ``to_dict()``.

        Raises:
            ModelNotFound: No deployment serves the model.
        """

    # --- whole requests ---
    def attempts(
        self,
        model_name: str,
        /,
        *,
        retry: Retry | None = None,
        fallbacks: Fallbacks | None = None,
        timeouts: Timeouts | None = None,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        tags: Iterable[str] | None = None,
        tags_match: _TagsMatch | None = None,
        exclude: Iterable[str] | None = None,
        only: Iterable[str] | None = None,
        dialect: _Dialect | None = None,
        priority: int | None = None,
        records: list[AttemptRecord] | None = None,
    ) -> Attempts:
        """Loop over the attempts of one request, with ``for`` in a thread and ``async for`` in a task.

        Each attempt is a context manager that gives its lease. A failure that another attempt may mend is
        swallowed where the block ends, and the loop goes on. Any other failure passes through. A block that
        ends without an exception ends the loop.

        Args:
            model_name: As for :meth:`select`.
            retry: Whether and how a failed attempt is followed by another one. None takes what holds in the
                block, for the model name, or for the router, in this order.
            fallbacks: Which other model names serve the request; None as for ``retry``.
            timeouts: How long it may take; None as for ``retry``.
            tokens: As for :meth:`acquire`, like the next seven. None takes what holds in the block, and then
                the default of :meth:`acquire`.
            input_tokens: As for :meth:`acquire`.
            output_tokens: As for :meth:`acquire`.
            tags: As for :meth:`acquire`.
            tags_match: As for :meth:`acquire`.
            exclude: As for :meth:`acquire`.
            only: As for :meth:`acquire`.
            dialect: As for :meth:`acquire`.
            priority: As for :meth:`acquire`.
            records: A list that takes the record of each attempt that ends; None for none.

        Returns:
            The loop.

        Raises:
            BaseException: From the loop: as for :meth:`call`.

        Example:
            >>> from turnout import Deployment, Router
            >>> router = Router([Deployment("a", "m"), Deployment("b", "m")], strategy="priority_based")
            >>> for attempt in router.attempts("m"):
            ...     with attempt as lease:
            ...         if lease.deployment_id == "a":
            ...             raise ConnectionError
            ...         print("served by", lease.deployment_id)
            served by b
        """

    def call(
        self,
        model_name: str,
        send: Callable[[Lease], _T],
        /,
        *,
        retry: Retry | None = None,
        fallbacks: Fallbacks | None = None,
        timeouts: Timeouts | None = None,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        tags: Iterable[str] | None = None,
        tags_match: _TagsMatch | None = None,
        exclude: Iterable[str] | None = None,
        only: Iterable[str] | None = None,
        dialect: _Dialect | None = None,
        priority: int | None = None,
        records: list[AttemptRecord] | None = None,
    ) -> _T:
        """Send a request, and carry it to its end in this thread: other deployments, pauses and fallbacks.

        What ``send`` returns is a success. An exception is a failure, which is read as
        :func:`turnout.classify_exception` reads it. ``send`` runs in this thread and is not interrupted: time
        limits hold between attempts. Give each attempt a time limit in your client.

        Args:
            model_name: As for :meth:`select`.
            send: Sends the request to ``lease.deployment``. It may end the lease itself, to tell the tokens.
            retry: Whether and how a failed attempt is followed by another one. None takes what holds in the
                block, for the model name, or for the router, in this order.
            fallbacks: Which other model names serve the request; None as for ``retry``.
            timeouts: How long it may take; None as for ``retry``.
            tokens: As for :meth:`acquire`, like the next seven. None takes what holds in the block, and then
                the default of :meth:`acquire`.
            input_tokens: As for :meth:`acquire`.
            output_tokens: As for :meth:`acquire`.
            tags: As for :meth:`acquire`.
            tags_match: As for :meth:`acquire`.
            exclude: As for :meth:`acquire`.
            only: As for :meth:`acquire`.
            dialect: As for :meth:`acquire`.
            priority: As for :meth:`acquire`.
            records: A list that takes the record of each attempt that ends; None for none.

        Returns:
            What ``send`` returned.

        Raises:
            BaseException: The last error of ``send``, if no other attempt may help. A note on it names every
                attempt, and :func:`turnout.attempts_of` returns their records.
            ModelNotFound: Nobody serves the model name, or that of a fallback.
            NoAvailableDeployment: No attempt could begin, for this reason.
            TimeoutError: The time was over, and no attempt had failed.

        Example:
            >>> from turnout import Deployment, Router
            >>> router = Router([Deployment("a", "m")])
            >>> router.call("m", lambda lease: f"served by {lease.deployment_id}")
            'served by a'
        """

    def call_async(
        self,
        model_name: str,
        send: Callable[[Lease], Awaitable[_T]],
        /,
        *,
        retry: Retry | None = None,
        fallbacks: Fallbacks | None = None,
        timeouts: Timeouts | None = None,
        hedge: Hedge | None = None,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        tags: Iterable[str] | None = None,
        tags_match: _TagsMatch | None = None,
        exclude: Iterable[str] | None = None,
        only: Iterable[str] | None = None,
        dialect: _Dialect | None = None,
        priority: int | None = None,
        records: list[AttemptRecord] | None = None,
    ) -> Coroutine[Any, Any, _T]:
        """Do what :meth:`call` does, in a task of asyncio or trio. An attempt that takes too long is
        cancelled.

        Time limits need ``anyio``: ``pip install 'turnout[async]'``.

        Args:
            model_name: As for :meth:`select`.
            send: Sends the request to ``lease.deployment``. It may end the lease itself, to tell the tokens.
            retry: Whether and how a failed attempt is followed by another one. None takes what holds in the
                block, for the model name, or for the router, in this order.
            fallbacks: Which other model names serve the request; None as for ``retry``.
            timeouts: How long it may take; None as for ``retry``.
            hedge: Whether a slow attempt gets a second one beside it; None as for ``retry``.
            tokens: As for :meth:`acquire`, like the next seven. None takes what holds in the block, and then
                the default of :meth:`acquire`.
            input_tokens: As for :meth:`acquire`.
            output_tokens: As for :meth:`acquire`.
            tags: As for :meth:`acquire`.
            tags_match: As for :meth:`acquire`.
            exclude: As for :meth:`acquire`.
            only: As for :meth:`acquire`.
            dialect: As for :meth:`acquire`.
            priority: As for :meth:`acquire`.
            records: A list that takes the record of each attempt that ends; None for none.

        Returns:
            What ``send`` returned.

        Raises:
            BaseException: The last error of ``send``, if no other attempt may help. A note on it names every
                attempt, and :func:`turnout.attempts_of` returns their records.
            ModelNotFound: Nobody serves the model name, or that of a fallback.
            NoAvailableDeployment: No attempt could begin, for this reason.
            TimeoutError: The time was over, and no attempt had failed.
            ImportError: ``anyio`` is not installed.
        """

    def options(
        self,
        *,
        retry: Retry | None = None,
        fallbacks: Fallbacks | None = None,
        timeouts: Timeouts | None = None,
        hedge: Hedge | None = None,
        tokens: int | None = None,
        tags: Iterable[str] | None = None,
        tags_match: _TagsMatch | None = None,
        exclude: Iterable[str] | None = None,
        only: Iterable[str] | None = None,
        priority: int | None = None,
    ) -> AbstractContextManager[None]:
        """Let options hold for the requests that begin in a block: in this thread or task, and in tasks that
        it starts. They reach calls that other libraries make. Inner blocks come before outer ones.

        They hold for :meth:`call`, :meth:`call_async`, :meth:`attempts` and the clients, and not for
        :meth:`acquire` and :meth:`select`.

        Args:
            retry: As for :meth:`call`.
            fallbacks: As for :meth:`call`.
            timeouts: As for :meth:`call`.
            hedge: As for :meth:`call_async`.
            tokens: As for :meth:`acquire`.
            tags: As for :meth:`acquire`.
            tags_match: As for :meth:`acquire`.
            exclude: As for :meth:`acquire`.
            only: As for :meth:`acquire`.
            priority: As for :meth:`acquire`.

        Returns:
            The block, for ``with``.

        Raises:
            TypeError: A value is of the wrong type.
        """

    def on_attempt(self, callback: Callable[[AttemptRecord], object], /) -> Callable[[], None]:
        """Call ``callback`` with the record of each attempt that ends.

        It is called in the thread or task of the attempt. It should be fast. An exception that it raises is
        reported as unraisable.

        Args:
            callback: The callback.

        Returns:
            A function that ends that.

        Raises:
            TypeError: It cannot be called.
        """

    def close(self) -> None:
        """Close the connections that clients have opened for the router, and end the callbacks of
        :meth:`on_attempt`. What is held of shared limits goes back to the store. The deployments, counts and
        leases stay. Leaving a ``with`` block of the router does the same.
        """

    async def aclose(self) -> None:
        """Do what :meth:`close` does in a task, for clients of tasks. Leaving an ``async with`` block of the
        router does the same.
        """

    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def _begin(self, model_name: str, /) -> Lease | None:
        """Begin a call that has no options and no size; None if it needs a plan."""

    def _use_plans(self) -> None:
        """Let every call have a plan from now on."""

    def _budget(self, share: float, per_second: float, window: float, /) -> _RetryBudget:
        """Return the budget with these numbers: one for all calls that name them."""

    def _count(self, what: str, /) -> None:
        """Count one of ``attempts``, ``retries``, ``fallbacks``, ``hedges`` or ``budget_refusals``."""

    def _now(self) -> float:
        """Return the time in seconds. It never steps back."""

    def _draw(self) -> float:
        """Draw a number from 0.0 up to but not including 1.0."""

    @property
    def _clock(self) -> ManualClock | None:
        """The clock, if it is moved by hand."""

    @property
    def _execution(self) -> Execution:
        """The options of calls, and who is told of them."""

    # --- outcomes ---
    def record_success(self, deployment_id: str, /, *, tokens: int = 0, latency: float | None = None) -> None:
        """Report a success of a request that was sent without a lease: it counts as one request of this
        minute.

        Args:
            deployment_id: The deployment that served it.
            tokens: The tokens it used, at least 0.
            latency: The seconds that it took; None for no sample.

        Raises:
            DeploymentNotFound: There is none with this id.
            ConfigurationError: ``tokens`` is negative or too large, or ``latency`` negative or not finite.
        """

    def record_failure(
        self,
        deployment_id: str,
        /,
        kind: FailureKind | _FailureKindName = "error",
        *,
        retry_after: float | None = None,
        scope: Literal["deployment", "account"] | None = None,
    ) -> None:
        """Report a failure of a request that was sent without a lease: it counts as one request of this
        minute.

        Args:
            deployment_id: The deployment that failed.
            kind: What went wrong (see :class:`turnout.FailureKind`).
            retry_after: As for :meth:`Lease.failure`.
            scope: As for :meth:`Lease.failure`.

        Raises:
            DeploymentNotFound: There is none with this id.
            ConfigurationError: ``kind`` or ``scope`` is unknown, or ``retry_after`` negative or not finite.
        """

    def observe(self, deployment_id: str, headers: Any, /) -> None:
        """Record what an answer's headers say about the provider's limits, for requests that were sent
        without a lease.

        Args:
            deployment_id: The deployment that answered.
            headers: As for :meth:`Lease.observe`.

        Raises:
            DeploymentNotFound: There is none with this id.
        """

    def cool_down(self, deployment_id: str, seconds: float, /) -> None:
        """Take a deployment out for a while. A cooldown that already lasts longer is not shortened.

        Args:
            deployment_id: The deployment.
            seconds: How long, finite and at least 0.

        Raises:
            DeploymentNotFound: There is none with this id.
            ConfigurationError: ``seconds`` is negative or not finite.
        """

    def report_health(self, deployment_id: str, healthy: bool, /) -> None:
        """Report what a health check of your own found.

        Args:
            deployment_id: The deployment.
            healthy: False takes it out until a later check reports True. True brings it back at once, on
                probation, also out of a cooldown. A deployment that is in service stays as it is. True also
                ends what the provider said before: waits, and what is left of the limits of the deployment
                and of its quotas.

        Raises:
            DeploymentNotFound: There is none with this id.
        """

    # --- events ---
    def subscribe(self, callback: Callable[[Event], object], /) -> Callable[[], None]:
        """Call ``callback`` with an :class:`turnout.Event` whenever a deployment or a group changes its
        state.

        It is called at the end of the call that caused the event, and may use the router. One thread at a
        time tells events, in their order. A call tells the events that were pending when it began to tell,
        but no more than 100. The next call tells the others, also those that were caused while another thread
        was telling. If more than 10,000 events are pending, the oldest are dropped:
        ``metrics().events_dropped`` counts them. An exception of the callback goes to `sys.unraisablehook`.
        Keep the callback short: the call waits for it.

        Args:
            callback: The function to call.

        Returns:
            A function without arguments that ends the subscription.

        Raises:
            TypeError: ``callback`` is not callable.
        """

    # --- inspection ---
    def stats(self, deployment_id: str, /) -> DeploymentStats:
        """Return a deployment's state at this moment.

        Args:
            deployment_id: Its id.

        Raises:
            DeploymentNotFound: There is none with this id.
        """

    def waiting(self, model_name: str, /) -> int:
        """Return how many calls wait for capacity now.

        Args:
            model_name: The model name or an alias.

        Raises:
            ModelNotFound: No deployment serves the model.
        """

    def snapshot(self) -> dict[str, list[Any]]:
        """Return every deployment's state as columns: the fields of :class:`turnout.DeploymentStats`, one
        value for each deployment.

        ``pandas.DataFrame(router.snapshot())`` and similar classes take it as it is.
        """

    def metrics(self) -> RouterMetrics:
        """Return totals over the deployments that are registered now."""

    @property
    def strategy(self) -> Strategy:
        """The strategy of every model name that has none of its own."""

    @property
    def tiers(self) -> bool:
        """Whether the strategies pick among the candidates of the lowest priority only."""

    @property
    def default_tag(self) -> str | None:
        """The tag of the deployments that serve requests without tags; None if there is no such tag."""

    @property
    def strategies(self) -> dict[str, Strategy]:
        """The strategies of single model names."""

@final
class RoutingContext:
    """An immutable snapshot of one candidate: all that a strategy sees.

    Args:
        deployment_id: The candidate's id.
        weight: Relative share, 0 to 2**32 - 1.
        priority: Rank, lower first, 0 to 2**32 - 1.
        active_requests: Requests in flight, 0 to 2**32 - 1.
        tpm_current: Tokens this minute, 0 to 2**64 - 1.
        tpm_limit: Most tokens in a minute; None or 0 for no limit.
        rpm_current: Requests this minute, 0 to 2**64 - 1.
        rpm_limit: Most requests in a minute; None or 0 for no limit.
        avg_latency_us: Smoothed latency in microseconds; 0 for unknown.
        input_price: The price of a million tokens of prompts, from 0 to 1e9 in any one currency; None for
            unknown. If only one of the two prices is given, the other one is 0.
        output_price: The price of a million tokens of answers, likewise.

    Raises:
        ConfigurationError: A number is out of range.
        TypeError: A value is of the wrong type.
    """

    def __new__(
        cls,
        *,
        deployment_id: str,
        weight: int = 1,
        priority: int = 0,
        active_requests: int = 0,
        tpm_current: int = 0,
        tpm_limit: int | None = None,
        rpm_current: int = 0,
        rpm_limit: int | None = None,
        avg_latency_us: int = 0,
        input_price: float | None = None,
        output_price: float | None = None,
    ) -> Self: ...
    @property
    def deployment_id(self) -> str:
        """The candidate's id."""

    @property
    def weight(self) -> int:
        """Relative share."""

    @property
    def priority(self) -> int:
        """Rank, lower first."""

    @property
    def active_requests(self) -> int:
        """Requests in flight."""

    @property
    def tpm_current(self) -> int:
        """Tokens this minute."""

    @property
    def tpm_limit(self) -> int | None:
        """Most tokens in a minute."""

    @property
    def rpm_current(self) -> int:
        """Requests this minute."""

    @property
    def rpm_limit(self) -> int | None:
        """Most requests in a minute."""

    @property
    def avg_latency_us(self) -> int:
        """Smoothed latency in microseconds; 0 for unknown."""

    @property
    def input_price(self) -> float | None:
        """The price of a million tokens of prompts; None for unknown."""

    @property
    def output_price(self) -> float | None:
        """The price of a million tokens of answers; None for unknown."""

    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class RoundRobinCounters:
    """The counters of :func:`turnout.strategies.round_robin`, one for each model name. Threads may share
    them.
    """

    def __new__(cls) -> Self: ...

@final
class _RetryBudget:
    """The budget that the further attempts of a router's calls are paid from."""

    def deposit(self) -> None:
        """Pay in the share of a call."""

    def withdraw(self, attempts: int, /) -> bool:
        """Take out attempts, all or none. Return whether there were so many."""

    def put_back(self, attempts: int, /) -> None:
        """Give back attempts that did not begin."""

    def balance(self) -> int:
        """Return how many attempts can be taken out now."""

@final
class _RequestScan:
    """What the body of a request says at its top. The last member of a name wins."""

    @property
    def model(self) -> str | None:
        """The model, if it is a string."""

    @property
    def stream(self) -> bool:
        """Whether ``stream`` is true."""

    @property
    def most_output(self) -> int | None:
        """Most output tokens: the first whole number of ``max_completion_tokens``, ``max_output_tokens`` and
        ``max_tokens``, at most 2**64 - 1.
        """

    @property
    def include_usage(self) -> bool:
        """Whether ``stream_options.include_usage`` is true."""

    @property
    def has_stream_options(self) -> bool:
        """Whether ``stream_options`` is there and not null."""

    @property
    def conversation(self) -> str | None:
        """The id of the conversation that the request is a part of, if it is a string, alone or in an
        object.
        """

    @property
    def previous_response_id(self) -> str | None:
        """The response that this one follows, if it is a string."""

    @property
    def store(self) -> bool:
        """Whether ``store`` is true."""

    @property
    def background(self) -> bool:
        """Whether ``background`` is true."""

    @property
    def inlined_files(self) -> int:
        """Strings that hold files: URLs ``data:…;base64,…``, and values of ``data`` or ``file_data`` of more
        than 1,024 bytes.
        """

    @property
    def inlined_bytes(self) -> int:
        """Bytes of these strings in the body."""

@final
class _StreamScanner:
    """Reads an answer in server-sent events while it is handed on.

    Of an event up to 1 MiB are kept. A longer one is handed on unread, and counts as content.

    Args:
        dialect: Whose events they are: ``"openai"`` (chat, completions, Responses) or ``"anthropic"``.
        drop_usage: Take the chunk out that a chat of OpenAI sends for ``include_usage``: no choices, and a
            ``usage``. Then each event is held back until it is over.

    Raises:
        ConfigurationError: There is no such dialect.
        TypeError: A value is of the wrong type.
    """

    def __new__(cls, dialect: Literal["openai", "anthropic"], drop_usage: bool) -> Self: ...
    def feed(self, chunk: bytes, /) -> bytes:
        """Take the next bytes, cut anywhere.

        Args:
            chunk: The bytes.

        Returns:
            What the client gets: the chunk itself, if nothing of it is dropped or held back.
        """

    def finish(self) -> bytes:
        """Take the end of the body. An event that it cuts off counts too.

        Returns:
            What was held back.
        """

    @property
    def has_event(self) -> bool:
        """Whether an event with data was seen that is no ping."""

    @property
    def error(self) -> bytes | None:
        """The data of the first error; empty if it has more than 1 MiB."""

    @property
    def error_is_first(self) -> bool:
        """Whether the error was the first event that is no ping."""

    @property
    def ended(self) -> bool:
        """Whether the last event of the stream was seen: ``[DONE]``, the end by its type, or an error."""

    @property
    def finished(self) -> bool:
        """Whether the model said why it stopped: ``finish_reason`` or ``stop_reason``."""

    @property
    def usage(self) -> tuple[int, int, int] | None:
        """The tokens that the answer says it used, as ``_read_answer`` returns them."""

    @property
    def deltas(self) -> int:
        """Events with content: all but pings, errors, ends, the usage, and those that frame the content."""

@final
class _Books:
    """The books of a shared store: what every process holds of every limit."""

    def __new__(cls) -> Self: ...
    def sync(self, owner: str, process: str, numbers: Sequence[int], *, now: int, run: int, life: int, learn: int) -> list[int]:
        """Handle a message.

        Args:
            owner: The deployment or quota that it is about.
            process: The process that speaks.
            numbers: The message, as the numbers of the wire.
            now: The store's time, in microseconds.
            run: A name of the store's run. Another run may have lost what an earlier one was told.
            life: A name for a life that begins now, if one does.
            learn: The microseconds for which nothing is granted after a loss.

        Returns:
            The reply, as the numbers of the wire.

        Raises:
            ConfigurationError: If the numbers are not those of a message.
        """

    def bury(self, process: str) -> None:
        """Forget a process that has ended."""

    @property
    def news(self) -> int:
        """How often something changed that a process may wait for."""

@final
class Memory:
    """A store in the memory of this process, for tests.

    Several routers of the process share limits through it, as routers of several processes do through a file
    or a server. It answers at once, loses nothing, and follows the clock of the router that asks. So under a
    :class:`turnout.ManualClock` the same calls give the same results.

    Args:
        ttl: Seconds after which a router that no longer speaks is taken for dead, at least 1.
        busy_ttl: Seconds for which its places in flight stay taken after that.
        horizon: Seconds of its own demand that a router holds, above 0 and at most ``ttl``.
        patience: Seconds that an acquire that would not wait waits for an answer. This store answers at once.
        on_loss: What a router may use while the store is lost: ``"closed"``, ``"share"`` or ``"open"``. This
            store is never lost.

    Raises:
        ConfigurationError: A value is out of range.
        TypeError: A value is of the wrong type.

    Example:
        >>> from turnout import Deployment, ManualClock, Router
        >>> from turnout.shared import Memory
        >>> eu, store, clock = Deployment("eu", "m", rpm_limit=2), Memory(), ManualClock()
        >>> one, other = (Router([eu], shared=store, clock=clock) for _ in range(2))
        >>> one.acquire("m").release()
        True
        >>> other.acquire("m").release()
        True
        >>> one.acquire("m")
        Traceback (most recent call last):
            ...
        turnout.exceptions.RateLimitExceeded: ...
    """

    def __new__(
        cls,
        *,
        ttl: float = 10.0,
        busy_ttl: float = 60.0,
        horizon: float = 0.25,
        patience: float = 0.05,
        on_loss: Literal["closed", "share", "open"] = "share",
    ) -> Self: ...
    def exchange(self, batch: Sequence[tuple[str, str, Sequence[int]]], /) -> list[list[int]]:
        """Handle messages, in their order, by the wall clock.

        Args:
            batch: An owner, a process and the numbers of the wire for each message.

        Returns:
            The replies, as the numbers of the wire.

        Raises:
            ConfigurationError: Some numbers are not those of a message.
        """

    def news(self) -> int:
        """Return how often something changed that a router may wait for."""

@final
class _Batch:
    """Messages on their way to a shared store."""

    @property
    def messages(self) -> list[tuple[str, str, list[int]]]:
        """The messages: the owner, the process and the numbers of each."""

@final
class _Desk:
    """The talk of a router with a shared store. A thread carries it."""

    def batch(self) -> _Batch | None:
        """Return the messages that are due; None if there are none."""

    def farewell(self) -> _Batch | None:
        """Return the messages by which the process gives everything back; None if it has nothing."""

    def take(self, batch: _Batch, replies: Sequence[Sequence[int] | None], /) -> None:
        """Take the replies to a batch: one for each message, None for one that was lost."""

    def lose(self, batch: _Batch, /) -> None:
        """Note that the store did not answer a batch."""

    def fend(self) -> None:
        """Do what is wanted while the store is lost."""

    def hear_news(self) -> None:
        """Let all that were refused something ask again."""

    def ring(self) -> None:
        """Wake the thread that carries."""

    def rest(self, news: bool, /) -> None:
        """Sleep until somebody rings, or until a look is due. ``news``: the store has to be asked for it."""

    def sleep(self, seconds: float, /) -> None:
        """Sleep until somebody rings, at most for so many seconds."""

    @property
    def is_closed(self) -> bool:
        """Whether the talk is over."""

    def close(self) -> None:
        """End the talk."""

    def open(self) -> None:
        """Begin the talk again."""

@final
class _FileLedger:
    """The books of a shared store in a file, for the processes of one host."""

    def __new__(cls, path: str | PathLike[str], *, learn: int, has_own_folder: bool = False) -> Self:
        """Make the store. Its file is opened when it is first used.

        Args:
            path: The file.
            learn: The microseconds for which nothing is granted after a loss.
            has_own_folder: Whether the file's folder is made, and refused if other users may use it.
        """

    def exchange(self, batch: Sequence[tuple[str, str, Sequence[int]]], /) -> list[list[int]]:
        """Handle messages under one lock, for which it waits at most half a second.

        Args:
            batch: An owner, a process and the numbers of the wire for each message.

        Returns:
            The replies, as the numbers of the wire.

        Raises:
            ConfigurationError: If some numbers are not those of a message.
            StoreLost: If the file cannot be used.
        """

    def news(self) -> int:
        """Return another number if something happened that a process may wait for."""

    def close(self) -> None:
        """Close the file. It is opened again when it is next used."""

def _process_name() -> str:
    """Make a name for this process, as shared stores know it."""

@final
class _Waiter:
    """One task that waits for a lease."""

    def acquire_at_once(self) -> Lease | None:
        """Return a lease if nobody waits and there is room. Otherwise the task has to wait: poll."""

    def poll(self, wake: Callable[[], object], /) -> Lease | float:
        """Return the lease, or the seconds after which to look again unless ``wake`` is called before."""

    def cancel(self) -> None:
        """Give up the place, and the lease if there is one that was not returned."""

def _at_exit() -> None:
    """Run Python code in no other thread than this one from now on: the interpreter ends."""

def _before_fork() -> None:
    """Wait until no call holds a lock without the GIL, and let none begin, before this thread forks."""

def _after_fork_in_parent() -> None:
    """Let calls give up the GIL again, in the process that has forked."""

def _after_fork() -> None:
    """Forget, in a forked child, what belongs to the parent: its requests in flight, its random draws, its
    threads.
    """

def _scan_request(body: bytes, /) -> _RequestScan | None:
    """Read what a router has to know of a request's body.

    Args:
        body: The body: what ``json.loads`` takes. Inside of its strings all is taken but in those that are
            returned.

    Returns:
        What it says; None if it is no JSON object.

    Raises:
        TypeError: The body is not bytes.
    """

def _rewrite_request(body: bytes, scan: _RequestScan, model: str | None, include_usage: bool, /) -> bytes:
    """Return the body with another model, and with the stream's usage included. All other bytes stay.

    Args:
        body: The body.
        scan: What ``_scan_request`` found in it.
        model: The name that takes the place of each ``model`` at the top; a body without one stays without.
            None for no change.
        include_usage: Make ``stream_options.include_usage`` true. Values of a wrong type stay.

    Returns:
        The new body; the same object if nothing changes.

    Raises:
        ConfigurationError: The scan is of a body of another length, or the model has surrogates.
        TypeError: A value is of the wrong type.
    """

def _read_answer(body: bytes, /) -> tuple[tuple[int, int, int] | None, bool]:
    """Read the tokens that an answer says it used, and whether it is an error.

    Args:
        body: The whole body.

    Returns:
        Input tokens, output tokens, and the input tokens of a cache that are counted apart (Anthropic); None
        if it has no ``usage`` with numbers, or if it is no JSON object. And whether it is an error, whatever
        its status: an ``error`` at the top that is not null, or ``"type": "error"``.

    Raises:
        TypeError: The body is not bytes.
    """

_Limit: TypeAlias = tuple[str, int | None, int | None, float | None]
_Heard: TypeAlias = tuple[float | None, tuple[_Limit, ...], float | None, Literal["account"] | None]

def _read_plain_headers(headers: object, now: str | int | None, /) -> _Heard | None:
    """Read headers, if they are a dict of texts, or a list or tuple of pairs of texts.

    Args:
        headers: The headers. The case of their names does not matter.
        now: The present: the ``Date`` of an answer, or microseconds since the epoch. None for the ``Date``
            among the headers, or else that of the clock.

    Returns:
        The seconds to wait; the limits, each with its unit, how many are admitted, how many are left, and the
        seconds until that is over; the seconds until the last of the spent limits begins anew; and whether
        the wait is about the whole account. None if the headers are anything else.

    Raises:
        TypeError: ``now`` is of a wrong type.
    """

def _read_header_pairs(pairs: list[tuple[str, str]], now: str | int | None, /) -> _Heard:
    """Read headers that are pairs of texts.

    Args:
        pairs: The headers. Their texts may be of any class of texts.
        now: As for ``_read_plain_headers``.

    Returns:
        As from ``_read_plain_headers``.

    Raises:
        TypeError: A value is of a wrong type.
    """

def _is_read(name: str, /) -> bool:
    """Return whether the value of a header is read."""

def _read_number(said: str | float, /) -> float | None:
    """Read a plain number; None if it is no number, or not one from 0 to 1e9."""

def _read_time(said: str, /) -> float | None:
    """Read a time: the seconds from now, 0 for the past; None if it is no time."""

def _time_zone(name: str, /) -> str:
    """Return the name of a time zone as the IANA database writes it."""

def weighted_random(contexts: Sequence[RoutingContext], /) -> str | None:
    """Pick at random, each candidate with the probability weight / total weight; uniformly if every weight is
    0.

    Args:
        contexts: The candidates, in registration order.

    Returns:
        The chosen deployment's id, None without candidates.
    """

def least_busy(contexts: Sequence[RoutingContext], /) -> str | None:
    """Pick the candidate with the fewest active requests, ties uniformly at random.

    Args:
        contexts: The candidates, in registration order.

    Returns:
        The chosen deployment's id, None without candidates.
    """

def lowest_usage(contexts: Sequence[RoutingContext], /) -> str | None:
    """Pick the candidate with the lowest ``tpm_current * 100 / tpm_limit`` in whole percent, ties to the
    first.

    A limit of None or 0 counts as 0 percent.

    Args:
        contexts: The candidates, in registration order.

    Returns:
        The chosen deployment's id, None without candidates.
    """

def lowest_latency(contexts: Sequence[RoutingContext], /) -> str | None:
    """Pick the candidate with the lowest average latency, ties to the first.

    An unknown latency (0) counts as the mean of the known ones, rounded down.

    Args:
        contexts: The candidates, in registration order.

    Returns:
        The chosen deployment's id, None without candidates.
    """

def lowest_priority(contexts: Sequence[RoutingContext], /) -> str | None:
    """Pick the candidate with the lowest priority number, ties to the first.

    Args:
        contexts: The candidates, in registration order.

    Returns:
        The chosen deployment's id, None without candidates.
    """

def rate_limit_aware(contexts: Sequence[RoutingContext], /) -> str | None:
    """Pick the candidate that is farthest from its limits, ties to the first.

    The distance is the smaller of the remaining shares of tokens and of requests; a limit of None or 0 leaves
    a share of 1.

    Args:
        contexts: The candidates, in registration order.

    Returns:
        The chosen deployment's id, None without candidates.
    """

def cheapest(
    contexts: Sequence[RoutingContext],
    /,
    *,
    tokens: int = 0,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
) -> str | None:
    """Pick the candidate that costs least for a request, ties uniformly at random.

    The cost is the sum of both kinds of tokens, each times its price, with at least one token of each kind.
    If only ``tokens`` is known, one half of them is the prompt; with 0 both halves are the same. A candidate
    without prices comes after all that have some.

    Args:
        contexts: The candidates, in registration order.
        tokens: The tokens of the request, 0 for unknown.
        input_tokens: The tokens of the prompt; given together with ``output_tokens`` or with ``tokens``.
        output_tokens: The tokens of the answer, likewise.

    Returns:
        The chosen deployment's id, None without candidates.
    """

def round_robin(model_name: str, contexts: Sequence[RoutingContext], counters: RoundRobinCounters, /) -> str | None:
    """Pick the candidates in turn: the model name's counter modulo their number. A single candidate does not
    advance the counter.

    Args:
        model_name: The model name, which has a counter of its own.
        contexts: The candidates, in registration order.
        counters: The counters.

    Returns:
        The chosen deployment's id, None without candidates.
    """

def _write_unraisable(error: BaseException, source: object, /) -> None:
    """Report an exception that nobody can catch."""

def build_routing_contexts(router: Router, candidate_ids: Iterable[str], /) -> list[RoutingContext]:
    """Take a snapshot of some deployments for the functions of this module.

    Args:
        router: The router that holds them.
        candidate_ids: Their ids; the order is kept.

    Returns:
        One routing context for each id. If a time to the first token is known of one of them,
        ``avg_latency_us`` is such a time in all of them; see :meth:`Lease.first_token`.

    Raises:
        DeploymentNotFound: There is none with one of the ids.
    """
