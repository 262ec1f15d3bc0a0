"""A gateway: an HTTP service that streams answers of whichever deployment is best.

    EU_KEY=… US_KEY=… uvicorn examples.gateway:app

Without keys it talks to scripted providers: ``python examples/gateway.py`` sends it one request, and prints
the stream.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import openai
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from turnout import Router, Timeouts
from turnout.clients import AsyncOpenAI
from world import deployments


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one router and one client for the life of the service."""
    async with (
        deployments() as made,
        Router(made, timeouts=Timeouts(total=60, first_token=10)) as router,
        AsyncOpenAI(router) as app.state.client,
    ):
        yield


app = FastAPI(lifespan=lifespan)


class Question(BaseModel):
    """What is asked."""

    text: str
    model: str = "gpt-4o"


def client_of(request: Request) -> openai.AsyncOpenAI:
    """Return the client of the service."""
    client: openai.AsyncOpenAI = request.app.state.client
    return client


@app.post("/ask")
async def ask(question: Question, client: Annotated[openai.AsyncOpenAI, Depends(client_of)]) -> StreamingResponse:
    """Stream the answer to a question. Until it begins, another deployment answers after a failure."""
    try:
        stream = await client.chat.completions.create(
            model=question.model, messages=[{"role": "user", "content": question.text}], stream=True
        )
    except openai.APIStatusError as error:
        raise HTTPException(error.status_code, error.message) from error
    except openai.APIConnectionError as error:
        raise HTTPException(502, "no provider could be reached") from error

    async def words() -> AsyncIterator[str]:
        # If the reader leaves, this is closed. Then the lease ends, and the provider's connection too.
        async with stream:
            async for chunk in stream:
                if chunk.choices:
                    yield chunk.choices[0].delta.content or ""

    return StreamingResponse(words(), media_type="text/plain")


def main() -> None:
    """Send one request to the service."""
    from fastapi.testclient import TestClient

    with TestClient(app) as http, http.stream("POST", "/ask", json={"text": "Which line is mine?"}) as answer:
        answer.raise_for_status()
        for piece in answer.iter_text():
            print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
