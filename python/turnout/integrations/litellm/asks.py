"""What a request to a Router asks for: wishes and options for turnout, and keywords for LiteLLM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import litellm

from turnout._core import Router
from turnout.exceptions import ConfigurationError, ModelNotFound
from turnout.execution.options import Fallbacks, Options, Retry, Timeouts
from turnout.integrations.litellm.sizes import size_of

__all__ = ["Ask", "Usual", "read", "seconds", "usual"]

# What turnout reads of a request. LiteLLM does not get it.
_OURS = (
    *("num_retries", "max_retries", "retry_policy", "timeout", "request_timeout", "stream_timeout", "tags", "specific_deployment"),
    *("fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "disable_fallbacks", "max_fallbacks", "priority"),
)


# Functions whose ``metadata`` goes to the provider. What is for callbacks stands beside it.
_SENT_METADATA = ("responses", "anthropic_messages", "generate_content", "batch", "file")


_TIMEOUTS = ("timeout", "request_timeout")
# Failures that a request asks for, to try out its fallbacks.
_SIMULATED = {
    "mock_testing_fallbacks": "error",
    "mock_testing_context_fallbacks": "context_window",
    "mock_testing_content_policy_fallbacks": "content_policy",
}


class Usual(NamedTuple):
    """What holds for each request, and is no option of turnout.

    Attributes:
        keywords: What LiteLLM gets, where a request does not say it.
        filters_tags: Whether tags of a request choose deployments. Otherwise they are for callbacks alone.
        matches_any: Whether one of them is enough.
        longest: The most seconds that a deployment names for itself; None if none does.
        fallbacks: The model names that serve a request for a name that nobody serves.
    """

    keywords: Mapping[str, Any]
    filters_tags: bool
    matches_any: bool
    longest: float | None
    fallbacks: tuple[str, ...]


class Ask(NamedTuple):
    """A request.

    Attributes:
        model: The model name that turnout is asked for.
        keywords: What LiteLLM gets.
        metadata: What the caller says about the request, for the callbacks of LiteLLM.
        bucket: The keyword under which LiteLLM takes that.
        wishes: Keywords of :meth:`turnout.Router.acquire`.
        options: The options of this request, as for :meth:`turnout.Router.call`.
        streams: Whether the answer is a stream.
        timeout: The bound of an attempt that the request itself names, in seconds or as an object of httpx;
            None without one.
        usual_timeout: The bound of an attempt at a deployment that names none.
        changes: Keywords for LiteLLM that hold for one fallback alone, by its model name.
    """

    model: str
    keywords: dict[str, Any]
    metadata: dict[str, Any]
    bucket: str
    wishes: dict[str, Any]
    options: dict[str, Any]
    streams: bool
    timeout: Any
    usual_timeout: float | None
    changes: Mapping[str, Mapping[str, Any]]


def usual(settings: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> Usual:
    """Read what holds for each request.

    Args:
        settings: The settings of the Router.
        entries: Its deployments.

    Returns:
        What holds.
    """
    named = [seconds(entry.get("litellm_params", {}).get(name)) for entry in entries for name in (*_TIMEOUTS, "stream_timeout")]
    return Usual(
        settings.get("default_litellm_params") or {},
        bool(settings.get("enable_tag_filtering", False)),
        bool(settings.get("tag_filtering_match_any", True)),
        max((said for said in named if said is not None), default=None),
        tuple(settings.get("default_fallbacks") or _of_any(settings.get("fallbacks"))),
    )


def _of_any(fallbacks: Any) -> Iterable[str]:
    """Returns the fallbacks of any name, which stand under ``*``."""
    chains = fallbacks if isinstance(fallbacks, list) else []
    return next((chain["*"] for chain in chains if isinstance(chain, Mapping) and isinstance(chain.get("*"), list)), ())


def read(router: Router, usual: Usual, name: str, model: str, given: Mapping[str, Any]) -> Ask:
    """Read a request.

    Args:
        router: The turnout router.
        usual: What holds for each request.
        name: The name of LiteLLM's function.
        model: The name that was asked for: a model name, an alias, or the id of a deployment.
        given: The arguments of the request.

    Returns:
        What it asks for.

    Raises:
        TypeError: A value is of the wrong type.
        turnout.ConfigurationError: A value is out of range.
    """
    if not isinstance(model, str):
        raise TypeError(f"model must be a str, not {model!r} ({type(model).__name__})")
    given = {**usual.keywords, **given}
    taken = {*_OURS, *_SIMULATED}
    keywords = {name: value for name, value in given.items() if name not in taken and value is not None}
    bucket = "litellm_metadata" if any(part in name for part in _SENT_METADATA) else "metadata"
    metadata = keywords.pop(bucket, None) or {}
    wishes: dict[str, Any] = {"tokens": size_of(keywords)}
    if usual.filters_tags and (tags := given.get("tags") or metadata.get("tags")):
        wishes["tags"], wishes["tags_match"] = tags, "any" if usual.matches_any else "all"
    if isinstance(given.get("priority"), int):
        wishes["priority"] = given["priority"]
    model, only = _named(router, usual, model)
    if only is not None:
        wishes["only"] = only
    streams = bool(given.get("stream"))
    whole = router._execution.of(router, model, Options())
    assert isinstance(whole.timeouts, Timeouts)
    assert isinstance(whole.fallbacks, Fallbacks)
    changes: dict[str, dict[str, Any]] = {}
    options = _options(whole, model, given, changes)
    if (simulated := next((kind for said, kind in _SIMULATED.items() if given.get(said)), None)) is not None:
        model = _simulated(model, simulated, options.get("fallbacks", whole.fallbacks))
    timeout = given.get("stream_timeout") if streams else None
    if timeout is None:
        timeout = next((given[name] for name in _TIMEOUTS if given.get(name) is not None), None)
    of_router = whole.timeouts.first_token if streams and whole.timeouts.first_token is not None else whole.timeouts.attempt
    longest = max((said for said in (seconds(timeout), usual.longest, of_router) if said is not None), default=None)
    if longest is not None:
        # The bound of an attempt is known once its deployment is: the setting of a deployment comes before
        # that of the router, even where it is longer.
        total = whole.timeouts.total
        total = None if total is None else max(total, longest)
        options["timeouts"] = replace(whole.timeouts, attempt=None, first_token=None, total=total)
    return Ask(model, keywords, metadata, bucket, wishes, options, streams, timeout, of_router, changes)


def _named(router: Router, usual: Usual, name: str) -> tuple[str, list[str] | None]:
    """Returns the model name of a name; and the only deployments, if they are named."""
    try:
        router.resolve(name)
    except ModelNotFound:
        if name in router:
            return router.get_deployment(name).model_name, [name]
        # LiteLLM's Router takes the model of a deployment too, with its provider.
        named = [one for one in router.deployments() if one.metadata.get("litellm_params", {}).get("model") == name]
        if named:
            group = named[0].model_name
            return group, [one.deployment_id for one in named if one.model_name == group]
        # The rest of them are the fallbacks of the first one.
        return next(iter(usual.fallbacks), name), None
    else:
        if name in router and router.get_deployment(name).model_name != router.resolve(name):
            return router.get_deployment(name).model_name, [name]
    return name, None


def seconds(said: Any) -> float | None:
    """Return a number of seconds, also one in a text.

    Args:
        said: What a request or a deployment says.

    Returns:
        The seconds; None for anything else, and for 0, which LiteLLM takes for no bound.
    """
    if isinstance(said, bool) or not isinstance(said, (int, float, str)):
        return None
    try:
        return float(said) or None
    except ValueError:
        return None


def _simulated(model: str, kind: str, fallbacks: Fallbacks) -> str:
    """Returns the fallback that a failure of this kind leads to. No deployment is asked or blamed for it."""
    names = fallbacks.after(model, kind)
    if names:
        return names[0]
    error = {"context_window": litellm.ContextWindowExceededError, "content_policy": litellm.ContentPolicyViolationError}
    made = error.get(kind, litellm.InternalServerError)
    raise made(message=f"a failure of {model!r} is simulated, and it has no fallback", model=model, llm_provider="")


def _options(usual: Options, model: str, given: Mapping[str, Any], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the options that a request has of its own, and notes the changes that its fallbacks make. What
    it does not say stays as the router has it.
    """
    assert isinstance(usual.retry, Retry)
    assert isinstance(usual.fallbacks, Fallbacks)
    options: dict[str, Any] = {}
    retries = given.get("num_retries", given.get("max_retries"))
    if retries is not None:
        if isinstance(retries, bool) or not isinstance(retries, int):
            raise TypeError(f"num_retries must be an int, not {retries!r} ({type(retries).__name__})")
        if retries < 0:
            raise ConfigurationError(f"num_retries must be at least 0, not {retries}")
        options["retry"] = replace(usual.retry, attempts=retries + 1)
    if given.get("disable_fallbacks"):
        options["fallbacks"] = Fallbacks()
    else:
        said = {name: _chains(model, name, given.get(name), changes) for name in ("fallbacks", *_KINDS)}
        if any(chains is not None for chains in said.values()):
            general = usual.fallbacks.general if said["fallbacks"] is None else said["fallbacks"]
            kinds = {kind: getattr(usual.fallbacks, kind) if said[name] is None else said[name] for name, kind in _KINDS.items()}
            options["fallbacks"] = Fallbacks(general, **kinds)
    return options


_KINDS = {"context_window_fallbacks": "context_window", "content_policy_fallbacks": "content_policy"}


def _chains(model: str, name: str, said: Any, changes: dict[str, dict[str, Any]]) -> dict[str, list[str]] | None:
    """Returns fallbacks of one request: names, names with keywords of their own, or mappings of a name to
    names, as LiteLLM takes them.
    """
    if said is None:
        return None
    if not isinstance(said, (list, tuple)):
        raise TypeError(f"{name} must be a list of model names or of mappings, not {said!r} ({type(said).__name__})")
    chains: dict[str, list[str]] = {}
    for one in said:
        if isinstance(one, str):
            chains.setdefault(model, []).append(one)
        elif isinstance(one, Mapping) and isinstance(one.get("model"), str):
            chains.setdefault(model, []).append(one["model"])
            changes[one["model"]] = {key: value for key, value in one.items() if key != "model"}
        elif isinstance(one, Mapping) and all(isinstance(targets, (list, tuple)) for targets in one.values()):
            for origin, targets in one.items():
                chains.setdefault(origin, []).extend(targets)
        else:
            raise TypeError(f"{name} must be a list of model names or of mappings to lists of them, not {said!r}")
    if "*" in chains:
        chains.setdefault(model, chains.pop("*"))
    return chains
