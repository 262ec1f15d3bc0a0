"""Reservations are exact: limits are inclusive, taken in all dimensions or in none, whatever the
concurrency.
"""

import asyncio
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import (
    Deployment,
    DeploymentStats,
    Lease,
    ManualClock,
    NoAvailableDeployment,
    RateLimitExceeded,
    RequestTooLarge,
    Router,
    Strategy,
)

STRATEGIES = list(Strategy)
LARGEST = 2**64 - 1


def one(clock: ManualClock | None = None, **facts: Any) -> Router:
    """A router of one deployment ``d`` of the model ``m``, at half past a minute."""
    return Router([Deployment("d", "m", **facts)], clock=clock or ManualClock(30), seed=1)


def usage(router: Router, deployment_id: str = "d") -> tuple[int, int, int]:
    """What is reserved: in flight, requests and tokens of this minute."""
    stats = router.stats(deployment_id)
    return stats.in_flight, stats.rpm_current, stats.tpm_current


def fill(router: Router, tokens: int = 0) -> list[Lease]:
    """Leases for as long as there are any, but not without end."""
    leases: list[Lease] = []
    while len(leases) < 10_000:
        try:
            leases.append(router.acquire("m", tokens=tokens))
        except NoAvailableDeployment:
            break
    return leases


def release_all(leases: list[Lease]) -> None:
    for lease in leases:
        lease.release()


def admits(router: Router, tokens: int = 0) -> int:
    """How many are admitted at once; all of them are released."""
    leases = fill(router, tokens)
    release_all(leases)
    return len(leases)


# --- limits are inclusive ---


@pytest.mark.parametrize("limit", [1, 2, 5, 10, 60, 1000])
def test_rpm_limit_is_inclusive(limit: int) -> None:
    router = one(rpm_limit=limit)
    for _ in range(limit):
        router.acquire("m").release()
    assert usage(router) == (0, limit, 0)
    with pytest.raises(RateLimitExceeded) as refused:
        router.acquire("m")
    assert refused.value.reasons == {"rpm_limit": 1}
    assert refused.value.retry_after == 30.0
    with pytest.raises(RateLimitExceeded):
        router.select("m")


@pytest.mark.parametrize(("limit", "tokens", "fits"), [(10, 1, 10), (10, 3, 3), (10, 10, 1), (10_000, 1000, 10), (1, 1, 1)])
def test_tpm_limit_is_inclusive(limit: int, tokens: int, fits: int) -> None:
    router = one(tpm_limit=limit)
    for _ in range(fits):
        router.acquire("m", tokens=tokens).release()
    assert usage(router) == (0, fits, fits * tokens)
    with pytest.raises(RateLimitExceeded) as refused:
        router.acquire("m", tokens=tokens)
    assert refused.value.reasons == {"tpm_limit": 1}
    assert refused.value.retry_after == 30.0
    rest = limit - fits * tokens
    if rest:
        router.acquire("m", tokens=rest).release()
    with pytest.raises(RateLimitExceeded):
        router.acquire("m", tokens=1)


def test_a_request_of_unknown_size_needs_a_token_to_be_left() -> None:
    router = one(tpm_limit=10)
    router.acquire("m", tokens=9).release()
    router.acquire("m").release()
    router.acquire("m", tokens=1).release()
    with pytest.raises(RateLimitExceeded):
        router.acquire("m")


def test_more_tokens_than_any_limit_never_fit() -> None:
    router = Router([Deployment("a", "m", tpm_limit=10), Deployment("b", "m", tpm_limit=20)], clock=ManualClock(1))
    router.acquire("m", tokens=20).release()
    with pytest.raises(RequestTooLarge) as refused:
        router.acquire("m", tokens=21)
    assert (refused.value.model_name, refused.value.tokens, refused.value.largest_limit) == ("m", 21, 20)
    assert router.metrics().total_requests == 1


@pytest.mark.parametrize("limit", [1, 2, 10, 500])
def test_max_parallel_requests_is_inclusive(limit: int) -> None:
    router = one(max_parallel_requests=limit)
    leases = fill(router)
    assert len(leases) == limit
    with pytest.raises(NoAvailableDeployment) as refused:
        router.acquire("m")
    assert type(refused.value) is NoAvailableDeployment
    assert refused.value.reasons == {"max_parallel_requests": 1}
    assert refused.value.retry_after is None
    for left, lease in enumerate(leases, start=1):
        lease.release()
        assert admits(router) == left
    assert router.stats("d").in_flight == 0


@pytest.mark.parametrize("already", [0, 1, LARGEST - 5])
@pytest.mark.parametrize("more", [1, LARGEST])
def test_a_limit_of_the_largest_number_is_a_limit(already: int, more: int) -> None:
    # In a process of its own: gates that disagree about a sum beyond 64 bits would keep a pick from ever
    # ending.
    code = f"""
from turnout import Deployment, ManualClock, RateLimitExceeded, Router
router = Router([Deployment("d", "m", tpm_limit={LARGEST})], clock=ManualClock())
router.record_success("d", tokens={already})
router.acquire("m", tokens={LARGEST - already}).release()
try:
    router.acquire("m", tokens={more}).release()
except RateLimitExceeded:
    print(router.stats("d").tpm_current)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == (f"{LARGEST}\n", "")


@given(
    rpm_limit=st.none() | st.integers(1, 12),
    tpm_limit=st.none() | st.integers(1, 200),
    max_parallel_requests=st.none() | st.integers(1, 6),
    requests=st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=40),
)
def test_any_combination_of_limits(
    rpm_limit: int | None, tpm_limit: int | None, max_parallel_requests: int | None, requests: list[tuple[int, bool]]
) -> None:
    """Each request is a number of tokens and whether it stays in flight."""
    facts: dict[str, Any] = {"rpm_limit": rpm_limit, "tpm_limit": tpm_limit, "max_parallel_requests": max_parallel_requests}
    router = Router([Deployment("d", "m", **facts)], clock=ManualClock(30))
    in_flight = taken = spent = 0
    held = []
    for tokens, stays in requests:
        fits = (
            (max_parallel_requests is None or in_flight < max_parallel_requests)
            and (rpm_limit is None or taken < rpm_limit)
            and (tpm_limit is None or spent + max(tokens, 1) <= tpm_limit)
        )
        if fits:
            lease = router.acquire("m", tokens=tokens)
            taken, spent = taken + 1, spent + tokens
            if stays:
                held.append(lease)
                in_flight += 1
            else:
                lease.release()
        else:
            with pytest.raises((NoAvailableDeployment, RequestTooLarge)):
                router.acquire("m", tokens=tokens)
        assert usage(router) == (in_flight, taken, spent)
    release_all(held)
    assert usage(router) == (0, taken, spent)


# --- all dimensions or none ---


@pytest.mark.parametrize(
    ("facts", "gate"),
    [
        ({"rpm_limit": 1, "tpm_limit": 100, "max_parallel_requests": 9}, "rpm_limit"),
        ({"rpm_limit": 9, "tpm_limit": 60, "max_parallel_requests": 9}, "tpm_limit"),
        ({"rpm_limit": 9, "tpm_limit": 100, "max_parallel_requests": 1}, "max_parallel_requests"),
    ],
)
def test_a_refusal_reserves_nothing(facts: dict[str, Any], gate: str) -> None:
    router = one(**facts)
    lease = router.acquire("m", tokens=50)
    before = router.stats("d")
    for _ in range(20):
        with pytest.raises(NoAvailableDeployment) as refused:
            router.acquire("m", tokens=50)
        assert refused.value.reasons == {gate: 1}
    assert router.stats("d") == before
    lease.release(unused=True)
    router.acquire("m", tokens=50).release(unused=True)
    assert usage(router) == (0, 0, 0)


# --- groups ---


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_group_admits_the_sum_of_its_limits(strategy: Strategy) -> None:
    router = Router([Deployment(f"d{i}", "m", rpm_limit=10) for i in range(10)], strategy=strategy, clock=ManualClock(5), seed=3)
    leases = fill(router)
    assert Counter(lease.deployment_id for lease in leases) == {f"d{i}": 10 for i in range(10)}
    release_all(leases)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_group_admits_the_sum_of_its_token_limits(strategy: Strategy) -> None:
    deployments = [Deployment(f"d{i}", "m", tpm_limit=10_000) for i in range(10)]
    router = Router(deployments, strategy=strategy, clock=ManualClock(5), seed=3)
    leases = fill(router, tokens=1000)
    assert Counter(lease.deployment_id for lease in leases) == {f"d{i}": 10 for i in range(10)}
    release_all(leases)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_group_fills_every_place_in_flight(strategy: Strategy) -> None:
    deployments = [Deployment(f"d{i}", "m", max_parallel_requests=2) for i in range(4)]
    router = Router(deployments, strategy=strategy, clock=ManualClock(5), seed=3)
    leases = fill(router)
    assert Counter(lease.deployment_id for lease in leases) == {f"d{i}": 2 for i in range(4)}
    release_all(leases)


def test_many_deployments_lose_no_count() -> None:
    router = Router([Deployment(f"d{i}", "m", rpm_limit=5) for i in range(400)], clock=ManualClock(5), seed=3)
    leases = fill(router)
    assert len(leases) == 2000
    release_all(leases)
    assert set(router.snapshot()["rpm_current"]) == {5}


def test_requests_without_a_lease_count_towards_the_limits() -> None:
    router = one(rpm_limit=3, tpm_limit=100)
    router.record_success("d", tokens=70)
    router.record_failure("d", "bad_request")
    router.acquire("m", tokens=30).release()
    with pytest.raises(RateLimitExceeded):
        router.acquire("m", tokens=1)
    assert usage(router) == (0, 3, 100)


def test_new_limits_hold_for_what_is_already_reserved() -> None:
    router = one(max_parallel_requests=3, rpm_limit=10)
    leases = fill(router)
    router.add_deployment(Deployment("d", "m", max_parallel_requests=1, rpm_limit=10))
    leases[0].release()
    assert admits(router) == 0
    leases[1].release()
    leases[2].release()
    assert admits(router) == 1
    router.add_deployment(Deployment("d", "m", rpm_limit=4))
    with pytest.raises(RateLimitExceeded):
        router.acquire("m")
    router.add_deployment(Deployment("d", "m", rpm_limit=5))
    router.acquire("m").release()
    with pytest.raises(RateLimitExceeded):
        router.acquire("m")


# --- minutes ---


def test_a_spent_minute_frees_at_the_next_and_not_before() -> None:
    clock = ManualClock(30)
    router = one(clock, rpm_limit=2, tpm_limit=100)
    release_all(fill(router, tokens=50))
    clock.set(59.999)
    with pytest.raises(RateLimitExceeded) as refused:
        router.acquire("m", tokens=50)
    assert refused.value.retry_after == pytest.approx(0.001, abs=1e-9)
    clock.set(60)
    assert usage(router) == (0, 0, 0)
    assert admits(router, tokens=50) == 2


def test_a_place_in_flight_outlives_the_minute() -> None:
    clock = ManualClock(30)
    router = one(clock, max_parallel_requests=1)
    lease = router.acquire("m")
    for _ in range(20):
        clock.advance(61)
        with pytest.raises(NoAvailableDeployment):
            router.acquire("m")
    lease.release()
    router.acquire("m").release()


def test_a_clock_that_is_set_back_opens_no_second_window() -> None:
    clock = ManualClock(65)
    router = one(clock, rpm_limit=5)
    assert admits(router) == 5
    clock.set(59)
    assert admits(router) == 0
    clock.set(119)
    assert admits(router) == 0
    clock.set(120)
    assert admits(router) == 5


# --- settle, keep, give back ---


def test_success_replaces_the_estimate() -> None:
    router = one(tpm_limit=1000)
    lease = router.acquire("m", tokens=900)
    other = router.acquire("m", tokens=50)
    assert lease.success(tokens=100)
    assert usage(router) == (1, 2, 150)
    other.success()
    assert usage(router) == (0, 2, 150)
    assert router.stats("d").total_tokens == 150
    assert admits(router, tokens=85) == 10


def test_success_may_take_more_than_was_estimated() -> None:
    router = one(tpm_limit=1000)
    router.acquire("m", tokens=10).success(tokens=1500)
    assert usage(router) == (0, 1, 1500)
    with pytest.raises(RateLimitExceeded):
        router.acquire("m", tokens=1)


def test_success_with_no_tokens_frees_them_all() -> None:
    router = one(tpm_limit=1000)
    router.acquire("m", tokens=1000).success(tokens=0)
    assert usage(router) == (0, 1, 0)


@pytest.mark.parametrize("actual", [0, 100, 900, 5000])
def test_a_later_minute_is_not_settled(actual: int) -> None:
    clock = ManualClock(59)
    router = one(clock, tpm_limit=1000)
    lease = router.acquire("m", tokens=900)
    clock.set(60)
    router.acquire("m", tokens=400).release()
    lease.success(tokens=actual)
    assert usage(router) == (0, 1, 400)
    assert router.stats("d").total_tokens == actual


def test_settling_long_after_leaves_an_unused_window_empty() -> None:
    clock = ManualClock(59)
    router = one(clock, tpm_limit=1000)
    lease = router.acquire("m", tokens=900)
    clock.set(600)
    lease.success(tokens=5000)
    assert usage(router) == (0, 0, 0)
    assert admits(router, tokens=1000) == 1


@pytest.mark.parametrize("end", [Lease.release, Lease.failure, lambda lease: lease.failure("cancelled")])
def test_release_and_failure_keep_what_was_reserved(end: Callable[[Lease], bool]) -> None:
    router = one(rpm_limit=2, tpm_limit=1000, max_parallel_requests=1)
    end(router.acquire("m", tokens=600))
    assert usage(router) == (0, 1, 600)
    with pytest.raises(RateLimitExceeded):
        router.acquire("m", tokens=600)
    router.acquire("m", tokens=400).release()
    with pytest.raises(RateLimitExceeded):
        router.acquire("m")


def test_an_unused_lease_gives_everything_back() -> None:
    router = one(rpm_limit=2, tpm_limit=1000, max_parallel_requests=1)
    before = router.stats("d")
    for _ in range(50):
        assert router.acquire("m", tokens=1000).release(unused=True)
        assert router.stats("d") == before


def test_an_unused_lease_gives_a_later_minute_nothing() -> None:
    clock = ManualClock(59)
    router = one(clock, rpm_limit=2, tpm_limit=1000)
    lease = router.acquire("m", tokens=500)
    clock.set(60)
    router.acquire("m", tokens=400).release()
    lease.release(unused=True)
    assert usage(router) == (0, 1, 400)


def test_select_reserves_nothing() -> None:
    router = one(rpm_limit=1, tpm_limit=10, max_parallel_requests=1)
    before = router.stats("d")
    for _ in range(100):
        router.select("m", tokens=10)
    router.select_many("m", 100, tokens=10)
    router.explain("m", tokens=10)
    assert router.stats("d") == before


# --- threads ---

THREADS = 8


@pytest.fixture
def restless() -> Iterator[None]:
    """Makes threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(work: Callable[[int], None]) -> None:
    """Runs ``work(i)`` in threads that start together, and raises what any of them raised."""
    start = threading.Barrier(THREADS)

    def run(i: int) -> None:
        start.wait()
        work(i)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(run, i) for i in range(THREADS)]:
            done.result()


class Tally:
    """What was admitted, by deployment id."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._live: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, lease: Lease) -> None:
        with self._lock:
            self.requests[lease.deployment_id] += 1
            self.tokens[lease.deployment_id] += lease.tokens
            self._live[lease.deployment_id] += 1
            self.peak[lease.deployment_id] = max(self.peak[lease.deployment_id], self._live[lease.deployment_id])

    def leave(self, lease: Lease, tokens: int | None = None) -> None:
        """Called before the lease ends, so that nobody is counted twice."""
        with self._lock:
            self._live[lease.deployment_id] -= 1
            if tokens is not None:
                self.tokens[lease.deployment_id] += tokens - lease.tokens

    def check(self, stats: DeploymentStats) -> None:
        """Nothing went over a limit, nothing was lost, nothing is left in flight."""
        requests, tokens, peak = (counter[stats.deployment_id] for counter in (self.requests, self.tokens, self.peak))
        assert (stats.in_flight, stats.rpm_current, stats.tpm_current) == (0, requests, tokens)
        assert stats.rpm_limit is None or requests <= stats.rpm_limit
        assert stats.tpm_limit is None or tokens <= stats.tpm_limit
        assert stats.max_parallel_requests is None or peak <= stats.max_parallel_requests


def mixed_group() -> list[Deployment]:
    """Deployments that are full in different dimensions first."""
    return [
        Deployment("requests", "m", rpm_limit=150),
        Deployment("tokens", "m", tpm_limit=5000, weight=3),
        Deployment("places", "m", max_parallel_requests=3, rpm_limit=400),
        Deployment("all", "m", rpm_limit=130, tpm_limit=7000, max_parallel_requests=2, priority=1),
    ]


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_threads_never_pass_a_limit(strategy: Strategy) -> None:
    clock = ManualClock(30)
    router = Router(mixed_group(), strategy=strategy, clock=clock, seed=5)
    for window in range(3):
        tally = Tally()

        def work(i: int, window: int = window, tally: Tally = tally) -> None:
            chance = random.Random(f"{window} {i}")
            held: list[Lease] = []

            def end(lease: Lease) -> None:
                tally.leave(lease)
                chance.choice((lease.success, lambda: lease.failure("bad_request"), lease.release))()

            for _ in range(600):
                try:
                    lease = router.acquire("m", tokens=chance.choice((0, 1, 7, 50, 90)))
                except NoAvailableDeployment:
                    continue
                tally.enter(lease)
                held.append(lease)
                if len(held) > chance.randrange(3):
                    end(held.pop(chance.randrange(len(held))))
            for lease in held:
                end(lease)

        in_threads(work)
        for deployment in router.deployments():
            tally.check(router.stats(deployment.deployment_id))
        # The demand was above the limits, so they are not only kept but used up.
        assert tally.requests["requests"] == 150
        clock.advance(60)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize(
    "facts", [{"rpm_limit": 1000}, {"tpm_limit": 7000}, {"rpm_limit": 1000, "tpm_limit": 7000, "max_parallel_requests": 1000}]
)
def test_threads_use_a_limit_up_to_the_last_request(facts: dict[str, Any]) -> None:
    router = one(**facts)
    leases: list[list[Lease]] = [[] for _ in range(THREADS)]

    def work(i: int) -> None:
        leases[i] = fill(router, tokens=7)

    in_threads(work)
    assert sum(map(len, leases)) == 1000
    assert usage(router) == (1000, 1000, 7000)
    in_threads(lambda i: release_all(leases[i]))
    assert usage(router) == (0, 1000, 7000)


@pytest.mark.usefixtures("restless")
def test_threads_settle_to_the_exact_sum() -> None:
    router = Router([Deployment(f"d{i}", "m", max_parallel_requests=2) for i in range(3)], clock=ManualClock(30), seed=5)
    tally = Tally()

    def work(i: int) -> None:
        chance = random.Random(i)
        for _ in range(500):
            try:
                lease = router.acquire("m", tokens=chance.randrange(1000))
            except NoAvailableDeployment:
                continue
            tally.enter(lease)
            actual = chance.randrange(2000)
            tally.leave(lease, actual)
            lease.success(tokens=actual)

    in_threads(work)
    for deployment in router.deployments():
        stats = router.stats(deployment.deployment_id)
        tally.check(stats)
        assert stats.total_tokens == tally.tokens[deployment.deployment_id]
        assert stats.total_successes == stats.total_requests == tally.requests[deployment.deployment_id]


@pytest.mark.usefixtures("restless")
def test_threads_stay_within_the_limits_of_a_moving_clock() -> None:
    clock = ManualClock(0)
    router = one(clock, rpm_limit=50, tpm_limit=2000)
    admitted = Counter[str]()
    lock = threading.Lock()

    def work(i: int) -> None:
        chance = random.Random(i)
        for step in range(600):
            if i == 0 and step % 5 == 0:
                clock.advance(1)
            try:
                lease = router.acquire("m", tokens=chance.randrange(80))
            except NoAvailableDeployment:
                continue
            with lock:
                admitted["requests"] += 1
                admitted["tokens"] += lease.tokens
            lease.release()

    in_threads(work)
    # The clock went through the minutes 0, 1 and 2.
    assert clock.now() == 120
    assert 50 <= admitted["requests"] <= 3 * 50
    assert admitted["tokens"] <= 3 * 2000
    assert router.stats("d").in_flight == 0
    assert router.stats("d").total_requests == admitted["requests"]


@pytest.mark.usefixtures("restless")
def test_threads_never_pass_a_limit_while_deployments_are_replaced() -> None:
    router = Router(mixed_group(), strategy="least_busy", clock=ManualClock(30), seed=5)
    tally = Tally()

    def work(i: int) -> None:
        chance = random.Random(i)
        for step in range(300):
            if i == 0:
                replaced = mixed_group()
                if step % 2:
                    router.set_deployments(chance.sample(replaced, len(replaced)))
                else:
                    router.add_deployment(chance.choice(replaced))
            try:
                lease = router.acquire("m", tokens=chance.choice((0, 1, 7, 50, 90)))
            except NoAvailableDeployment:
                continue
            tally.enter(lease)
            tally.leave(lease)
            lease.release()

    in_threads(work)
    for deployment in router.deployments():
        tally.check(router.stats(deployment.deployment_id))


@pytest.mark.usefixtures("restless")
def test_threads_use_leases_that_are_given_back() -> None:
    router = one(rpm_limit=8, tpm_limit=80, max_parallel_requests=8)

    def work(_: int) -> None:
        for _ in range(1000):
            # Never refused: there is one place, one request and ten tokens a thread.
            router.acquire("m", tokens=10).release(unused=True)

    in_threads(work)
    assert usage(router) == (0, 0, 0)
    assert router.stats("d").total_requests == 0


# --- tasks ---


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_thousands_of_tasks_never_pass_a_limit(strategy: Strategy) -> None:
    clock = ManualClock(30)
    deployments = [
        Deployment("requests", "m", rpm_limit=900),
        Deployment("tokens", "m", tpm_limit=20_000, weight=3),
        Deployment("places", "m", max_parallel_requests=40),
        Deployment("all", "m", rpm_limit=700, tpm_limit=30_000, max_parallel_requests=25, priority=1),
    ]
    router = Router(deployments, strategy=strategy, clock=clock, seed=5)
    tally = Tally()
    chance = random.Random(11)

    async def request(tokens: int, naps: int) -> None:
        for _ in range(5):
            try:
                lease = router.acquire("m", tokens=tokens)
                break
            except NoAvailableDeployment:
                await asyncio.sleep(0)
        else:
            return
        async with lease:
            tally.enter(lease)
            try:
                for _ in range(naps):
                    await asyncio.sleep(0)
            finally:
                tally.leave(lease)

    async def main() -> list[BaseException | None]:
        tasks = [asyncio.create_task(request(chance.randrange(100), chance.randrange(5))) for _ in range(5000)]

        async def cancel() -> None:
            for task in chance.sample(tasks, 800):
                task.cancel()
                if chance.random() < 0.01:
                    await asyncio.sleep(0)

        _, *results = await asyncio.gather(cancel(), *tasks, return_exceptions=True)
        return results

    results = asyncio.run(main())
    assert {type(result) for result in results} == {type(None), asyncio.CancelledError}
    for deployment in deployments:
        stats = router.stats(deployment.deployment_id)
        tally.check(stats)
        assert stats.total_failures == 0
    assert sum(tally.requests.values()) > 1000
    assert max(tally.peak.values()) > 25
