"""Those who use a router at once: threads, tasks of asyncio and of trio, and those who report and change."""

import asyncio
import random
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio
from turnout import AliasCycle, Deployment, DeploymentNotFound, ManualClock, ModelNotFound

from soak.facts import (
    ALIAS,
    CHURNED,
    HEADERS,
    KINDS,
    LIMITED,
    MODELS,
    SHARED,
    SICK,
    STEADY,
    ProviderError,
    churned,
    options,
    parallel,
    request,
)
from soak.requests import BLOCKS, REFUSALS, acquire, acquire_async

if TYPE_CHECKING:
    from soak.epoch import Epoch

PAUSES = (0.0, 0.0, 0.0005, 0.004)


def in_a_thread(epoch: "Epoch", chance: random.Random) -> None:
    while not epoch.over.is_set():
        held = acquire(epoch, chance, MODELS)
        epoch.over.wait(chance.choice(PAUSES))
        if held is not None:
            held.finish(chance)


# --- tasks ---


def in_asyncio(epoch: "Epoch", chance: random.Random) -> None:
    asyncio.run(_main(epoch, chance))


async def _main(epoch: "Epoch", chance: random.Random) -> None:
    """Keeps a crowd of tasks, and cancels any of them at any moment."""
    tasks: set[asyncio.Task[None]] = set()
    while not epoch.over.is_set():
        while len(tasks) < 30:
            tasks.add(asyncio.create_task(_ask(epoch, random.Random(chance.random()))))
        await asyncio.sleep(chance.choice(PAUSES))
        for task in chance.sample(list(tasks), chance.choice((0, 0, 1, 3))):
            task.cancel()
        await _collect(epoch, {task for task in tasks if task.done()})
        tasks = {task for task in tasks if not task.done()}
    await _collect(epoch, tasks)


async def _collect(epoch: "Epoch", tasks: set[asyncio.Task[None]]) -> None:
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, asyncio.CancelledError):
            epoch.count("cancelled tasks of asyncio")
        elif isinstance(ended, BaseException):
            epoch.fault_of(ended)


async def _ask(epoch: "Epoch", chance: random.Random) -> None:
    for _ in range(chance.randint(1, 5)):
        if chance.random() < 0.2:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_use(epoch, chance, asyncio.sleep), chance.choice((0.0005, 0.01, 0.2)))
        else:
            await _use(epoch, chance, asyncio.sleep)


async def _use(epoch: "Epoch", chance: random.Random, sleep: Any) -> None:
    held = await acquire_async(epoch, chance, MODELS)
    if held is None:
        await sleep(chance.choice(PAUSES))
        return
    way = held.way(chance)
    if way not in BLOCKS:
        try:
            await sleep(chance.choice(PAUSES))
        finally:
            held.end(way, chance)
        return
    with suppress(ProviderError):
        async with held.lease:
            try:
                await sleep(chance.choice(PAUSES))
                if way == "raising block":
                    raise ProviderError(chance)
            finally:
                held.ending()


def in_trio(epoch: "Epoch", chance: random.Random) -> None:
    trio.run(_crowd, epoch, chance)


async def _crowd(epoch: "Epoch", chance: random.Random) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(_ask_in_trio, epoch, random.Random(chance.random()))


async def _ask_in_trio(epoch: "Epoch", chance: random.Random) -> None:
    while not epoch.over.is_set():
        with trio.move_on_after(chance.choice((0.0005, 0.005, 0.05, 5.0))) as scope:
            await _use(epoch, chance, trio.sleep)
        if scope.cancelled_caught:
            epoch.count("cancelled tasks of trio")
        await trio.lowlevel.checkpoint()


# --- reports and changes ---


def reports(epoch: "Epoch", chance: random.Random) -> None:
    """Says what providers and health checks said, and looks at everything. The steady group is left alone."""
    router, ledger = epoch.router, epoch.ledger
    while not epoch.over.wait(0.002):
        sick = [deployment.deployment_id for deployment in router.deployments() if deployment.model_name in SICK]
        name, asked = chance.choice(sick), request(chance)
        kind: Any = chance.choice(KINDS)
        earliest = ledger.time.now()
        with suppress(DeploymentNotFound, *REFUSALS):
            match chance.randint(0, 13):
                case 0:
                    router.record_success(name, tokens=chance.randint(0, 50), latency=chance.choice((None, 0.01)))
                    ledger.maybe(earliest)
                case 1:
                    router.record_failure(name, kind, retry_after=chance.choice((None, 0.0, 0.02)))
                    ledger.maybe(earliest)
                case 2:
                    router.observe(name, chance.choice(HEADERS))
                case 3:
                    router.cool_down(name, chance.choice((0.0, 0.01, 0.1)))
                case 4:
                    router.report_health(name, False)
                case 5 | 6 | 7:
                    router.report_health(name, True)
                case 8:
                    router.stats(name)
                case 9:
                    router.snapshot()
                    router.metrics()
                case 10:
                    str(router.explain(asked.model_name, **asked.facts).to_dict())
                case 11:
                    router.select(asked.model_name, **asked.facts)
                case 12:
                    router.select_many(asked.model_name, chance.randint(0, 20), **asked.facts)
                case _:
                    router.waiting(asked.model_name)
    for deployment in router.deployments():
        with suppress(DeploymentNotFound):
            router.report_health(deployment.deployment_id, True)


def changes(epoch: "Epoch", chance: random.Random) -> None:
    """Adds, removes, replaces and moves deployments, and changes options and aliases."""
    router, ledger = epoch.router, epoch.ledger
    kept = [*epoch.deployments]
    members: dict[str, Deployment] = {}
    made = 0
    while not epoch.over.wait(chance.choice((0.0005, 0.003, 0.02))):
        match chance.randint(0, 9):
            case 0 | 1 | 2:
                # An id that was removed does not come back: what it had in flight is still there.
                made += 1
                member = churned(chance, f"churned-{made}")
                ledger.allow(member.deployment_id, member.max_parallel_requests)
                members[member.deployment_id] = member
                router.add_deployment(member)
            case 3 if members:
                router.remove_deployment(members.pop(chance.choice(list(members))).deployment_id)
            case 4 if members:
                member = churned(chance, chance.choice(list(members)))
                ledger.allow(member.deployment_id, member.max_parallel_requests)
                members[member.deployment_id] = member
                router.add_deployment(member)
            case 5:
                members = {name: members[name] for name in chance.sample(list(members), min(len(members), 6))}
                router.set_deployments([*kept, *members.values()])
            case 6:
                router.configure(**options(chance))
            case 7:
                with suppress(AliasCycle, ModelNotFound):
                    router.add_alias(ALIAS, chance.choice((LIMITED, SHARED, CHURNED, ALIAS)))
            case 8:
                # The same id, removed and added anew: its leases are those of a stranger.
                with suppress(DeploymentNotFound):
                    router.remove_deployment("ghost")
                router.add_deployment(Deployment("ghost", CHURNED, max_parallel_requests=chance.randint(1, 3)))
                members.pop("ghost", None)
            case _:
                one = chance.choice(kept)
                if one.model_name != STEADY:
                    changed = one.replace(max_parallel_requests=parallel(chance), weight=chance.randint(0, 5))
                    ledger.allow(one.deployment_id, changed.max_parallel_requests)
                    kept[kept.index(one)] = changed
                    router.add_deployment(changed)
    epoch.count("deployments that came", made)


def moves_the_clock(epoch: "Epoch", chance: random.Random, clock: ManualClock, over: threading.Event) -> None:
    """Lets time pass, mostly in small steps."""
    while not over.wait(0.001):
        clock.advance(chance.choice((0.0, 0.001, 0.01, 0.05, 0.3)) if chance.random() < 0.995 else chance.uniform(5.0, 70.0))
