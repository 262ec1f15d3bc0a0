"""What a config comes to: deployments, and the options of a router."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from turnout._core import Deployment, ManualClock, Router
from turnout.config.problems import Problem
from turnout.enums import Strategy
from turnout.exceptions import ConfigurationError
from turnout.execution.options import Fallbacks, Retry, Timeouts
from turnout.options import Health, Learning

__all__ = ["Loaded"]


# What a router has that is not configured.
_USUAL = {
    "strategy": Strategy.SIMPLE_SHUFFLE,
    "strategies": {},
    "tiers": False,
    "default_tag": "",
    "health": Health(),
    "learning": Learning(),
    "retry": Retry(),
    "fallbacks": Fallbacks(),
    "timeouts": Timeouts(),
    "model_options": {},
}
# These are for new routers only.
_FIXED = frozenset(("shared", "waiting"))


class Loaded(NamedTuple):
    """What a config comes to.

    Attributes:
        form: Whose form it has: ``"turnout"`` or ``"litellm"``.
        deployments: The deployments.
        options: The options of the router, as keywords of :class:`turnout.Router`.
        aliases: Names, and the model names that they stand for.
        problems: What has no effect, or another one than one may think.
    """

    form: Literal["turnout", "litellm"]
    deployments: tuple[Deployment, ...]
    options: dict[str, Any]
    aliases: dict[str, str]
    problems: tuple[Problem, ...] = ()

    def router(self, cls: type[Router] = Router, *, seed: int | None = None, clock: ManualClock | None = None) -> Router:
        """Make a router.

        Args:
            cls: Its class.
            seed: As for :class:`turnout.Router`.
            clock: As for :class:`turnout.Router`.

        Returns:
            The router.

        Raises:
            ConfigurationError: The deployments or the aliases do not go together.
        """
        router = cls(self.deployments, seed=seed, clock=clock, **self.options)
        for alias, target in self.aliases.items():
            router.add_alias(alias, target)
        return router

    def put_into(self, router: Router) -> None:
        """Change a router that is in use. Counts, leases, cooldowns and waiters stay.

        Args:
            router: The router.

        Raises:
            ConfigurationError: The deployments or the aliases do not go together. Nothing is changed then.
        """
        self.router()  # what cannot be made is found here, before anything is changed
        with router._execution.reloading:
            self._put_into(router)

    def _put_into(self, router: Router) -> None:
        before = router.aliases()
        gone = before.keys() - self.aliases.keys()
        changed = {alias: target for alias, target in self.aliases.items() if before.get(alias) != target}
        if any(target in changed or target in before for target in changed.values()):
            # From one chain to another there could be a cycle on the way.
            first, early = gone | (changed.keys() & before.keys()), set()
        else:
            # An alias must not be a model name. All others lead somewhere at any time.
            first = gone & {one.model_name for one in self.deployments}
            early = {alias for alias, target in changed.items() if target in router.models()}
        for alias in first:
            router.remove_alias(alias)
        for alias in early:
            router.add_alias(alias, changed[alias])
        router.set_deployments(self.deployments)
        for alias in changed.keys() - early:
            router.add_alias(alias, changed[alias])
        for alias in gone - first:
            router.remove_alias(alias)
        options = {**_USUAL, **self.options}
        router.configure(**{name: value for name, value in options.items() if name not in _FIXED})
        if options.get("hedge") is None:
            # None leaves it as it is.
            execution = router._execution
            execution.options = replace(execution.options, hedge=None)

    def raise_for(self, *, strict: bool = False) -> None:
        """Raise the problems with which no router can be made.

        Args:
            strict: Whether a setting that has no effect is one too.

        Raises:
            ConfigurationError: There are such problems. Its text has a line for each of them.
        """
        levels = ("error", "warning") if strict else ("error",)
        bad = [str(problem) for problem in self.problems if problem.level in levels]
        if bad:
            raise ConfigurationError("\n".join(bad))

    def warn(self, stacklevel: int) -> None:
        """Give one warning that names all that has no effect.

        Args:
            stacklevel: As for ``warnings.warn``, counted from the caller.
        """
        said = [str(problem) for problem in self.problems if problem.level == "warning"]
        if said:
            warnings.warn("\n".join(["some settings have no effect:", *said]), UserWarning, stacklevel=stacklevel + 1)
