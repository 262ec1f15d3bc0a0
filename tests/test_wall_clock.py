"""The wall clock is set while a router runs: what follows it, and what does not.

A library that is loaded before all others stands between the process and the wall clock. It adds what a file
says.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHIM = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* CLOCK_REALTIME as set by hand; all other clocks as they are. */
int clock_gettime(clockid_t clock, struct timespec *time) {
    long failed = syscall(SYS_clock_gettime, clock, time), seconds;
    const char *path = getenv("TURNOUT_TEST_WALL");
    FILE *file = clock == CLOCK_REALTIME && path != NULL ? fopen(path, "r") : NULL;
    if (file != NULL) {
        if (fscanf(file, "%ld", &seconds) == 1) time->tv_sec += seconds;
        fclose(file);
    }
    return failed;
}
"""

PROGRAM = r"""
import os, sys, time
from turnout import Deployment, Limit, NoAvailableDeployment, Router, WaitTimeout

def step(seconds):
    with open(os.environ["TURNOUT_TEST_WALL"], "w") as file:
        file.write(str(seconds))
    time.sleep(0.05)

def apart(resets_in, per):
    off = abs(resets_in - (per - time.time() % per)) % per
    return min(off, per - off)

limits = [Limit(requests=1000, per=60), Limit(tokens=10**6, per=86_400), Limit(requests=1000, per=60, start="first_use")]
router = Router([Deployment("a", "m", limits=limits, rpm_limit=1000), Deployment("out", "n")], strategy="usage_based")
router.cool_down("out", 100.0)
router.acquire("m", tokens=7).release()
for seconds in (30, 45, 7200, 20 * 86_400):
    step(seconds)
    router.acquire("m", tokens=7).release()
    minute, day, of_use = router.stats("a").limits
    assert minute.used >= 1 and apart(minute.resets_in, 60) < 1, (seconds, minute)
    assert day.used >= 7 and apart(day.resets_in, 86_400) < 1, (seconds, day)
    assert of_use.used == of_use.limit.amount - of_use.remaining >= 2, "a window of first use goes by the time that has passed"
    assert 95 < router.stats("out").cooldown_remaining <= 100, "a cooldown too"

# A step back is not followed: nothing is counted twice, and no window lasts longer.
before = router.stats("a").limits[0]
step(3600)
after = router.stats("a").limits[0]
assert after.resets_in <= before.resets_in

# A minute that is full is over, also for the index.
full = Router([Deployment("b", "m", rpm_limit=2)], strategy="round_robin")
for _ in range(2):
    full.acquire("m").release()
try:
    full.acquire("m")
    sys.exit("a third request passed")
except NoAvailableDeployment as error:
    assert 0 < error.retry_after <= 60
step(21 * 86_400)
full.acquire("m").release()
two = Router([Deployment("c", "m", rpm_limit=1), Deployment("d", "m", priority=1)], strategy="priority_based")
assert [two.select("m"), two.acquire("m").deployment_id, two.select("m")] == ["c", "c", "d"]
step(22 * 86_400)
assert two.select("m") == "c"
print("done")
"""


def test_what_follows_the_wall_clock_when_it_is_set_forward(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    (tmp_path / "shim.c").write_text(SHIM)
    (tmp_path / "wall").write_text("0")
    library = tmp_path / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "shim.c"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library), "TURNOUT_TEST_WALL": str(tmp_path / "wall")}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr
