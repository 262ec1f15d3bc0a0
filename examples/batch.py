"""A batch: many requests in a task group, as many at once as the limits let through.

    EU_KEY=… US_KEY=… python examples/batch.py

Without keys it talks to scripted providers. The limits are the router's: a request that finds no room waits
for it, and nobody is overtaken.
"""

import asyncio

import anyio
import openai
from turnout import Deployment, Lease, Retry, Router, Timeouts
from world import deployments

QUESTIONS = [f"How far is it to station {nth}?" for nth in range(40)]


async def main() -> dict[str, str]:
    """Ask all questions. Return the answers."""
    answers: dict[str, str] = {}
    failed: dict[str, Exception] = {}

    async with deployments() as made:
        limited = [deployment.replace(max_parallel_requests=4) for deployment in made]
        clients = {deployment.deployment_id: client_for(deployment) for deployment in limited}
        # A batch can wait: any capacity will do, if it comes within ten minutes.
        router = Router(limited, strategy="least_busy", retry=Retry(attempts=5), timeouts=Timeouts(total=600, capacity=600))

        async def ask(question: str) -> None:
            async def send(lease: Lease) -> str:
                reply = await clients[lease.deployment_id].chat.completions.create(
                    model=lease.model, messages=[{"role": "user", "content": question}]
                )
                if reply.usage is not None:
                    lease.success(tokens=reply.usage.total_tokens)  # the real number takes the place of the estimate
                return reply.choices[0].message.content or ""

            try:
                answers[question] = await router.call_async("gpt-4o", send, tokens=300)
            except Exception as error:  # one question that fails must not end the others
                failed[question] = error

        async with anyio.create_task_group() as group:
            for question in QUESTIONS:
                group.start_soon(ask, question)
        for client in clients.values():
            await client.close()
        print(f"{len(answers)} answered, {len(failed)} failed, {router.metrics().retries} retries")
    return answers


def client_for(deployment: Deployment) -> openai.AsyncOpenAI:
    """Return a client of one deployment. It does not retry: the router does."""
    endpoint = deployment.endpoint
    assert endpoint is not None
    key = endpoint.key()
    assert isinstance(key, str)
    return openai.AsyncOpenAI(base_url=endpoint.base_url, api_key=key, max_retries=0)


if __name__ == "__main__":
    asyncio.run(main())
