"""Refusals of turnout, as the errors that LiteLLM's Router raises in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import litellm
from litellm.types.router import RouterRateLimitError

from turnout.exceptions import ModelNotFound, NoAvailableDeployment, RequestTooLarge

__all__ = ["NoDeployments", "translated", "unwrapped"]


class NoDeployments(RouterRateLimitError, litellm.RateLimitError):  # type: ignore[misc] # its types are not read
    """No deployment may serve the request now. LiteLLM's Router raises one class or the other, by the place
    that notices. So this one is both.

    Args:
        refusal: What turnout says.
        model: The name that was asked for.

    Attributes:
        cooldown_time: Seconds until a deployment may be available; 0.0 if nobody knows.
    """

    def __init__(self, refusal: NoAvailableDeployment, model: str) -> None:
        headers = {} if refusal.retry_after is None else {"retry-after": f"{refusal.retry_after:.3f}"}
        answer = httpx.Response(429, headers=headers, request=httpx.Request("POST", "https://turnout.invalid"))
        RouterRateLimitError.__init__(self, model, refusal.retry_after or 0.0, False, [])
        litellm.RateLimitError.__init__(self, message=str(refusal), llm_provider="", model=model, response=answer)


@contextmanager
def translated(model: str) -> Iterator[None]:
    """Raise errors of LiteLLM in the place of turnout's. The turnout error is the cause.

    Args:
        model: The name that was asked for.
    """
    try:
        yield
    except ModelNotFound as error:
        raise litellm.BadRequestError(message=str(error), model=model, llm_provider="") from error
    except RequestTooLarge as error:
        raise litellm.BadRequestError(message=str(error), model=model, llm_provider="") from error
    except NoAvailableDeployment as error:
        raise NoDeployments(error, model) from error
    except TimeoutError as error:
        raise litellm.Timeout(message=str(error), model=model, llm_provider="") from error


def unwrapped(error: BaseException) -> BaseException:
    """Return what a stream failed with. LiteLLM wraps it for its own Router, which takes it out again.

    Args:
        error: What the stream raised.

    Returns:
        The error for the caller.
    """
    original = getattr(error, "original_exception", None)
    return original if isinstance(error, litellm.exceptions.MidStreamFallbackError) and isinstance(original, Exception) else error
