"""Every client in one shape: it sends a request through a router, and says what its program sees."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import turnout
from turnout import Router

HELLO: Any = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True)
class Asked:
    """What a scenario asks for."""

    router: Router
    model: str = "m"
    stream: bool = False
    leave_after: int | None = None
    timeout: float | None = None


Ask = Callable[[Asked], str]


@dataclass(frozen=True)
class Adapter:
    """A client.

    Attributes:
        name: Its name, with what is called.
        needs: The module that must be installed.
        ask: Sends a request and returns the text of the answer.
        dialect: The dialect that it speaks.
        streams: Whether it can stream.
        path: Where a provider sees its requests.
    """

    name: str
    needs: str
    ask: Ask
    dialect: str = "openai"
    streams: bool = True
    path: str = "/v1/chat/completions"

    @property
    def is_there(self) -> bool:
        try:
            return importlib.util.find_spec(self.needs) is not None
        except ModuleNotFoundError:
            return False


def family() -> Any:
    """The transports that the installed openai is built for."""
    import openai

    bases = openai.DefaultHttpxClient.__mro__
    name = "httpx2" if any(base.__module__.partition(".")[0] == "httpx2" for base in bases) else "httpx"
    return importlib.import_module(f"turnout.{name}")


def read(chunks: Iterator[str | None], leave_after: int | None) -> str:
    text = ""
    for nth, piece in enumerate(chunks):
        text += piece or ""
        if leave_after is not None and nth + 1 >= leave_after:
            break
    return text


async def read_async(chunks: AsyncIterator[str | None], leave_after: int | None) -> str:
    text, nth = "", 0
    async for piece in chunks:
        text += piece or ""
        nth += 1
        if leave_after is not None and nth >= leave_after:
            break
    return text


# --- openai ---


def chat(asked: Asked) -> str:
    from turnout.clients import OpenAI

    with OpenAI(asked.router, timeout=asked.timeout or 30.0) as client:
        if not asked.stream:
            return client.chat.completions.create(model=asked.model, messages=HELLO).choices[0].message.content or ""
        with client.chat.completions.create(model=asked.model, messages=HELLO, stream=True) as stream:
            return read((chunk.choices[0].delta.content for chunk in stream), asked.leave_after)


def chat_async(asked: Asked) -> str:
    from turnout.clients import AsyncOpenAI

    async def main() -> str:
        async with AsyncOpenAI(asked.router, timeout=asked.timeout or 30.0) as client:
            if not asked.stream:
                reply = await client.chat.completions.create(model=asked.model, messages=HELLO)
                return reply.choices[0].message.content or ""
            async with await client.chat.completions.create(model=asked.model, messages=HELLO, stream=True) as stream:
                return await read_async((chunk.choices[0].delta.content async for chunk in stream), asked.leave_after)

    return asyncio.run(main())


def azure(asked: Asked) -> str:
    from turnout.clients import AzureOpenAI

    with AzureOpenAI(asked.router, timeout=asked.timeout or 30.0) as client:
        if not asked.stream:
            return client.chat.completions.create(model=asked.model, messages=HELLO).choices[0].message.content or ""
        with client.chat.completions.create(model=asked.model, messages=HELLO, stream=True) as stream:
            return read((chunk.choices[0].delta.content for chunk in stream), asked.leave_after)


def azure_async(asked: Asked) -> str:
    from turnout.clients import AsyncAzureOpenAI

    async def main() -> str:
        async with AsyncAzureOpenAI(asked.router, timeout=asked.timeout or 30.0) as client:
            if not asked.stream:
                reply = await client.chat.completions.create(model=asked.model, messages=HELLO)
                return reply.choices[0].message.content or ""
            async with await client.chat.completions.create(model=asked.model, messages=HELLO, stream=True) as stream:
                return await read_async((chunk.choices[0].delta.content async for chunk in stream), asked.leave_after)

    return asyncio.run(main())


def responses(asked: Asked) -> str:
    from turnout.clients import OpenAI

    with OpenAI(asked.router, timeout=asked.timeout or 30.0) as client:
        if not asked.stream:
            return client.responses.create(model=asked.model, input="hello").output_text
        with client.responses.create(model=asked.model, input="hello", stream=True) as stream:
            pieces = (getattr(event, "delta", None) for event in stream if event.type == "response.output_text.delta")
            return read(pieces, asked.leave_after)


def responses_async(asked: Asked) -> str:
    from turnout.clients import AsyncOpenAI

    async def main() -> str:
        async with AsyncOpenAI(asked.router, timeout=asked.timeout or 30.0) as client:
            if not asked.stream:
                return (await client.responses.create(model=asked.model, input="hello")).output_text
            async with await client.responses.create(model=asked.model, input="hello", stream=True) as stream:
                pieces = (getattr(event, "delta", None) async for event in stream if event.type == "response.output_text.delta")
                return await read_async(pieces, asked.leave_after)

    return asyncio.run(main())


# --- anthropic ---


def messages(asked: Asked) -> str:
    from turnout.clients import Anthropic

    with Anthropic(asked.router, timeout=asked.timeout or 30.0) as client:
        given: Any = {"model": asked.model, "max_tokens": 100, "messages": HELLO}
        if not asked.stream:
            return client.messages.create(**given).content[0].text  # type: ignore[no-any-return]
        with client.messages.stream(**given) as stream:
            return read(stream.text_stream, asked.leave_after)


def messages_async(asked: Asked) -> str:
    from turnout.clients import AsyncAnthropic

    async def main() -> str:
        async with AsyncAnthropic(asked.router, timeout=asked.timeout or 30.0) as client:
            given: Any = {"model": asked.model, "max_tokens": 100, "messages": HELLO}
            if not asked.stream:
                return (await client.messages.create(**given)).content[0].text  # type: ignore[no-any-return]
            async with client.messages.stream(**given) as stream:
                return await read_async(stream.text_stream, asked.leave_after)

    return asyncio.run(main())


def text_of(event: Any) -> str | None:
    """The text that an event of a message adds, if any."""
    return event.delta.text if event.type == "content_block_delta" else None


def messages_created(asked: Asked) -> str:
    """Without the helper of the SDK that gathers a stream into a message. It streams in any case."""
    from turnout.clients import Anthropic

    given: Any = {"model": asked.model, "max_tokens": 100, "messages": HELLO}
    with Anthropic(asked.router, timeout=asked.timeout or 30.0) as client, client.messages.create(**given, stream=True) as stream:
        return read((text_of(event) for event in stream), asked.leave_after)


def messages_created_async(asked: Asked) -> str:
    from turnout.clients import AsyncAnthropic

    async def main() -> str:
        given: Any = {"model": asked.model, "max_tokens": 100, "messages": HELLO}
        client = AsyncAnthropic(asked.router, timeout=asked.timeout or 30.0)
        async with client, await client.messages.create(**given, stream=True) as stream:
            return await read_async((text_of(event) async for event in stream), asked.leave_after)

    return asyncio.run(main())


# --- what is built on openai ---


@contextmanager
def clients(router: Router) -> Iterator[tuple[Any, Any]]:
    """A client for threads and one for tasks."""
    with family().Client(router) as client:
        yield client, family().AsyncClient(router)


@asynccontextmanager
async def openai_client(asked: Asked) -> AsyncIterator[Any]:
    from turnout.clients import AsyncOpenAI

    async with AsyncOpenAI(asked.router, timeout=asked.timeout or 30.0) as client:
        yield client


def langchain(asked: Asked) -> str:
    from langchain_openai import ChatOpenAI  # type: ignore[import-not-found, unused-ignore]

    with clients(asked.router) as (client, async_client):
        model = ChatOpenAI(
            model=asked.model,
            http_client=client,
            http_async_client=async_client,
            base_url=turnout.BASE_URL,
            api_key="-",
            max_retries=0,
            timeout=asked.timeout or 30.0,
        )
        if not asked.stream:
            return str(model.invoke("hello").content)
        return read((str(chunk.content) for chunk in model.stream("hello")), asked.leave_after)


def langchain_async(asked: Asked) -> str:
    from langchain_openai import ChatOpenAI  # type: ignore[import-not-found, unused-ignore]

    async def main() -> str:
        with family().Client(asked.router) as client:
            async with family().AsyncClient(asked.router) as async_client:
                model = ChatOpenAI(
                    model=asked.model,
                    http_client=client,
                    http_async_client=async_client,
                    base_url=turnout.BASE_URL,
                    api_key="-",
                    max_retries=0,
                    timeout=asked.timeout or 30.0,
                )
                if not asked.stream:
                    return str((await model.ainvoke("hello")).content)
                return await read_async((str(chunk.content) async for chunk in model.astream("hello")), asked.leave_after)

    return asyncio.run(main())


def pydantic_ai(asked: Asked) -> str:
    from pydantic_ai import Agent  # type: ignore[import-not-found, unused-ignore]
    from pydantic_ai.models.openai import OpenAIChatModel  # type: ignore[import-not-found, unused-ignore]
    from pydantic_ai.providers.openai import OpenAIProvider  # type: ignore[import-not-found, unused-ignore]

    async def main() -> str:
        async with openai_client(asked) as client:
            agent = Agent(OpenAIChatModel(asked.model, provider=OpenAIProvider(openai_client=client)))
            if not asked.stream:
                return str((await agent.run("hello")).output)
            async with agent.run_stream("hello") as result:
                return await read_async(result.stream_text(delta=True, debounce_by=None), asked.leave_after)

    return asyncio.run(main())


def openai_agents(asked: Asked) -> str:
    from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled  # type: ignore[import-not-found, unused-ignore]

    set_tracing_disabled(True)

    async def main() -> str:
        async with openai_client(asked) as client:
            agent = Agent(name="a", model=OpenAIChatCompletionsModel(model=asked.model, openai_client=client))
            if not asked.stream:
                return str((await Runner.run(agent, "hello")).final_output)
            result = Runner.run_streamed(agent, "hello")
            pieces = (
                getattr(event.data, "delta", None)
                async for event in result.stream_events()
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
            )
            return await read_async(pieces, asked.leave_after)

    return asyncio.run(main())


def instructor(asked: Asked) -> str:
    import instructor as library  # type: ignore[import-not-found, unused-ignore]
    from turnout.clients import OpenAI

    with OpenAI(asked.router, timeout=asked.timeout or 30.0) as client:
        # Its own retries are for answers that do not fit the model.
        made = library.from_openai(client, mode=library.Mode.TOOLS)
        return str(
            made.chat.completions.create(model=asked.model, messages=HELLO, response_model=None, max_retries=0)
            .choices[0]
            .message.content
        )


def instructor_async(asked: Asked) -> str:
    import instructor as library  # type: ignore[import-not-found, unused-ignore]

    async def main() -> str:
        async with openai_client(asked) as client:
            made = library.from_openai(client, mode=library.Mode.TOOLS)
            reply = await made.chat.completions.create(model=asked.model, messages=HELLO, response_model=None, max_retries=0)
            return str(reply.choices[0].message.content)

    return asyncio.run(main())


def llama_index(asked: Asked) -> str:
    from llama_index.llms.openai import OpenAI as LlamaOpenAI  # type: ignore[import-not-found, unused-ignore]

    with clients(asked.router) as (client, async_client):
        llm = LlamaOpenAI(
            model="gpt-4o" if asked.model == "m" else asked.model,
            http_client=client,
            async_http_client=async_client,
            api_base=turnout.BASE_URL,
            api_key="-",
            max_retries=0,
            timeout=asked.timeout or 30.0,
        )
        if not asked.stream:
            return str(llm.complete("hello").text)
        return read((chunk.delta for chunk in llm.stream_complete("hello")), asked.leave_after)


def llama_index_async(asked: Asked) -> str:
    from llama_index.llms.openai import OpenAI as LlamaOpenAI  # type: ignore[import-not-found, unused-ignore]

    async def main() -> str:
        with family().Client(asked.router) as client:
            async with family().AsyncClient(asked.router) as async_client:
                llm = LlamaOpenAI(
                    model="gpt-4o" if asked.model == "m" else asked.model,
                    http_client=client,
                    async_http_client=async_client,
                    api_base=turnout.BASE_URL,
                    api_key="-",
                    max_retries=0,
                    timeout=asked.timeout or 30.0,
                )
                if not asked.stream:
                    return str((await llm.acomplete("hello")).text)
                return await read_async((chunk.delta async for chunk in await llm.astream_complete("hello")), asked.leave_after)

    return asyncio.run(main())


ADAPTERS = [
    Adapter("openai chat", "openai", chat),
    Adapter("openai chat, task", "openai", chat_async),
    Adapter("openai for Azure", "openai", azure),
    Adapter("openai for Azure, task", "openai", azure_async),
    Adapter("openai responses", "openai", responses, path="/v1/responses"),
    Adapter("openai responses, task", "openai", responses_async, path="/v1/responses"),
    Adapter("anthropic messages", "anthropic", messages, dialect="anthropic", path="/v1/messages"),
    Adapter("anthropic messages, task", "anthropic", messages_async, dialect="anthropic", path="/v1/messages"),
    Adapter("anthropic create", "anthropic", messages_created, dialect="anthropic", path="/v1/messages"),
    Adapter("anthropic create, task", "anthropic", messages_created_async, dialect="anthropic", path="/v1/messages"),
    Adapter("langchain-openai", "langchain_openai", langchain),
    Adapter("langchain-openai, task", "langchain_openai", langchain_async),
    Adapter("pydantic-ai", "pydantic_ai", pydantic_ai),
    Adapter("openai-agents", "agents", openai_agents),
    Adapter("instructor", "instructor", instructor, streams=False),
    Adapter("instructor, task", "instructor", instructor_async, streams=False),
    Adapter("LlamaIndex", "llama_index.llms.openai", llama_index),
    Adapter("LlamaIndex, task", "llama_index.llms.openai", llama_index_async),
]
