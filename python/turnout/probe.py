"""Active health checks: deployments that fail them are taken out until they pass again.

>>> from turnout import Deployment, Router
>>> from turnout.probe import Probes
>>> router = Router([Deployment("a", "m"), Deployment("b", "m")], strategy="priority_based")
>>> probes = Probes(router, lambda deployment: deployment.deployment_id != "a", failures=1)
>>> probes.run_once()
{'a': False, 'b': True}
>>> router.select("m")
'b'
"""

import asyncio
import heapq
import inspect
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import turnout.logs  # noqa: F401 - without it the logger is not quiet by default
from turnout._core import Deployment, Router
from turnout.enums import Status
from turnout.exceptions import ConfigurationError, DeploymentNotFound

__all__ = ["Check", "Probes"]

Check: TypeAlias = Callable[[Deployment], bool | Awaitable[bool | None] | None]

# The result of a check: a verdict, none, or an exception that tells why the deployment is not healthy.
_Finding: TypeAlias = bool | Exception | None

# The queue's entry for a look at the router's deployments. No deployment has an empty id.
_LOOK = ""

# About eleven days. Every platform can wait for that long.
_MOST_SECONDS = 1e6

_log = logging.getLogger(__name__)


class Probes:
    """Checks a router's deployments over and over, one at a time. Reports the results by
    `Router.report_health`.

    Run them in one of these ways, and in one at a time:

    - ``with probes:``, or :meth:`start` and :meth:`stop`: a daemon thread;
    - :meth:`run`: a task of your event loop;
    - :meth:`run_once` or :meth:`run_once_async`: one round, for a scheduler of your own.

    If the checks of a deployment fail ``failures`` times in a row, it is reported unhealthy and gets no more
    traffic. One good check reports it well, on probation. A deployment that is cooling down stays so: either
    the provider asked for the pause, or requests failed in a way that a check does not notice.

    Each deployment is first checked at a random moment of the first interval. So neither deployments nor
    processes are checked in step. Call :meth:`run_once` first if you cannot wait. Deployments that are added
    later are found within an interval. Deployments that are removed are dropped.

    The times are those of the real clock, even if the router has another one. A forked process needs probes
    of its own. The logger ``turnout.probe`` logs the deployments that are taken out and brought back.

    Args:
        router: The router.
        check: A function that takes a :class:`turnout.Deployment`, or a mapping of deployment ids to such
            functions. Ids that the mapping lacks are not checked. True is healthy. False and an exception are
            not healthy. None is no verdict. It may be async under :meth:`run` and :meth:`run_once_async`.
            ``CancelledError`` and ``KeyboardInterrupt`` are not caught and end the probes.
        interval: Seconds from the end of a deployment's check to its next check, over 0, at most 1e6.
        jitter: The largest share by which each interval is made longer or shorter at random, 0 to below 1.
        timeout: Seconds that a check may take, over 0, at most 1e6. An async check is cancelled after them. A
            plain function cannot be cut off: the other checks wait until it returns. It then counts as a
            failure. So give such a function a timeout of its own.
        failures: How many checks in a row must fail, at least 1. With the default of 2, a lost packet or a
            restart does no harm. Failing requests tell the router faster than checks do in any case.
        only_unhealthy: Check only deployments that a good check would bring back, for checks that cost money.
            Other code must then report them unhealthy.
        end_cooldowns: Whether a good check ends a cooldown too. That is right if the check does what requests
            do. It is wrong if the provider limits rates, which a check does not notice.
        seed: Makes the random moments repeatable.

    Raises:
        ConfigurationError: A number is out of range.
        TypeError: ``check`` is neither callable nor a mapping.
    """

    def __init__(
        self,
        router: Router,
        check: Check | Mapping[str, Check],
        *,
        interval: float = 30.0,
        jitter: float = 0.1,
        timeout: float = 10.0,
        failures: int = 2,
        only_unhealthy: bool = False,
        end_cooldowns: bool = False,
        seed: int | None = None,
    ) -> None:
        if not isinstance(check, Mapping) and not callable(check):
            raise TypeError(f"check must be callable or a mapping of deployment ids to callables, not {check!r}")
        for name, seconds in (("interval", interval), ("timeout", timeout)):
            if not 0 < seconds <= _MOST_SECONDS:
                raise ConfigurationError(f"{name} must be over 0 and at most 1e6 seconds, not {seconds!r}")
        if not 0 <= jitter < 1:
            raise ConfigurationError(f"jitter must be at least 0 and below 1, not {jitter!r}")
        if failures < 1:
            raise ConfigurationError(f"failures must be at least 1, not {failures!r}")
        self._router = router
        self._check = check
        self._interval = interval
        self._jitter = jitter
        self._timeout = timeout
        self._failures = failures
        self._only_unhealthy = only_unhealthy
        self._end_cooldowns = end_cooldowns
        self._random = random.Random(seed)
        # The checks that failed in a row, by deployment. Deployments without any are not in it.
        self._failed: dict[str, int] = {}
        self._running = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    # --- a thread ---

    def start(self) -> None:
        """Check from now on, in a daemon thread.

        Raises:
            RuntimeError: The probes are running, or the last check before a :meth:`stop` has not returned.
            TypeError: A check is async.
        """
        checks = self._check.values() if isinstance(self._check, Mapping) else [self._check]
        if any(inspect.iscoroutinefunction(check) for check in checks):
            raise _needs_a_loop()
        self._claim()
        # A new event for each run, so that a thread that was left behind in its check stays stopped.
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(self._stopped,), name="turnout-probes", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # the system has no thread left
            self._running.release()
            raise

    def stop(self) -> bool:
        """End the thread: at once if it waits, otherwise after its check. The outcome of that check is not
        reported any more.

        Returns:
            Whether the thread ended. False if its check has not returned within ``timeout`` seconds. The
            thread then goes on by itself.
        """
        self._stopped.set()
        if self._thread is None or self._thread is threading.current_thread():
            return self._thread is None
        self._thread.join(self._timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> "Probes":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _work(self, stopped: threading.Event) -> None:
        try:
            for turn in self._turns():
                if isinstance(turn, float):
                    stopped.wait(turn)
                else:
                    found = self._ask(turn)
                    if not stopped.is_set():
                        self._report(turn, found)
                if stopped.is_set():
                    return
        finally:
            self._running.release()

    # --- an event loop ---

    async def run(self) -> None:
        """Check from now on, in the running asyncio loop, until cancelled. Plain functions are called in a
        thread of the loop's.

        Raises:
            RuntimeError: The probes are running.
        """
        with self._alone():
            for turn in self._turns():
                if isinstance(turn, float):
                    await asyncio.sleep(turn)
                else:
                    self._report(turn, await self._ask_async(turn))

    # --- one round ---

    def run_once(self) -> dict[str, bool | None]:
        """Check every deployment once, in registration order.

        Returns:
            By deployment id: whether its check was good; None without a verdict.

        Raises:
            RuntimeError: The probes are running.
            TypeError: A check is async.
        """
        with self._alone():
            return {each.deployment_id: self._report(each, self._ask(each)) for each in self._round()}

    async def run_once_async(self) -> dict[str, bool | None]:
        """Check every deployment once, in registration order, in the running asyncio loop.

        Returns:
            By deployment id: whether its check was good; None without a verdict.

        Raises:
            RuntimeError: The probes are running.
        """
        with self._alone():
            return {each.deployment_id: self._report(each, await self._ask_async(each)) for each in self._round()}

    # --- whose turn it is ---

    def _claim(self) -> None:
        if not self._running.acquire(blocking=False):
            raise RuntimeError("these probes are running, or their last check has not returned")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._claim()
        try:
            yield
        finally:
            self._running.release()

    def _turns(self) -> Iterator[Deployment | float]:
        """Yields without end: a deployment whose turn has come, or the seconds to wait until there is one."""
        queue = [(time.monotonic(), _LOOK)]
        known: set[str] = set()
        while True:
            now = time.monotonic()
            due, deployment_id = queue[0]
            if due > now:
                yield due - now
            elif deployment_id == _LOOK:
                # This is done once an interval and not at every turn, since the list is as long as the
                # router.
                heapq.heapreplace(queue, (now + self._interval, _LOOK))
                for deployment in self._round():
                    if deployment.deployment_id not in known:
                        known.add(deployment.deployment_id)
                        heapq.heappush(queue, (now + self._random.random() * self._interval, deployment.deployment_id))
            else:
                heapq.heappop(queue)
                try:
                    deployment = self._router.get_deployment(deployment_id)
                except DeploymentNotFound:
                    known.discard(deployment_id)
                    continue
                yield deployment
                wait = self._interval * (1 + self._jitter * self._random.uniform(-1, 1))
                # The interval begins at the end of the check. So slow checks make rounds longer and make no
                # queue.
                heapq.heappush(queue, (time.monotonic() + wait, deployment_id))

    def _round(self) -> list[Deployment]:
        """Returns all deployments. Forgets the failed checks of others."""
        deployments = self._router.deployments()
        self._failed = {
            each.deployment_id: self._failed[each.deployment_id] for each in deployments if each.deployment_id in self._failed
        }
        return deployments

    def _check_of(self, deployment: Deployment) -> Check | None:
        """Returns its check; None if it is not to be checked now."""
        if self._only_unhealthy and not self._is_brought_back(deployment.deployment_id):
            return None
        return self._check.get(deployment.deployment_id) if isinstance(self._check, Mapping) else self._check

    def _is_brought_back(self, deployment_id: str) -> bool:
        """Returns whether a good check brings it back."""
        try:
            status = self._router.stats(deployment_id).status
        except DeploymentNotFound:
            return False
        return status is Status.UNHEALTHY or (self._end_cooldowns and status is Status.COOLING_DOWN)

    # --- checks ---

    def _ask(self, deployment: Deployment) -> _Finding:
        check = self._check_of(deployment)
        if check is None:
            return None
        found = self._call(check, deployment)
        if isinstance(found, Awaitable):
            if inspect.iscoroutine(found):
                found.close()
            raise _needs_a_loop()
        return found

    async def _ask_async(self, deployment: Deployment) -> _Finding:
        check = self._check_of(deployment)
        if check is None:
            return None
        if inspect.iscoroutinefunction(check):
            found = self._call(check, deployment)
        else:
            found = await asyncio.to_thread(self._call, check, deployment)
        return await self._in_time(found) if isinstance(found, Awaitable) else found

    def _call(self, check: Check, deployment: Deployment) -> _Finding | Awaitable[bool | None]:
        """Calls a check. A plain function gives its result. An async one gives an awaitable."""
        began = time.monotonic()
        try:
            said = check(deployment)
            if isinstance(said, Awaitable):
                return said
            if time.monotonic() - began > self._timeout:
                return self._too_slow()
            return None if said is None else bool(said)
        except Exception as error:
            return error

    async def _in_time(self, check: Awaitable[bool | None]) -> _Finding:
        # Not asyncio.wait_for: before Python 3.12 it can swallow the cancellation of its caller, and the
        # probes would run on.
        task = asyncio.ensure_future(check)
        try:
            done, _ = await asyncio.wait({task}, timeout=self._timeout)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if not done:
            return self._too_slow()
        try:
            said = task.result()
            return None if said is None else bool(said)
        except Exception as error:
            return error

    def _too_slow(self) -> TimeoutError:
        return TimeoutError(f"the check took more than {self._timeout} s")

    def _report(self, deployment: Deployment, found: _Finding) -> bool | None:
        """Reports a result to the router, if it changes anything. Returns the verdict."""
        deployment_id = deployment.deployment_id
        try:
            if found is True:
                self._failed.pop(deployment_id, None)
                if self._is_brought_back(deployment_id):
                    self._router.report_health(deployment_id, True)
                    _log.info("deployment %r is healthy again", deployment_id)
            elif found is not None:
                failed = self._failed[deployment_id] = self._failed.get(deployment_id, 0) + 1
                if failed >= self._failures:
                    self._router.report_health(deployment_id, False)
                if failed == self._failures:
                    _log.warning("deployment %r is unhealthy, its check said %r", deployment_id, found)
        except DeploymentNotFound:  # removed while it was checked
            pass
        return found if found is None else found is True


def _needs_a_loop() -> TypeError:
    return TypeError("an async check needs an event loop: await run() or run_once_async()")
