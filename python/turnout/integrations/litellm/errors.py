"""Refusals of turnout, as the errors that LiteLLM's Router raises in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import litellm

from turnout.exceptions import ModelNotFound, NoAvailableDeployment, RequestTooLarge

__all__ = ["translated"]


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
        headers = {} if error.retry_after is None else {"retry-after": f"{error.retry_after:.3f}"}
        answer = httpx.Response(429, headers=headers, request=httpx.Request("POST", "https://turnout.invalid"))
        raise litellm.RateLimitError(message=str(error), llm_provider="", model=model, response=answer) from error
    except TimeoutError as error:
        raise litellm.Timeout(message=str(error), model=model, llm_provider="") from error
