"""An agent: a loop of a model and its tools, whose every request is routed.

    EU_KEY=… US_KEY=… python examples/agent.py

Without keys it talks to scripted providers: they fail once, and ask for the tool.
"""

import asyncio
import json

from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from turnout import Router, Timeouts
from turnout.clients import AsyncOpenAI
from turnout.testing import ReceivedRequest, Reply
from world import deployments

TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "next_train",
        "description": "Returns the minutes until the next train to a station.",
        "parameters": {"type": "object", "properties": {"station": {"type": "string"}}, "required": ["station"]},
    },
}
MOST_TURNS = 5


def next_train(station: str) -> str:
    """Return the minutes until the next train."""
    return json.dumps({"station": station, "minutes": 7})


def scripted(request: ReceivedRequest) -> Reply:
    """Answer as a model would: ask for the tool, and then use its result."""
    if request.json["messages"][-1]["role"] == "tool":
        return Reply.text("In seven minutes.")
    return Reply.tool_call("next_train", {"station": "Central"})


async def main() -> str:
    """Ask a question, and run the tools that the model asks for, until it answers."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "When does the next train to Central leave?"}]
    async with (
        deployments(scripted) as made,
        Router(made, timeouts=Timeouts(total=120)) as router,
        AsyncOpenAI(router) as client,
    ):
        for _ in range(MOST_TURNS):
            reply = await client.chat.completions.create(model="gpt-4o", messages=messages, tools=[TOOL])
            message = reply.choices[0].message
            messages.append(message.model_dump(exclude_none=True))  # type: ignore[arg-type] # it is such a message
            if not message.tool_calls:
                print(message.content)
                return message.content or ""
            for call in message.tool_calls:
                assert call.type == "function"
                result = next_train(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    raise RuntimeError(f"no answer after {MOST_TURNS} turns")


if __name__ == "__main__":
    asyncio.run(main())
