"""The deployments of the examples: real ones where keys are given, else scripted providers on loopback."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from turnout import Deployment, Endpoint, Env
from turnout.testing import Provider, ReceivedRequest, Reply
from turnout.testing.replies import Source


@asynccontextmanager
async def deployments(answer: Source | None = None) -> AsyncIterator[list[Deployment]]:
    """Yield two deployments of one model.

    Args:
        answer: What the scripted providers answer: a reply, or a function that returns one for a request. The
            first request fails.

    Yields:
        The deployments.
    """
    if "EU_KEY" in os.environ and "US_KEY" in os.environ:
        eu = Endpoint(os.environ.get("EU_URL", "https://api.openai.com/v1"), api_key=Env("EU_KEY"))
        us = Endpoint(os.environ.get("US_URL", "https://api.openai.com/v1"), api_key=Env("US_KEY"))
        yield [Deployment("eu", "gpt-4o", endpoint=eu), Deployment("us", "gpt-4o", endpoint=us)]
        return
    async with Provider() as one, Provider() as other:
        failed = [False]

        def reply(request: ReceivedRequest) -> Reply:
            if not failed[0]:
                failed[0] = True
                return Reply.error(500)
            return answer(request) if callable(answer) else answer or Reply.text()

        for provider in (one, other):
            provider.always(reply)
        yield [
            Deployment("eu", "gpt-4o", endpoint=Endpoint(one.base_url, api_key="any")),
            Deployment("us", "gpt-4o", endpoint=Endpoint(other.base_url, api_key="any")),
        ]
