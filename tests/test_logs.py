"""The log of a router: what is in it, of which level, and that nothing is heard without a handler."""

import gc
import logging
import subprocess
import sys
import weakref

import pytest
from turnout import Deployment, Event, Health, Learning, ManualClock, Router
from turnout.enums import EventKind
from turnout.logs import log_attempts, log_events


def router_of(*ids: str, **options: object) -> tuple[Router, ManualClock]:
    clock = ManualClock(1.0)
    health = Health(cooldown_jitter=0.0, panic_threshold=0.5)
    return Router([Deployment(one, "m") for one in ids], clock=clock, seed=1, health=health, **options), clock  # type: ignore[arg-type]


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "turnout"]


def test_events_have_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="turnout")
    router, _ = router_of("a", "b", "c")
    end = log_events(router)
    router.cool_down("a", 60.0)
    router.cool_down("b", 60.0)
    router.report_health("a", True)
    for _ in range(2):
        router.acquire("m", exclude={"b", "c"}).success()
    router.acquire("m", exclude={"a", "b"}).failure("rate_limit")
    assert set(said(caplog)) == {
        ("WARNING", "deployment 'a' of group 'm': cooldown: asked for, out for 60.000 s"),
        ("WARNING", "deployment 'b' of group 'm': cooldown: asked for, out for 60.000 s"),
        ("WARNING", "group 'm': panic: too few are in service: health is ignored"),
        ("INFO", "group 'm': panic_over: enough are in service"),
        ("INFO", "deployment 'a' of group 'm': recovery: back in service"),
        ("DEBUG", "deployment 'c' of group 'm': limit_learnt: refused, at most 1 in flight from now on"),
        ("WARNING", "deployment 'c' of group 'm': cooldown: rate_limit, out for 5.000 s"),
    }
    event = caplog.records[0].__dict__["turnout_event"]
    assert isinstance(event, Event)
    assert (event.kind, event.deployment_id) == (EventKind.COOLDOWN, "a")

    caplog.clear()
    end()
    router.cool_down("a", 90.0)
    assert said(caplog) == []


@pytest.mark.parametrize("kind", EventKind)
def test_every_kind_of_event_has_a_level(kind: EventKind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="turnout")
    told = []

    class Telling:
        def subscribe(self, callback: object) -> None:
            told.append(callback)

    log_events(Telling())  # type: ignore[arg-type]
    told[0](Event(kind, None, "m", 1.0, "why"))  # type: ignore[operator]
    assert [text for _, text in said(caplog)] == [f"group 'm': {kind}: why"]


def test_a_name_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    router, _ = router_of("a\nERROR forged", "b")
    log_events(router)
    router.cool_down("a\nERROR forged", 60.0)
    assert [text for _, text in said(caplog)] == [
        "deployment 'a\\nERROR forged' of group 'm': cooldown: asked for, out for 60.000 s"
    ]


def test_another_logger_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    router, _ = router_of("a", "b")
    log_events(router, logging.getLogger("mine"))
    router.cool_down("a", 60.0)
    assert [record.name for record in caplog.records] == ["mine"]


def test_attempts_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="turnout")
    router, _ = router_of("a", "b", learning=Learning(concurrency=False))
    router.configure(strategy="round_robin")
    end = log_attempts(router)

    def send(lease: object) -> str:
        if lease.deployment_id == "a":  # type: ignore[attr-defined]
            raise ConnectionError("sk-secret")
        return "hello"

    assert router.call("m", send) == "hello"
    assert said(caplog) == [
        ("INFO", "attempt of 'm': 'a': connection after 0.000 s"),
        ("DEBUG", "attempt of 'm': 'b': ok after 0.000 s"),
    ]
    assert "sk-secret" not in caplog.text
    assert caplog.records[1].__dict__["turnout_attempt"].deployment_id == "b"
    end()
    caplog.clear()
    router.call("m", lambda lease: "hello")
    assert said(caplog) == []


@pytest.mark.parametrize("log", [log_events, log_attempts])
def test_a_logger_is_a_logger(log: object) -> None:
    router, _ = router_of("a")
    with pytest.raises(TypeError, match=r"logger must be a logging\.Logger, not 'turnout' \(str\)"):
        log(router, "turnout")  # type: ignore[operator]


@pytest.mark.parametrize("log", [log_events, log_attempts])
def test_a_log_keeps_no_router_alive(log: object) -> None:
    router, _ = router_of("a")
    end = log(router)  # type: ignore[operator]
    weak = weakref.ref(router)
    del router
    gc.collect()
    assert weak() is None
    end()


QUIET = """
from turnout import Deployment, Router
{}
router = Router([Deployment("a", "m"), Deployment("b", "m")])
from turnout.logs import log_events
from turnout.probe import Probes
log_events(router)
router.cool_down("a", 60.0)
Probes(router, lambda deployment: deployment.deployment_id != "b", failures=1).run_once()
assert router.stats("b").status == "unhealthy"
"""


@pytest.mark.parametrize(("before", "lines"), [("", 0), ("import logging; logging.basicConfig()", 2)])
def test_nothing_is_heard_without_a_handler(before: str, lines: int) -> None:
    ran = subprocess.run([sys.executable, "-c", QUIET.format(before)], capture_output=True, text=True, check=True)
    assert len(ran.stderr.splitlines()) == lines, ran.stderr
    assert ran.stdout == ""


def test_the_logger_of_probes_alone_is_quiet() -> None:
    script = QUIET.format("").replace("from turnout.logs import log_events\n", "").replace("log_events(router)\n", "")
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
