"""A Router in place of LiteLLM's: LiteLLM speaks to the providers, turnout picks, and carries each request to
its end.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any

import litellm

from turnout.config import check
from turnout.config.loaded import Loaded
from turnout.execution.attempts import Attempt, Run
from turnout.execution.call import begin
from turnout.execution.options import Timeouts
from turnout.execution.race import Race
from turnout.integrations.litellm.asks import Ask, read, usual
from turnout.integrations.litellm.errors import translated, unwrapped
from turnout.integrations.litellm.leases import follow, opened, opened_async
from turnout.integrations.litellm.listing import Listing
from turnout.integrations.litellm.params import sent

__all__ = ["Router"]

# Settings that are no part of a config: they hold for each request.
_OF_REQUESTS = ("default_litellm_params", "enable_tag_filtering", "tag_filtering_match_any")


class Router(Listing):
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
        super().__init__(model_list or (), settings)
        self._strict = strict
        loaded = self._load(self._entries, self._settings)
        loaded.warn(stacklevel=2)
        self.turnout = loaded.router()

    def _load(self, entries: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> Loaded:
        routed = {name: value for name, value in settings.items() if name not in _OF_REQUESTS}
        if settings.get("enable_tag_filtering"):
            routed["enable_tag_filtering"] = True
        loaded = check({"model_list": list(entries.values()), "router_settings": routed})
        loaded.raise_for(strict=self._strict)
        self._usual = usual(settings, entries.values())
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
        ask = read(self.turnout, self._usual, "completion", model, given)
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
        return self._call("completion", model, {"messages": messages, **kwargs})

    async def acompletion(self, model: str, messages: list[Any], **kwargs: Any) -> Any:
        """Do what :meth:`completion` does, in a task of asyncio."""
        return await self._acall("acompletion", model, {"messages": messages, **kwargs})

    def text_completion(self, model: str, prompt: Any, **kwargs: Any) -> Any:
        """Do what ``litellm.text_completion`` does; see :meth:`completion`."""
        return self._call("text_completion", model, {"prompt": prompt, **kwargs})

    async def atext_completion(self, model: str, prompt: Any, **kwargs: Any) -> Any:
        """Do what ``litellm.atext_completion`` does; see :meth:`completion`."""
        return await self._acall("atext_completion", model, {"prompt": prompt, **kwargs})

    def embedding(self, model: str, input: Any, **kwargs: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """Do what ``litellm.embedding`` does; see :meth:`completion`."""
        return self._call("embedding", model, {"input": input, **kwargs})

    async def aembedding(self, model: str, input: Any, **kwargs: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """Do what ``litellm.aembedding`` does; see :meth:`completion`."""
        return await self._acall("aembedding", model, {"input": input, **kwargs})

    def responses(self, model: str, input: Any, **kwargs: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """Do what ``litellm.responses`` does; see :meth:`completion`."""
        return self._call("responses", model, {"input": input, **kwargs})

    async def aresponses(self, model: str, input: Any, **kwargs: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """Do what ``litellm.aresponses`` does; see :meth:`completion`."""
        return await self._acall("aresponses", model, {"input": input, **kwargs})

    async def schedule_acompletion(self, model: str, messages: list[Any], priority: int, **kwargs: Any) -> Any:
        """Do what :meth:`acompletion` does. Among calls that wait, lower priorities come first."""
        return await self.acompletion(model, messages, priority=priority, **kwargs)

    async def abatch_completion(self, models: list[str], messages: list[Any], **kwargs: Any) -> list[Any]:
        """Ask several models at once.

        Args:
            models: The model names.
            messages: The messages; or a list of such lists, and each model gets each of them.
            **kwargs: As for :meth:`completion`.

        Returns:
            An answer or an exception for each model; for a list of lists, a list of those for each of them.
        """
        if not (messages and isinstance(messages[0], list)):
            return await self._at_once([(model, messages) for model in models], kwargs)
        answers = await self._at_once([(model, one) for one in messages for model in models], kwargs)
        return [answers[at : at + len(models)] for at in range(0, len(answers), len(models))]

    async def abatch_completion_one_model_multiple_requests(self, model: str, messages: list[Any], **kwargs: Any) -> list[Any]:
        """Ask one model several times at once.

        Args:
            model: The model name.
            messages: A list of messages for each request.
            **kwargs: As for :meth:`completion`.

        Returns:
            An answer or an exception for each request.
        """
        return await self._at_once([(model, one) for one in messages], kwargs)

    async def _at_once(self, asked: list[tuple[str, Any]], kwargs: dict[str, Any]) -> list[Any]:
        return await asyncio.gather(*(self.acompletion(*one, **kwargs) for one in asked), return_exceptions=True)

    def __getattr__(self, name: str) -> Any:
        """Find the other functions of LiteLLM that send one request to one model, by their names there."""
        if name in _OTHERS:
            return functools.partial(self._acall_named if name in _ASYNC else self._call_named, name)
        raise AttributeError(
            f"turnout's Router has no {name!r}: see docs/litellm.md for what it has, and router.turnout for the router beneath"
        )

    def _call_named(self, name: str, model: str, **kwargs: Any) -> Any:
        return self._call(name, model, kwargs)

    def _acall_named(self, name: str, model: str, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return self._acall(name, model, kwargs)

    # --- the way of a request ---

    def _begin(self, name: str, model: str, given: dict[str, Any]) -> tuple[Ask, Run]:
        ask = read(self.turnout, self._usual, name, model, given)
        return ask, begin(self.turnout, ask.model, {**ask.wishes, **ask.options}, streams=ask.streams)

    def _sent(self, attempt: Attempt, ask: Ask) -> dict[str, Any]:
        return sent(attempt, ask, self._entries.get(attempt.lease.deployment_id, {}))  # it may have been taken out

    def _call(self, name: str, model: str, given: dict[str, Any]) -> Any:
        function = getattr(litellm, name)
        with translated(model):
            ask, run = self._begin(name, model, given)
            while True:
                attempt = run.acquire()
                try:
                    answer = opened(follow(attempt.lease, function(**self._sent(attempt, ask)), unwrapped))
                    return _ended(run, attempt, answer)
                except BaseException as error:
                    _go_on(run, attempt, error)

    async def _acall(self, name: str, model: str, given: dict[str, Any]) -> Any:
        function = getattr(litellm, name)
        with translated(model):
            ask, run = self._begin(name, model, given)

            def send(attempt: Attempt) -> Coroutine[Any, Any, Any]:
                return _answer(function, attempt, self._sent(attempt, ask))

            while True:
                attempt = await run.acquire_async()
                if run.options.hedge is not None:
                    won = await Race(run, send, attempt, _give_up).run()
                    if won is None:
                        continue
                    return _ended(run, *won)
                try:
                    keywords = self._sent(attempt, ask)  # it bounds the attempt, so it comes before the scope
                    with attempt.scope() as scope:
                        answer = await _answer(function, attempt, keywords)
                    if scope is not None and scope.cancelled_caught:
                        raise litellm.Timeout(str(attempt.timed_out()), model=model, llm_provider="")
                    return _ended(run, attempt, answer)
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


_BOTH = ("aimage_generation", "amoderation", "arerank", "aspeech", "atranscription")
_ASYNC = (*_BOTH, "anthropic_messages")
_OTHERS = frozenset((*_ASYNC, *(name.removeprefix("a") for name in _BOTH)))


async def _answer(function: Callable[..., Any], attempt: Attempt, keywords: dict[str, Any]) -> Any:
    return await opened_async(follow(attempt.lease, await function(**keywords), unwrapped))


async def _give_up(answer: Any) -> None:
    """Closes a stream that came after another answer."""
    if hasattr(answer, "aclose"):
        await answer.aclose()


def _ended(run: Run, attempt: Attempt, answer: Any) -> Any:
    """Ends an attempt that was answered, and writes on the answer where it comes from, as LiteLLM's Router
    does. A stream ends the lease itself.
    """
    hidden = getattr(answer, "_hidden_params", None)
    if isinstance(hidden, dict):
        models = [record.model_name for record in run.records]
        hidden["model_id"] = attempt.lease.deployment_id
        hidden["additional_headers"] = {
            **(hidden.get("additional_headers") or {}),
            "x-litellm-model-group": attempt.model_name,
            "x-litellm-attempted-retries": models.count(attempt.model_name),
            "x-litellm-attempted-fallbacks": len({*models, attempt.model_name}) - 1,
        }
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
