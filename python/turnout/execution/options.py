"""Options of whole requests: how often, for how long and where else a request is tried. They are frozen and
checked when they are made.

The numbers of :class:`Budget` are those of Finagle's ``RetryBudget``. Full jitter is the one of the AWS
Architecture Blog, "Exponential Backoff And Jitter".
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

from turnout._checks import flag, number, seconds, whole
from turnout.enums import FailureKind
from turnout.exceptions import ConfigurationError

__all__ = ["Backoff", "Budget", "Fallbacks", "Hedge", "Options", "Retry", "Timeouts"]

_JITTERS = ("full", "none")

RETRIED = frozenset(
    (
        FailureKind.AUTH,
        FailureKind.CONNECTION,
        FailureKind.ERROR,
        FailureKind.MANUAL,
        FailureKind.NOT_FOUND,
        FailureKind.RATE_LIMIT,
        FailureKind.TIMEOUT,
    )
)
"""The kinds of failure after which another attempt may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long a call pauses before it tries the same deployments again. It does not pause before it tries
    another deployment.

    Args:
        base: Seconds of the first pause.
        factor: The factor by which each further pause is longer, at least 1.
        cap: The most seconds of a pause.
        jitter: ``"full"``: each pause is drawn uniformly from 0 to that length. ``"none"``: it has that
            length.

    Raises:
        ConfigurationError: A value is out of range.
        TypeError: A value is of the wrong type.
    """

    base: float = 0.1
    factor: float = 2.0
    cap: float = 8.0
    jitter: Literal["full", "none"] = "full"

    def __post_init__(self) -> None:
        seconds(self, "base")
        number(self, "factor", 1.0, 1e6, "a number from 1 to 1e6")
        seconds(self, "cap")
        if self.jitter not in _JITTERS:
            raise ConfigurationError(f"jitter must be 'full' or 'none', not {self.jitter!r}")

    def pause(self, nth: int, draw: Callable[[], float]) -> float:
        """Return the seconds of a pause.

        Args:
            nth: The number of the pause, from 0.
            draw: Draws a number from 0.0 up to but not including 1.0.

        Returns:
            The seconds.
        """
        try:
            length = min(self.cap, self.base * self.factor**nth)
        except OverflowError:
            length = self.cap
        return length * draw() if self.jitter == "full" else length


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many further attempts all calls together may make. So retries cannot multiply the load of an
    outage.

    A call pays in ``share`` of an attempt. Each attempt beyond a call's first takes out one; after a timeout
    it takes out two. What is not taken out within ``window`` expires. ``per_second`` is paid in all the time.
    Since the first call, the further attempts are never more than ``share`` times the calls, plus
    ``per_second`` times the seconds. After a quiet time up to ``per_second`` times ``window`` may begin at
    once.

    A router has one budget for all its threads and loops. Options with other numbers have a budget of their
    own, one for each set of numbers.

    Args:
        share: The further attempts that each call pays for, 0 to 100.
        per_second: The further attempts that each second pays for, 0 to 1e6.
        window: Seconds for which what was paid in can be used, 1 to 3600.

    Raises:
        ConfigurationError: A value is out of range.
        TypeError: A value is of the wrong type.
    """

    share: float = 0.2
    per_second: float = 10.0
    window: float = 10.0

    def __post_init__(self) -> None:
        number(self, "share", 0.0, 100.0, "a number from 0 to 100")
        number(self, "per_second", 0.0, 1e6, "a number from 0 to 1e6")
        number(self, "window", 1.0, 3600.0, "a number of seconds from 1 to 3600")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Whether and how a failed attempt is followed by another one.

    Another deployment of the group is tried at once. If there is none, the same deployments are tried again
    after a pause. A deployment that has refused the credentials, or does not have the model, is not tried
    again in the same call.

    Args:
        attempts: The most attempts for one model name, the first one included, at least 1. Each fallback has
            as many.
        kinds: The kinds of failure after which another attempt may help. A request that is wrong is never
            tried again, whatever is given here.
        backoff: The pauses before the same deployments are tried again.
        budget: The bound on the further attempts of all calls together; None for no bound.
        same_deployment: Whether a deployment may be tried again in the same call.

    Raises:
        ConfigurationError: A value is out of range.
        TypeError: A value is of the wrong type.
    """

    attempts: int = 3
    kinds: Collection[FailureKind | str] = RETRIED
    backoff: Backoff = Backoff()
    budget: Budget | None = Budget()
    same_deployment: bool = True

    def __post_init__(self) -> None:
        whole(self, "attempts", 1, 2**32 - 1)
        object.__setattr__(self, "kinds", _kinds(self.kinds))
        _instance(self, "backoff", Backoff)
        if self.budget is not None:
            _instance(self, "budget", Budget)
        flag(self, "same_deployment")


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """Which other model names serve a request that its own group cannot serve.

    Each argument maps a model name to the names that take its place, in order. A call visits each name at
    most once: first those of the name that was asked for, then those of the names that were visited. A name
    that nobody serves is an error when a call reaches it.

    Args:
        general: For any failure that another group may mend.
        context_window: For prompts that are too long for the model. Without a name here, such an error is
            raised as it is.
        content_policy: For content that was refused. Without a name here, such an error is raised as it is.
        rate_limit: If all deployments are at their rate limits. Names that are not given here follow
            ``general``.

    Raises:
        ConfigurationError: A name is empty.
        TypeError: A value is of the wrong type.
    """

    general: Mapping[str, Iterable[str]] | None = None
    context_window: Mapping[str, Iterable[str]] | None = None
    content_policy: Mapping[str, Iterable[str]] | None = None
    rate_limit: Mapping[str, Iterable[str]] | None = None

    def __init__(
        self,
        general: Mapping[str, Iterable[str]] | None = None,
        *,
        context_window: Mapping[str, Iterable[str]] | None = None,
        content_policy: Mapping[str, Iterable[str]] | None = None,
        rate_limit: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        given = {"general": general, "context_window": context_window, "content_policy": content_policy, "rate_limit": rate_limit}
        for name, mapping in given.items():
            object.__setattr__(self, name, _names(name, mapping))

    def after(self, model_name: str, kind: FailureKind | str | None) -> tuple[str, ...]:
        """Return the names that take the place of a model name.

        Args:
            model_name: The model name.
            kind: The kind of the last failure; None if no deployment was available.

        Returns:
            The names, in order.
        """
        if kind == FailureKind.CONTEXT_WINDOW:
            chosen = self.context_window
        elif kind == FailureKind.CONTENT_POLICY:
            chosen = self.content_policy
        elif kind == FailureKind.RATE_LIMIT and model_name in (self.rate_limit or ()):
            chosen = self.rate_limit
        else:
            chosen = self.general
        return tuple((chosen or {}).get(model_name, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a request may take, in seconds. None means no bound.

    Args:
        total: All of it: waits for capacity, attempts and pauses. It ends at the first event of a stream.
        attempt: One attempt; for a stream, up to its first event.
        connect: The connection to a deployment. Transports keep it.
        first_token: An attempt of a stream, up to its first event. Transports keep it.
        idle: Two events of a stream. Transports keep it.
        capacity: The longest wait for a place, a limit or a cooldown; 0 for none.

    Raises:
        ConfigurationError: A value is out of range.
        TypeError: A value is of the wrong type.
    """

    total: float | None = 600.0
    attempt: float | None = None
    connect: float | None = 5.0
    first_token: float | None = None
    idle: float | None = 120.0
    capacity: float | None = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is not None:
                seconds(self, field.name, 0.0 if field.name == "capacity" else 0.001)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """A second attempt beside a slow one. The first answer wins, and the other attempt is cancelled. Two run
    at once at most, and a request that must be sent once is not hedged. Each
    hedge takes an attempt out of the budget. There is none while the group refuses requests.

    Asynchronous calls hedge. A thread cannot be cancelled, so calls in threads do not.

    Args:
        after: Seconds without an answer, or without the first event of a stream, after which the second
            attempt begins.

    Raises:
        ConfigurationError: A value is out of range.
        TypeError: A value is of the wrong type.
    """

    after: float

    def __post_init__(self) -> None:
        seconds(self, "after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of whole requests together. What is None is taken from the next wider options: those of the
    call, of :meth:`turnout.Router.options`, of the model name, of the router. At last come the defaults.

    Args:
        retry: Whether and how a failed attempt is followed by another one.
        fallbacks: Which other model names serve the request.
        timeouts: How long it may take.
        hedge: Whether a slow attempt gets a second one beside it.

    Raises:
        TypeError: A value is of the wrong type.

    Example:
        >>> from turnout import Options, Retry, Router
        >>> patient = Options(retry=Retry(attempts=5))
        >>> router = Router(retry=Retry(attempts=2), model_options={"embed": patient})
    """

    retry: Retry | None = None
    fallbacks: Fallbacks | None = None
    timeouts: Timeouts | None = None
    hedge: Hedge | None = None

    def __post_init__(self) -> None:
        for field, allowed in zip(fields(self), (Retry, Fallbacks, Timeouts, Hedge), strict=True):
            if getattr(self, field.name) is not None:
                _instance(self, field.name, allowed)

    def over(self, wider: "Options") -> "Options":
        """Return these options, with what is None taken from wider ones.

        Args:
            wider: The wider options.

        Returns:
            The options.
        """
        if self is NOTHING:  # so it is for most calls, and these are made and checked for each
            return wider
        return Options(
            retry=wider.retry if self.retry is None else self.retry,
            fallbacks=wider.fallbacks if self.fallbacks is None else self.fallbacks,
            timeouts=wider.timeouts if self.timeouts is None else self.timeouts,
            hedge=wider.hedge if self.hedge is None else self.hedge,
        )


_T = TypeVar("_T")


def _instance(options: object, name: str, allowed: type[_T]) -> None:
    value = getattr(options, name)
    if not isinstance(value, allowed):
        raise TypeError(f"{name} must be a {allowed.__name__}, not {value!r} ({type(value).__name__})")


def _kinds(kinds: object) -> frozenset[FailureKind]:
    allowed = f"any of {', '.join(sorted(RETRIED))}"
    if isinstance(kinds, str) or not isinstance(kinds, Iterable):
        raise TypeError(f"kinds must be an iterable of {allowed}, not {kinds!r} ({type(kinds).__name__})")
    read = set()
    for kind in kinds:
        if kind not in RETRIED:
            raise ConfigurationError(f"kinds must be {allowed}, not {kind!r}")
        read.add(FailureKind(kind))
    return frozenset(read)


def _names(argument: str, mapping: object) -> dict[str, tuple[str, ...]]:
    if mapping is None:
        return {}
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{argument} must map model names to lists of model names, not {mapping!r} ({type(mapping).__name__})")
    read = {}
    for model_name, names in mapping.items():
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise TypeError(f"{argument}[{model_name!r}] must be a list of model names, not {names!r} ({type(names).__name__})")
        read[_name(argument, model_name)] = tuple(_name(argument, name) for name in names)
    return read


def _name(argument: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a model name in {argument} must be a str, not {name!r} ({type(name).__name__})")
    if not name:
        raise ConfigurationError(f"a model name in {argument} must not be empty")
    return name


NOTHING = Options()
"""The options of calls without options of their own."""

DEFAULTS = Options(retry=Retry(), fallbacks=Fallbacks(), timeouts=Timeouts())
"""What holds where nothing is given. There is no hedge."""
