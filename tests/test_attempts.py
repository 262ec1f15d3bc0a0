"""Whole requests without HTTP: `attempts`, `call`, `call_async`, hedges, the budget, and what a lease has for
them.
"""

import asyncio
import gc
import threading
import time
import weakref
from typing import Any

import pytest
import trio
from turnout import (
    AttemptRecord,
    Budget,
    Deployment,
    FailureKind,
    Fallbacks,
    Hedge,
    Lease,
    ManualClock,
    ModelNotFound,
    NoAvailableDeployment,
    Retry,
    Router,
    Timeouts,
    attempts_of,
)


class Refused(Exception):
    """As an HTTP client raises it."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        self.response = type("Response", (), {"headers": {name.replace("_", "-"): said for name, said in headers.items()}})()


def fails(*bad: str, error: type[BaseException] | BaseException = ConnectionError) -> Any:
    def send(lease: Lease) -> str:
        if lease.deployment_id in bad:
            raise error
        return lease.deployment_id

    return send


def three(**options: Any) -> Router:
    options.setdefault("strategy", "priority_based")
    return Router([Deployment(id_, "m", priority=nth) for nth, id_ in enumerate("abc")], **options)


# --- call ---


def test_a_call_goes_on_to_another_deployment() -> None:
    router = three()
    records: list[AttemptRecord] = []
    assert router.call("m", fails("a", "b"), records=records) == "c"
    assert [(record.deployment_id, record.kind) for record in records] == [
        ("a", FailureKind.CONNECTION),
        ("b", FailureKind.CONNECTION),
        ("c", None),
    ]
    metrics = router.metrics()
    assert (metrics.attempts, metrics.retries, metrics.in_flight) == (3, 2, 0)


def test_the_last_error_itself_comes_out_with_a_note() -> None:
    router = three(clock=ManualClock())
    errors: list[BaseException] = []

    def send(lease: Lease) -> None:
        errors.append(Refused(500 + len(errors)))
        raise errors[-1]

    with pytest.raises(Refused) as caught:
        router.call("m", send)
    assert caught.value is errors[-1]
    assert [record.status for record in attempts_of(caught.value)] == [500, 501, 502]
    (note,) = getattr(caught.value, "__notes__")  # noqa: B009 - Python 3.10 does not know it
    assert note == (
        "turnout: 'a': error 500 after 0.000 s; 'b': error 501 after 0.000 s; 'c': error 502 after 0.000 s "
        "(all attempts are spent (3))"
    )


def test_a_wrong_request_is_sent_once() -> None:
    router = three()
    with pytest.raises(Refused) as caught:
        router.call("m", fails("a", "b", "c", error=Refused(400)))
    assert len(attempts_of(caught.value)) == 1


def test_a_refusal_gives_way_to_the_error_of_an_attempt() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1)], timeouts=Timeouts(capacity=0.0))
    with router.acquire("m"), pytest.raises(NoAvailableDeployment) as refused:
        router.call("m", fails())
    assert attempts_of(refused.value) == ()
    assert getattr(refused.value, "__notes__") == [  # noqa: B009
        "turnout: nothing was sent (no deployment is available)"
    ]

    def send(lease: Lease) -> None:
        router.cool_down("a", 60.0)
        raise ConnectionError

    with pytest.raises(ConnectionError) as failed:
        router.call("m", send)
    assert len(attempts_of(failed.value)) == 1


def test_a_fallback_serves_and_an_unknown_one_is_an_error() -> None:
    router = Router([Deployment("a", "m"), Deployment("f", "other")], retry=Retry(attempts=1))
    assert router.call("m", fails("a"), fallbacks=Fallbacks({"m": ["other"]})) == "f"
    assert router.metrics().fallbacks == 1
    with pytest.raises(ModelNotFound, match="nobody") as caught:
        router.call("m", fails("a"), fallbacks=Fallbacks({"m": ["nobody"]}))
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_an_alias_is_visited_with_its_model_name() -> None:
    router = Router([Deployment("a", "m")], retry=Retry(attempts=1), fallbacks=Fallbacks({"m": ["alias", "m"]}))
    router.add_alias("alias", "m")
    with pytest.raises(ConnectionError) as caught:
        router.call("m", fails("a"))
    assert len(attempts_of(caught.value)) == 1


def test_a_call_waits_for_a_cooldown_that_ends_in_time() -> None:
    clock = ManualClock()
    router = Router([Deployment("a", "m")], clock=clock)
    errors = [Refused(429, retry_after="7")]

    def send(lease: Lease) -> str:
        if errors:
            raise errors.pop()
        return "late"

    assert router.call("m", send) == "late"
    assert 7.0 <= clock.now() < 7.3
    errors.append(Refused(429, retry_after="31"))
    with pytest.raises(Refused):
        router.call("m", send)


def test_a_thread_waits_in_real_time() -> None:
    router = three(retry=Retry(attempts=9), strategy="round_robin", timeouts=Timeouts(total=0.3))
    began = time.monotonic()
    with pytest.raises(Refused):
        router.call("m", fails("a", "b", "c", error=Refused(500)))
    assert time.monotonic() - began < 2.0


def test_interruptions_are_not_retried() -> None:
    for error in (KeyboardInterrupt, SystemExit, GeneratorExit):
        router = three()
        with pytest.raises(error):
            router.call("m", fails("a", error=error))
        stats = router.stats("a")
        assert (stats.in_flight, stats.total_failures, router.metrics().attempts) == (0, 0, 1)


def test_wrong_arguments_name_what_is_allowed() -> None:
    router = three()
    with pytest.raises(TypeError, match="call\\(\\) has no keyword 'token'; it has dialect, exclude"):
        router.call("m", fails(), token=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="send must be a callable, not None"):
        router.call("m", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tokens"):
        router.call("m", fails(), tokens="3")  # type: ignore[arg-type]
    for wrong in ("a", 5):
        with pytest.raises(TypeError, match="exclude must be an iterable of str"):
            router.call("m", fails(), exclude=wrong)  # type: ignore[arg-type]
    assert router.metrics().total_requests == 0


# --- the loop ---


def test_the_loop_swallows_what_another_attempt_may_mend() -> None:
    router = three()
    seen = []
    for attempt in router.attempts("m", tokens=5):
        with attempt as lease:
            seen.append((lease.deployment_id, lease.tokens))
            if lease.deployment_id != "c":
                raise ConnectionError
    assert seen == [("a", 5), ("b", 5), ("c", 5)]


def test_what_is_excluded_stays_so_and_may_be_an_iterator() -> None:
    router = three(retry=Retry(attempts=4))
    seen = []
    for attempt in router.attempts("m", exclude=iter(["a"])):
        with attempt as lease:
            seen.append(lease.deployment_id)
            if len(seen) < 3:
                raise ConnectionError
    assert seen == ["b", "c", "b"]


def test_an_attempt_has_the_time_that_is_left() -> None:
    clock = ManualClock()
    router = three(clock=clock, timeouts=Timeouts(total=1.0, attempt=0.4))
    limits = []
    for attempt in router.attempts("m"):
        limits.append(attempt.timeout)
        with attempt:
            clock.advance(0.4)
            if len(limits) < 3:
                raise ConnectionError
    assert limits == [0.4, 0.4, pytest.approx(0.2)]


def test_a_loop_can_be_left_at_any_place() -> None:
    router = three()
    attempts = router.attempts("m")
    for attempt in attempts:
        with attempt:
            break
    assert [attempt.record for attempt in router.attempts("m")] == [None]
    assert (router.metrics().in_flight, router.stats("a").rpm_current) == (0, 1)


def test_the_loop_of_a_task() -> None:
    router = three()

    async def main() -> list[str]:
        seen = []
        async for attempt in router.attempts("m"):
            async with attempt as lease:
                seen.append(lease.deployment_id)
                if len(seen) < 3:
                    raise ConnectionError
        return seen

    assert asyncio.run(main()) == ["a", "b", "c"]
    assert trio.run(main) == ["a", "b", "c"]


# --- tasks ---


@pytest.mark.parametrize("run", [asyncio.run, lambda coroutine: trio.run(lambda: coroutine)], ids=["asyncio", "trio"])
def test_a_task_keeps_its_deadline(run: Any) -> None:
    import anyio

    router = three()

    async def send(lease: Lease) -> None:
        await anyio.sleep(10)

    began = time.monotonic()
    with pytest.raises(TimeoutError, match="did not answer within") as caught:
        run(router.call_async("m", send, timeouts=Timeouts(total=0.6, attempt=0.2)))
    assert 0.55 <= time.monotonic() - began < 2.0
    assert [record.kind for record in attempts_of(caught.value)] == [FailureKind.TIMEOUT] * 3
    assert router.metrics().in_flight == 0


def test_a_cancelled_task_gives_its_place_back() -> None:
    router = three()

    async def send(lease: Lease) -> None:
        await asyncio.sleep(10)

    async def main() -> None:
        task = asyncio.create_task(router.call_async("m", send))
        await asyncio.sleep(0.02)
        assert router.metrics().in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    stats = router.stats("a")
    assert (stats.in_flight, stats.total_failures, router.metrics().attempts) == (0, 0, 1)


# --- hedges ---


def test_the_first_answer_wins_and_the_loser_is_cancelled() -> None:
    router = three()
    cancelled = []
    records: list[AttemptRecord] = []

    async def send(lease: Lease) -> str:
        if lease.deployment_id == "a":
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                cancelled.append(time.monotonic())
                raise
        return lease.deployment_id

    assert asyncio.run(router.call_async("m", send, hedge=Hedge(after=0.02), records=records)) == "b"
    assert len(cancelled) == 1
    assert [(record.deployment_id, record.kind) for record in records] == [("a", FailureKind.CANCELLED), ("b", None)]
    stats = router.stats("a")
    assert (stats.in_flight, stats.total_failures, stats.total_successes) == (0, 0, 0)
    assert router.metrics().hedges == 1


def test_no_hedge_while_the_group_refuses_or_the_budget_is_spent() -> None:
    async def send(lease: Lease) -> str:
        await asyncio.sleep(0.1)
        return lease.deployment_id

    alone = Router([Deployment("a", "m")])
    assert asyncio.run(alone.call_async("m", send, hedge=Hedge(after=0.01))) == "a"
    poor = three(retry=Retry(budget=Budget(share=0.0, per_second=0.0)))
    assert asyncio.run(poor.call_async("m", send, hedge=Hedge(after=0.01))) == "a"
    assert alone.metrics().hedges == poor.metrics().hedges == 0


def test_if_both_fail_the_call_goes_on() -> None:
    router = three()

    async def send(lease: Lease) -> str:
        await asyncio.sleep(0.05)
        if lease.deployment_id != "c":
            raise ConnectionError
        return lease.deployment_id

    assert asyncio.run(router.call_async("m", send, hedge=Hedge(after=0.01))) == "c"
    assert router.metrics().in_flight == 0


def test_a_cancelled_race_leaves_nothing() -> None:
    router = three()

    async def send(lease: Lease) -> None:
        await asyncio.sleep(10)

    async def main() -> None:
        task = asyncio.create_task(router.call_async("m", send, hedge=Hedge(after=0.01)))
        await asyncio.sleep(0.1)
        assert router.metrics().in_flight == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert router.metrics().in_flight == 0

    asyncio.run(main())


# --- the budget ---


def test_a_storm_of_retries_is_bounded_and_ends() -> None:
    """REQUESTS: 1,000 calls a second to deployments that all answer 500, in simulated time."""
    clock = ManualClock()
    router = three(clock=clock, retry=Retry(backoff=turnout_backoff()))
    budget = Budget()
    calls = broken = 0
    for second in range(20):
        broken = second < 15
        for _ in range(1000):
            calls += 1
            try:
                router.call("m", fails(*("abc" if broken else ""), error=Refused(500)))
            except (Refused, NoAvailableDeployment):
                assert broken
            clock.advance(0.001)
            elapsed = max(clock.now(), 1.0)
            assert router.metrics().attempts <= calls * (1 + budget.share) + budget.per_second * elapsed
    metrics = router.metrics()
    assert metrics.budget_refusals > 1000
    assert metrics.retries > 1000
    assert metrics.total_successes > 4000


def turnout_backoff() -> Any:
    from turnout import Backoff

    return Backoff(base=0.0)


def test_threads_share_one_budget_exactly() -> None:
    router = Router([Deployment("a", "m"), Deployment("b", "m")], retry=Retry(budget=Budget(share=0.5, per_second=0.0), attempts=2))
    for id_ in "ab":
        assert router.stats(id_).total_requests == 0

    def work() -> None:
        for _ in range(250):
            with pytest.raises(Refused):
                router.call("m", fails("a", "b", error=Refused(500)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics = router.metrics()
    assert metrics.retries <= 1000
    assert metrics.retries + metrics.budget_refusals + router._budget(0.5, 0.0, 10.0).balance() >= 1000
    assert metrics.attempts == 2000 + metrics.retries


# --- callbacks and the end ---


def test_callbacks_hear_of_each_attempt() -> None:
    router = three()
    heard: list[AttemptRecord] = []
    unsubscribe = router.on_attempt(heard.append)
    router.call("m", fails("a"))
    assert [(record.deployment_id, record.kind) for record in heard] == [("a", FailureKind.CONNECTION), ("b", None)]
    unsubscribe()
    unsubscribe()
    retries = router.metrics().retries
    router.call("m", fails("a"), records=heard)
    router.call("m", fails(), records=heard)  # a list of the caller's may hold those of other calls
    assert (len(heard), router.metrics().retries) == (5, retries + 1)
    del heard[2:]
    router.call("m", fails())
    assert len(heard) == 2
    with pytest.raises(TypeError, match="callback must be a callable"):
        router.on_attempt(3)  # type: ignore[arg-type]


def test_an_exception_of_a_callback_does_not_reach_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", told.append)
    router = three()

    def callback(record: AttemptRecord) -> None:
        raise ZeroDivisionError

    router.on_attempt(callback)
    assert router.call("m", fails()) == "a"
    assert [type(one.exc_value) for one in told] == [ZeroDivisionError]


def test_a_router_is_closed_once() -> None:
    closed = []

    class Client:
        def close(self) -> None:
            closed.append("sync")

    class AsyncClient:
        async def aclose(self) -> None:
            closed.append("async")

    router = three()
    with router as entered:
        assert entered is router
        client = Client()
        router._execution.on_close(client)
    assert closed == ["sync"]
    router.close()
    assert closed == ["sync"]

    async def main() -> None:
        clients = (Client(), AsyncClient())
        async with three() as inner:
            for client in clients:
                inner._execution.on_close(client)

    asyncio.run(main())
    assert sorted(closed[1:]) == ["async", "sync"]


# --- what a lease has ---


def test_a_reader_who_leaves_pays_for_what_was_generated() -> None:
    router = Router([Deployment("a", "m", tpm_limit=1000)])
    lease = router.acquire("m", tokens=900)
    assert lease.release(tokens=120)
    stats = router.stats("a")
    assert (stats.tpm_current, stats.total_successes, stats.total_failures, stats.in_flight) == (120, 0, 0, 0)
    assert not lease.release(tokens=5)
    lease = router.acquire("m", tokens=500)
    assert lease.release(input_tokens=30, output_tokens=12)
    assert router.stats("a").tpm_current == 162
    with router.acquire("m", tokens=1) as lease, pytest.raises(ValueError, match="unused must not be True together with tokens"):
        lease.release(unused=True, tokens=3)


def test_the_first_token_is_noted_once() -> None:
    clock = ManualClock()
    router = Router([Deployment("a", "m")], clock=clock)
    lease = router.acquire("m")
    assert lease.first_token_after is None
    clock.advance(0.25)
    assert lease.first_token()
    clock.advance(1.0)
    assert not lease.first_token()
    assert lease.first_token_after == 0.25
    lease.success()
    assert not lease.first_token()
    stats = router.stats("a")
    assert (stats.avg_first_token, stats.avg_latency) == (0.25, 1.25)


def test_latencies_are_compared_by_first_tokens_once_one_is_known() -> None:
    clock = ManualClock()
    router = Router([Deployment(id_, "m") for id_ in "abc"], strategy="latency_based", clock=clock)

    def stream(id_: str, first: float | None, whole: float) -> None:
        lease = router.acquire("m", only={id_})
        if first is not None:
            clock.advance(first)
            lease.first_token()
        lease.success(latency=whole)

    stream("a", None, 3.0)
    stream("b", None, 1.0)
    assert router.select("m") == "b"
    # Long answers of a fast deployment.
    stream("c", 0.1, 60.0)
    stream("a", 0.5, 4.0)
    assert router.select("m") == "c"
    for _ in range(30):
        stream("a", 0.05, 60.0)
    assert router.select("m") == "a"
    contexts = {context.deployment_id: context.avg_latency_us for context in build(router)}
    assert contexts["a"] < 60_000
    assert (contexts["b"], contexts["c"]) == (0, 100_000)
    # The others are compared as whole calls again once no first token is known.
    router.remove_deployment("a")
    router.remove_deployment("c")
    assert router.select("m") == "b"
    assert build(router)[0].avg_latency_us == 1_000_000


def build(router: Router) -> Any:
    from turnout.strategies import build_routing_contexts

    return build_routing_contexts(router, [deployment.deployment_id for deployment in router.deployments()])


def test_only_these_deployments() -> None:
    router = Router([Deployment(str(nth), "m") for nth in range(100)], strategy="least_busy")
    assert router.select("m", only={"42"}) == "42"
    assert {router.select("m", only={"7", "8"}) for _ in range(50)} == {"7", "8"}
    assert router.select("m", only={"7", "8"}, exclude={"7"}) == "8"
    with pytest.raises(NoAvailableDeployment) as refused:
        router.acquire("m", only={"unknown"}, timeout=5)
    assert refused.value.reasons == {"only": 100}
    with pytest.raises(NoAvailableDeployment):
        router.select("m", only=())
    verdicts = router.explain("m", only={"3"}).verdicts
    assert [verdict.deployment_id for verdict in verdicts if verdict.gate is None] == ["3"]
    with pytest.raises(TypeError, match="only must be an iterable of str"):
        router.select("m", only="3")


def test_a_waiter_for_one_deployment_gets_that_one() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1), Deployment("b", "m", max_parallel_requests=1)])
    a, b = router.acquire("m", only={"a"}), router.acquire("m", only={"b"})
    got: list[str] = []

    def wait() -> None:
        with router.acquire("m", only={"b"}, timeout=10) as lease:
            got.append(lease.deployment_id)

    thread = threading.Thread(target=wait)
    thread.start()
    while router.waiting("m") == 0:
        time.sleep(0.001)
    a.release()
    time.sleep(0.05)
    assert got == []
    b.release()
    thread.join()
    assert got == ["b"]


def test_nothing_is_kept_alive_by_a_call() -> None:
    router = three()

    class Big:
        pass

    alive: list[weakref.ref[Big]] = []

    def send(lease: Lease) -> None:
        big = Big()
        alive.append(weakref.ref(big))
        raise ValueError(big)

    with pytest.raises(ValueError, match="Big"):
        router.call("m", send, retry=Retry(attempts=1))
    gc.collect()
    assert [ref() for ref in alive] == [None]


def test_nobody_waits_for_a_time_that_comes_too_late() -> None:
    router = three(timeouts=Timeouts(capacity=20.0))
    for id_ in "abc":
        router.cool_down(id_, 60.0)
    began = time.monotonic()
    with pytest.raises(NoAvailableDeployment):
        router.call("m", fails())

    async def send(lease: Lease) -> None:
        """Is not reached."""

    with pytest.raises(NoAvailableDeployment):
        asyncio.run(router.call_async("m", send))
    assert time.monotonic() - began < 5
