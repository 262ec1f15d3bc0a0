"""Rules of retrying that a deployment has of its own."""

import pickle

import pytest
from turnout import Backoff, Deployment, FailureKind, Fallbacks, Lease, Options, Retry, Router

NO_PAUSE = Backoff(base=0.0)


def failing(router: Router, error: Exception, name: str = "m", **options: object) -> list[str]:
    """The deployments that a call tries before it gives up."""
    tried: list[str] = []

    def send(lease: Lease) -> None:
        tried.append(lease.deployment_id)
        raise error

    with pytest.raises(type(error)):
        router.call(name, send, **options)  # type: ignore[arg-type]
    return tried


def in_order(*retries: Retry | None, **options: object) -> Router:
    deployments = [Deployment(str(nth), "m", priority=nth, retry=retry) for nth, retry in enumerate(retries)]
    return Router(deployments, strategy="priority_based", **options)  # type: ignore[arg-type]


def test_the_deployment_that_failed_decides_whether_there_is_another_attempt() -> None:
    assert failing(in_order(Retry(attempts=1), None), ConnectionError()) == ["0"]
    assert failing(in_order(None, Retry(attempts=2), None), ConnectionError()) == ["0", "1"]
    more = in_order(Retry(attempts=5, backoff=NO_PAUSE), retry=Retry(attempts=1))
    assert len(failing(more, ConnectionError())) == 5


def test_its_kinds_count() -> None:
    router = in_order(Retry(kinds=[FailureKind.RATE_LIMIT]), None)
    assert failing(router, ConnectionError()) == ["0"]


def test_its_pauses_and_whether_it_is_tried_again_count() -> None:
    assert failing(in_order(Retry(attempts=4, same_deployment=False)), ConnectionError()) == ["0"]
    assert failing(in_order(Retry(attempts=3, backoff=NO_PAUSE)), ConnectionError()) == ["0"] * 3


def test_a_retry_of_the_call_comes_first_and_then_the_deployment_and_then_the_router() -> None:
    router = in_order(Retry(attempts=1), None, model_options={"m": Options(retry=Retry(attempts=2))})
    assert failing(router, ConnectionError()) == ["0"]
    assert failing(router, ConnectionError(), retry=Retry(attempts=2)) == ["0", "1"]


def test_it_does_not_follow_the_call_to_a_fallback() -> None:
    router = Router(
        [Deployment("a", "m", retry=Retry(attempts=1)), Deployment("b", "other"), Deployment("c", "other")],
        fallbacks=Fallbacks({"m": ["other"]}),
        retry=Retry(attempts=2),
    )
    assert sorted(failing(router, ConnectionError())) == ["a", "b", "c"]


def test_it_is_a_fact_of_the_deployment() -> None:
    retry = Retry(attempts=1)
    deployment = Deployment("a", "m", retry=retry)
    assert deployment.retry is retry
    assert pickle.loads(pickle.dumps(deployment)) == deployment.replace() == deployment != Deployment("a", "m")
    assert "retry=Retry(attempts=1" in repr(deployment)
    with pytest.raises(TypeError, match="retry must be a Retry or None, not 3"):
        Deployment("a", "m", retry=3)  # type: ignore[arg-type]
