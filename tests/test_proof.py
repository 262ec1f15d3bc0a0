"""The soak and the fuzzer, for some seconds each, and that they find what is wrong."""

import inspect
import random
import subprocess
import sys
from pathlib import Path

import pytest
import turnout
from fuzz.calls import targets
from turnout import Router

TESTS = Path(__file__).parent


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-X", "faulthandler", *arguments]
    return subprocess.run(command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=240)


@pytest.mark.parametrize("what", ["soak", "fuzz"])
def test_it_finds_no_fault(what: str) -> None:
    done = run("-m", what, "--minutes", "0.3")
    assert done.returncode == 0, done.stdout
    assert "no fault" in done.stdout


def test_a_ledger_that_was_told_less_finds_a_fault() -> None:
    code = """
from soak.epoch import Epoch

epoch = Epoch("manual", 5, told_amounts=0.3)
epoch.run(3.0)
print(*epoch.faults)
"""
    done = run("-c", code)
    assert "were admitted in it for certain" in done.stdout, done.stdout


def test_a_ledger_that_was_told_of_fewer_places_finds_a_fault() -> None:
    code = """
from soak.epoch import Epoch

epoch = Epoch("exact", 5)
epoch.ledger.most_parallel["steady-1"] = 1
epoch.run(3.0)
print(*epoch.faults)
"""
    done = run("-c", code)
    assert "2 in flight on 'steady-1', which allows 1" in done.stdout, done.stdout


def test_all_that_is_public_is_called() -> None:
    found = {(target.owner, target.name) for target in targets()}
    for name in vars(Router):
        if not name.startswith("_") and callable(getattr(Router, name)):
            assert (Router, name) in found
    functions = {name for name in turnout.__all__ if inspect.isroutine(getattr(turnout, name))}
    assert {(None, name) for name in functions} <= found
    assert len(found) > 150


def test_a_seed_draws_the_same_facts() -> None:
    from soak import facts

    first, second = (facts.limited(random.Random(3), True) for _ in range(2))
    assert first == second
