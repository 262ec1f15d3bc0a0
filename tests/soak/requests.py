"""One request from its acquire to its end, by any of the ways that there are."""

import gc
import random
from typing import TYPE_CHECKING, Any

from turnout import Lease, ModelNotFound, NoAvailableDeployment, RequestTooLarge

from soak.facts import HEADERS, KINDS, STEADY, ProviderError, Request, request
from soak.ledger import Charge, Units, units_of

if TYPE_CHECKING:
    from soak.epoch import Epoch

# What a request may get in place of a lease.
REFUSALS = (NoAvailableDeployment, RequestTooLarge, ModelNotFound)

LOSING = ("drop", "cycle")
BLOCKS = ("block", "raising block")
CALLS = ("success", "usage", "total", "failure", "release", "unused", "twice", "observe")


def keywords(chance: random.Random, asked: Request) -> dict[str, Any]:
    """What is given to `acquire`: the steady group is waited for without end."""
    if asked.model_name == STEADY:
        return {"timeout": None}
    timeout = chance.choice((0.0, 0.0, 0.001, 0.05, 0.5, 2.0))
    return {**asked.facts, "timeout": timeout, "priority": asked.priority}


class Held:
    """A lease and its charge."""

    def __init__(self, epoch: "Epoch", lease: Lease, asked: Request, earliest: float) -> None:
        self.epoch = epoch
        self.lease = lease
        self.charge: Charge = epoch.ledger.admitted(lease.deployment_id, earliest, units_of(asked.tokens, asked.split))
        self.steady = asked.model_name == STEADY

    def ending(self, used: Units | None = None) -> None:
        self.epoch.ledger.ending(self.charge, used)

    def way(self, chance: random.Random) -> str:
        """How it will end. In the steady group nothing fails, and nothing is left to collect."""
        if self.steady:
            return chance.choice(("success", "release", "unused", "twice", "block", "drop"))
        return chance.choice((*CALLS, *BLOCKS, *LOSING))

    def end(self, way: str, chance: random.Random) -> None:
        """Ends it, other than by leaving a block."""
        lease = self.lease
        match way:
            case "success":
                self.ending()
                lease.success()
            case "usage" | "observe":
                prompt, answer = chance.randint(0, 100), chance.randint(0, 100)
                if way == "observe":
                    lease.observe(chance.choice(HEADERS))
                self.ending({"requests": 1, "tokens": prompt + answer, "input_tokens": prompt, "output_tokens": answer})
                lease.success(input_tokens=prompt, output_tokens=answer, latency=chance.choice((None, 0.0, 0.01, 3.0)))
            case "total":
                tokens = chance.randint(0, 150)
                # How much of it is the prompt's is the router's guess.
                self.ending({"requests": 1, "tokens": tokens})
                lease.success(tokens)
            case "failure":
                self.ending()
                scope: Any = chance.choice((None, "account", "deployment"))
                kind: Any = chance.choice(KINDS)
                lease.failure(kind, chance.choice((None, None, 0.0, 0.02)), scope=scope)
            case "release":
                self.ending()
                lease.release()
            case "unused":
                self.ending({})
                lease.release(unused=True)
            case "twice":
                self.ending()
                lease.success()
                if lease.release(unused=True) or lease.failure("auth"):
                    self.epoch.fault(f"a lease on {lease.deployment_id!r} ended twice")
            case "cycle":
                self.ending()
                circle: list[Any] = [lease]
                circle.append(circle)
                del circle, self.lease, lease
                if chance.random() < 0.2:
                    gc.collect()
            case _:
                self.ending()
                del self.lease

    def block(self, way: str, chance: random.Random) -> None:
        """Leaves its block."""
        try:
            with self.lease:
                self.ending()
                if way == "raising block":
                    raise ProviderError(chance)
        except ProviderError:
            pass

    def finish(self, chance: random.Random) -> None:
        way = self.way(chance)
        if way in BLOCKS:
            self.block(way, chance)
        else:
            self.end(way, chance)
            if way not in LOSING and not self.lease.released:
                self.epoch.fault(f"a lease on {self.lease.deployment_id!r} did not end by {way}")


def acquire(epoch: "Epoch", chance: random.Random, names: tuple[str, ...]) -> Held | None:
    """Asks for a lease in a thread."""
    asked = request(chance, names)
    earliest = epoch.ledger.time.now()
    try:
        with epoch.watch.waits(asked):
            lease = epoch.router.acquire(asked.model_name, **keywords(chance, asked))
    except REFUSALS as refused:
        epoch.refused(refused)
        return None
    return Held(epoch, lease, asked, earliest)


async def acquire_async(epoch: "Epoch", chance: random.Random, names: tuple[str, ...]) -> Held | None:
    """Asks for a lease in a task. Who is cancelled may have had one for a moment."""
    asked = request(chance, names)
    earliest = epoch.ledger.time.now()
    try:
        with epoch.watch.waits(asked):
            lease = await epoch.router.acquire_async(asked.model_name, **keywords(chance, asked))
    except REFUSALS as refused:
        epoch.refused(refused)
        return None
    except BaseException:
        epoch.ledger.maybe(earliest)
        raise
    return Held(epoch, lease, asked, earliest)
