"""A Router in place of LiteLLM's: LiteLLM speaks to the providers, turnout picks, and carries each request to
its end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any

import litellm

from turnout._core import Router as Core
from turnout.config import check
from turnout.config.loaded import Loaded
from turnout.exceptions import ModelNotFound
from turnout.execution.attempts import Attempt, Run
from turnout.execution.call import begin
from turnout.execution.options import Timeouts
from turnout.integrations.litellm.asks import Ask, read
from turnout.integrations.litellm.errors import translated
from turnout.integrations.litellm.leases import follow
from turnout.integrations.litellm.params import plain, sent, with_ids

__all__ = ["Router"]


class Router:
    """Takes what ``litellm.Router`` takes, and has the methods of it that people call.

    Each request is carried to its end by turnout: retries at other deployments, fallbacks, time limits. Each
    attempt holds one lease, until the answer has come as a whole, or its stream has ended, failed or was
    dropped. LiteLLM makes one attempt a call, without retries of its own.

    Args:
        model_list: The deployments, as for ``litellm.Router``: mappings, or LiteLLM's ``Deployment`` objects.
        strict: Whether a setting that has no effect is an error. Otherwise one warning names them all.
        **settings: The settings of ``litellm.Router``. docs/litellm.md says what each of them means.

    Attributes:
        turnout: The turnout router beneath: its picks, its limits, ``stats``, ``explain``, ``subscribe``.

    Raises:
        turnout.ConfigurationError: Something is wrong. The text has a line for each problem.

    Example:
        >>> from turnout.integrations.litellm import Router
        >>> entry = {"model_name": "gpt-4o", "litellm_params": {"model": "openai/gpt-4o"}}
        >>> router = Router(model_list=[entry])
        >>> answer = router.completion("gpt-4o", [{"role": "user", "content": "Hello"}], mock_response="Hi")
        >>> answer.choices[0].message.content
        'Hi'
        >>> router.turnout.metrics().in_flight
        0
    """

    def __init__(self, model_list: Iterable[Any] | None = None, *, strict: bool = False, **settings: Any) -> None:
        self._strict = strict
        self._settings = {name: plain(value) for name, value in settings.items() if value is not None}
        self._entries = with_ids(plain(entry) for entry in model_list or ())
        loaded = self._load(self._entries)
        loaded.warn(stacklevel=2)
        self.turnout: Core = loaded.router()

    # --- deployments ---

    @property
    def model_list(self) -> list[dict[str, Any]]:
        """The deployments, as they were given, each with its id as ``model_info.id``."""
        return list(self._entries.values())

    @property
    def model_names(self) -> list[str]:
        """The model names, sorted."""
        return self.turnout.models()

    def get_model_names(self) -> list[str]:
        """Return the model names and aliases, sorted."""
        return sorted({*self.turnout.models(), *self.turnout.aliases()})

    def get_model_ids(self, model_name: str | None = None) -> list[str]:
        """Return the ids of the deployments that are in service.

        Args:
            model_name: Only those that serve this name; None for all.
        """
        try:
            return [one.deployment_id for one in self.turnout.deployments(model_name)]
        except ModelNotFound:
            return []

    def get_model_list(self, model_name: str | None = None) -> list[dict[str, Any]]:
        """Return the deployments, as they were given, each with its id as ``model_info.id``.

        Args:
            model_name: Only those that serve this name; None for all.
        """
        if model_name is None:
            return self.model_list
        return [self._entries[id_] for id_ in self.get_model_ids(model_name) if id_ in self._entries]

    def get_deployment(self, model_id: str) -> dict[str, Any] | None:
        """Return the deployment with an id; None without one."""
        return self._entries.get(model_id)

    def set_model_list(self, model_list: Iterable[Any]) -> None:
        """Replace all deployments. Counts, leases and cooldowns of ids that stay are kept.

        Args:
            model_list: As for the router.

        Raises:
            turnout.ConfigurationError: Something is wrong. Nothing is changed then.
        """
        entries = with_ids(plain(entry) for entry in model_list)
        self._load(entries).put_into(self.turnout)
        self._entries = entries

    def add_deployment(self, deployment: Any) -> Any:
        """Add a deployment, unless there is one with its id.

        Args:
            deployment: The deployment, as one of ``model_list``.

        Returns:
            It; None if there was one with its id.
        """
        id_ = _id_of(plain(deployment))
        if id_ is not None and id_ in self._entries:
            return None
        return self.upsert_deployment(deployment)

    def upsert_deployment(self, deployment: Any) -> Any:
        """Add a deployment, or replace the one with its id.

        Args:
            deployment: The deployment, as one of ``model_list``.

        Returns:
            It.
        """
        entry = plain(deployment)
        others = [known for id_, known in self._entries.items() if id_ != _id_of(entry)]
        self.set_model_list([*others, entry])
        return deployment

    def delete_deployment(self, id: str) -> dict[str, Any] | None:  # noqa: A002 - LiteLLM's name
        """Take a deployment out.

        Args:
            id: Its id.

        Returns:
            It; None if there was none.
        """
        entry = self._entries.get(id)
        if entry is not None:
            self.set_model_list([known for known in self._entries.values() if known is not entry])
        return entry

    def _load(self, entries: Mapping[str, Mapping[str, Any]]) -> Loaded:
        loaded = check({"model_list": list(entries.values()), "router_settings": self._settings})
        loaded.raise_for(strict=self._strict)
        # LiteLLM's Router refuses at once where all are busy, and callers count on that.
        timeouts = replace(loaded.options.get("timeouts") or Timeouts(), capacity=0.0)
        return loaded._replace(options={**loaded.options, "timeouts": timeouts})

    # --- picks ---

    def get_available_deployment(self, model: str, messages: Any = None, input: Any = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        """Pick a deployment without a call, and reserve nothing.

        Args:
            model: The model name.
            messages: The messages, for the size of the request.
            input: The input of an embedding, likewise.
            **kwargs: What a call takes.

        Returns:
            The deployment, as it was given.

        Raises:
            litellm.RateLimitError: None may be picked now.
            litellm.BadRequestError: Nobody serves the name.
        """
        given = {**kwargs, **{name: value for name, value in (("messages", messages), ("input", input)) if value is not None}}
        ask = read(self.turnout, model, given)
        with translated(ask.model):
            return self._entries[self.turnout.select(ask.model, **ask.wishes)]

    async def async_get_available_deployment(self, model: str, **kwargs: Any) -> dict[str, Any]:
        """Do what :meth:`get_available_deployment` does."""
        return self.get_available_deployment(model, **{name: value for name, value in kwargs.items() if name != "request_kwargs"})

    # --- calls ---

    def completion(self, model: str, messages: list[Any], **kwargs: Any) -> Any:
        """Do what ``litellm.completion`` does, at one of the deployments of a model name.

        Args:
            model: The model name, an alias, or the id of a deployment.
            messages: The messages.
            **kwargs: What ``litellm.completion`` takes, and ``num_retries``, ``timeout``, ``fallbacks``,
                ``context_window_fallbacks``, ``content_policy_fallbacks``, ``disable_fallbacks``,
                ``specific_deployment``, ``metadata={"tags": […]}`` for this request.

        Returns:
            The answer, or its stream, of LiteLLM's own classes.

        Raises:
            Exception: The error of the last attempt, of LiteLLM's own classes.
            litellm.RateLimitError: No deployment may serve the request now.
            litellm.BadRequestError: Nobody serves the name.
        """
        return self._call(litellm.completion, model, {"messages": messages, **kwargs})

    async def acompletion(self, model: str, messages: list[Any], **kwargs: Any) -> Any:
        """Do what :meth:`completion` does, in a task of asyncio."""
        return await self._acall(litellm.acompletion, model, {"messages": messages, **kwargs})

    def text_completion(self, model: str, prompt: Any, **kwargs: Any) -> Any:
        """Do what ``litellm.text_completion`` does; see :meth:`completion`."""
        return self._call(litellm.text_completion, model, {"prompt": prompt, **kwargs})

    async def atext_completion(self, model: str, prompt: Any, **kwargs: Any) -> Any:
        """Do what ``litellm.atext_completion`` does; see :meth:`completion`."""
        return await self._acall(litellm.atext_completion, model, {"prompt": prompt, **kwargs})

    def embedding(self, model: str, input: Any, **kwargs: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """Do what ``litellm.embedding`` does; see :meth:`completion`."""
        return self._call(litellm.embedding, model, {"input": input, **kwargs})

    async def aembedding(self, model: str, input: Any, **kwargs: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """Do what ``litellm.aembedding`` does; see :meth:`completion`."""
        return await self._acall(litellm.aembedding, model, {"input": input, **kwargs})

    def responses(self, model: str, input: Any, **kwargs: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """Do what ``litellm.responses`` does; see :meth:`completion`."""
        return self._call(litellm.responses, model, {"input": input, **kwargs})

    async def aresponses(self, model: str, input: Any, **kwargs: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """Do what ``litellm.aresponses`` does; see :meth:`completion`."""
        return await self._acall(litellm.aresponses, model, {"input": input, **kwargs})

    def __getattr__(self, name: str) -> Any:
        """Find the other functions of LiteLLM that send one request to one model, by their names there."""
        if name in _OTHERS:
            function = getattr(litellm, name)
            return functools.partial(self._acall_named if name in _ASYNC else self._call_named, function)
        raise AttributeError(
            f"turnout's Router has no {name!r}: see docs/litellm.md for what it has, and router.turnout for the router beneath"
        )

    def _call_named(self, function: Callable[..., Any], model: str, **kwargs: Any) -> Any:
        return self._call(function, model, kwargs)

    def _acall_named(self, function: Callable[..., Any], model: str, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return self._acall(function, model, kwargs)

    # --- the way of a request ---

    def _begin(self, model: str, given: dict[str, Any]) -> tuple[Ask, Run]:
        ask = read(self.turnout, model, given)
        return ask, begin(self.turnout, ask.model, {**ask.wishes, **ask.options}, streams=ask.streams)

    def _call(self, function: Callable[..., Any], model: str, given: dict[str, Any]) -> Any:
        with translated(model):
            ask, run = self._begin(model, given)
            while True:
                attempt = run.acquire()
                try:
                    return _ended(attempt, function(**sent(attempt, ask)))
                except BaseException as error:
                    _go_on(run, attempt, error)

    async def _acall(self, function: Callable[..., Any], model: str, given: dict[str, Any]) -> Any:
        with translated(model):
            ask, run = self._begin(model, given)
            while True:
                attempt = await run.acquire_async()
                try:
                    with attempt.scope() as scope:
                        answer = await function(**sent(attempt, ask))
                    if scope is not None and scope.cancelled_caught:
                        raise litellm.Timeout(str(attempt.timed_out()), model=model, llm_provider="")
                    return _ended(attempt, answer)
                except BaseException as error:
                    _go_on(run, attempt, error)

    # --- the end ---

    def close(self) -> None:
        """Close the turnout router. LiteLLM's clients are shared, and stay."""
        self.turnout.close()

    def discard(self) -> None:
        """Do what :meth:`close` does."""
        self.close()

    def __repr__(self) -> str:
        return f"<turnout's Router in place of LiteLLM's, {len(self.turnout)} deployments in service>"


_ASYNC = ("aimage_generation", "amoderation", "arerank", "aspeech", "atranscription")
_OTHERS = frozenset((*_ASYNC, *(name.removeprefix("a") for name in _ASYNC)))


def _ended(attempt: Attempt, answer: Any) -> Any:
    """Ends an attempt that was answered. A stream ends the lease itself."""
    answer = follow(attempt.lease, answer)
    attempt.note(None, None, None)
    return answer


def _go_on(run: Run, attempt: Attempt, error: BaseException) -> None:
    """Ends an attempt that failed. Returns if another one may follow.

    Raises:
        BaseException: No other one does: the error.
    """
    over = attempt.fail(error)
    if over is not None:
        if isinstance(error, Exception):
            run.last(over)
        raise error


def _id_of(entry: Mapping[str, Any]) -> str | None:
    id_ = (entry.get("model_info") or {}).get("id")
    return None if id_ is None else str(id_)
