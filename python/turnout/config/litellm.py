"""LiteLLM's form of a config: ``model_list``, ``router_settings`` and ``litellm_settings``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from turnout._core import Deployment, Router
from turnout.config.document import Document, Where
from turnout.config.litellm_entries import Entry, count, deployments, entries, number
from turnout.config.loaded import Loaded
from turnout.config.problems import Problems, shown
from turnout.config.values import GONE, resolved
from turnout.enums import FailureKind, Strategy
from turnout.execution.options import RETRIED, Backoff, Fallbacks, Options, Retry, Timeouts
from turnout.options import Health, MinuteRules

__all__ = ["SECTIONS", "load"]

SECTIONS = frozenset(("model_list", "router_settings", "litellm_settings", "general_settings"))
"""Names at the top that tell a LiteLLM config."""

_USUAL_COOLDOWN = 5.0
_USUAL_TOTAL = Timeouts().total or 0.0
_USUAL_RETRIES = 2

# What LiteLLM's Router takes and what has no meaning for routing here, or holds anyway.
_SILENT = frozenset(
    (
        *("set_verbose", "debug_level", "cache_responses", "client_ttl", "assistants_config", "router_general_settings"),
        *("enable_pre_call_checks", "polling_interval", "ignore_invalid_deployments", "max_retries"),
    )
)
_WITHOUT_EFFECT = {
    "routing_strategy_args": "turnout's strategies have no such numbers",
    "allowed_fails_policy": "failures count alike, whatever their kind; refusals and credentials count at once",
    "optional_pre_call_checks": "limits hold always; a session is not kept at a deployment",
    "enable_weighted_failover": "another deployment is always tried first",
    "plugins": "turnout picks by itself",
    "provider_budget_config": "turnout counts no money",
    "alerting_config": "subscribe to the events of the router",
    "cache_kwargs": "turnout keeps no answers",
    "caching_groups": "turnout keeps no answers",
    "redis_url": "each process counts for itself",
    "redis_host": "each process counts for itself",
    "redis_port": "each process counts for itself",
    "redis_password": "each process counts for itself",
    "health_check_interval": "call report_health",
    "tag_filtering_match_any": "give tags_match with the request",
}
_MEANT = {
    "enable_load_balancing": "it is always on",
    "enable_loadbalancing": "it is always on",
    "enable_pre_call_check": "did you mean 'enable_pre_call_checks'?",
    "fallback_models": "did you mean 'fallbacks'?",
    "strategy": "did you mean 'routing_strategy'?",
    "retries": "did you mean 'num_retries'?",
    "rpm": "it belongs into litellm_params of each entry",
    "tpm": "it belongs into litellm_params of each entry",
    "rpm_limit": "it belongs into litellm_params of each entry, as 'rpm'",
}
_POLICY = {
    "AuthenticationErrorRetries": FailureKind.AUTH,
    "TimeoutErrorRetries": FailureKind.TIMEOUT,
    "RateLimitErrorRetries": FailureKind.RATE_LIMIT,
    "InternalServerErrorRetries": FailureKind.ERROR,
}
# After these nothing is tried again here: another attempt would get the same answer.
_POINTLESS = frozenset(("BadRequestErrorRetries", "ContentPolicyViolationErrorRetries"))


def load(document: Document, problems: Problems) -> Loaded:
    """Read a config in LiteLLM's form.

    Args:
        document: The config.
        problems: Where problems are noted.

    Returns:
        What it comes to, as far as it is right.
    """
    settings = _Settings(document.data, problems)
    if document.data.get("environment_variables"):
        problems.warn(("environment_variables",), "this has no effect: set them in the environment of the process")
    found = entries(document.data.get("model_list", []), problems)
    most = settings.count("default_max_parallel_requests")
    if most:
        found = [entry._replace(limits={"max_parallel_requests": most, **entry.limits}) for entry in found]
    options = settings.options({entry.model_name for entry in found if not entry.is_out})
    made = deployments(found, problems, settings)
    settings.look_for_prices(options, made)
    if any(entry.order is not None for entry in found):
        options["tiers"] = True
    aliases = settings.aliases()
    settings.end()
    return Loaded("litellm", tuple(made), options, aliases)


class _Setting(NamedTuple):
    value: Any
    where: Where


class _Settings:
    """The settings of the router. Those of ``router_settings`` come before those of ``litellm_settings``."""

    def __init__(self, data: Mapping[str, Any], problems: Problems) -> None:
        self._problems = problems
        self._found: dict[str, _Setting] = {}
        self._used: set[str] = set()
        for section in ("litellm_settings", "router_settings"):
            said = data.get(section) or {}
            if not isinstance(said, Mapping):
                problems.error((section,), f"this must be a mapping, not a {type(said).__name__}")
                continue
            for name, value in said.items():
                if value is not None:
                    self._found[str(name)] = _Setting(value, (section, name))

    def get(self, name: str) -> Any:
        """Return a setting, with what stands in the environment; None without one."""
        self._used.add(name)
        setting = self._found.get(name)
        value = None if setting is None else resolved(setting.value, setting.where, self._problems)
        return None if value is GONE else value

    def where(self, name: str) -> Where:
        """Return where a setting stands."""
        return self._found[name].where

    def count(self, name: str) -> int | None:
        """Return a setting that is a whole number."""
        said = self.get(name)
        return None if said is None else count(said, self.where(name), self._problems)

    def seconds(self, name: str) -> float | None:
        """Return a setting that is a number of seconds."""
        said = self.get(name)
        amount = None if said is None else number(said, self.where(name), self._problems)
        return None if amount is None else float(amount)

    def end(self) -> None:
        """Note what nobody has read."""
        for name, setting in self._found.items():
            if name in self._used or name in _SILENT:
                continue
            if name in _WITHOUT_EFFECT:
                self._problems.warn(setting.where, f"this has no effect: {_WITHOUT_EFFECT[name]}")
            elif name in _MEANT:
                self._problems.warn(setting.where, f"there is no such setting: {_MEANT[name]}")
            elif setting.where[0] == "router_settings":
                self._problems.unknown(setting.where, {*self._used, *_SILENT, *_WITHOUT_EFFECT})

    # --- what they mean ---

    def options(self, names: set[str]) -> dict[str, Any]:
        """Return the options of the router.

        Args:
            names: The model names that have entries.

        Returns:
            Keywords of :class:`turnout.Router`.
        """
        options: dict[str, Any] = {}
        for name, setting, make in (
            ("strategy", "routing_strategy", lambda: self._strategy("routing_strategy")),
            ("strategies", "routing_groups", self._groups),
            ("default_tag", "enable_tag_filtering", self._default_tag),
            ("health", "cooldown_time", lambda: self._rules(self.count("allowed_fails"), self._cooldown())),
            ("retry", "num_retries", self._retry),
            ("fallbacks", "fallbacks", lambda: self._fallbacks(names)),
            ("timeouts", "timeout", self._timeouts),
            ("model_options", "model_group_retry_policy", self._policies),
        ):
            try:
                value = make()
            except (ValueError, TypeError) as error:
                self._problems.error(self._place(setting), str(error))
                continue
            if value:
                options[name] = value
        return options

    def aliases(self) -> dict[str, str]:
        """Return names, and what they stand for."""
        said = self.get("model_group_alias")
        if not isinstance(said, Mapping):
            if said is not None:
                self._problems.error(self.where("model_group_alias"), "this must map names to model names")
            return {}
        found = {}
        for alias, target in said.items():
            name = target.get("model") if isinstance(target, Mapping) else target
            if isinstance(name, str):
                found[str(alias)] = name
            else:
                self._problems.error((*self.where("model_group_alias"), alias), f"this must be a model name, not {shown(target)}")
        return found

    def rules_of(self, entry: Entry, problems: Problems) -> Health | MinuteRules | None:
        """Return the rules of cooldown of one entry; None for those of the router."""
        place = (*entry.where, "model_info", "allowed_fails")
        fails = entry.info.get("allowed_fails")
        allowed = None if fails is None else count(fails, place, problems)
        seconds = entry.params.get("cooldown_time", entry.info.get("cooldown_time"))
        cooldown = None if seconds is None else number(seconds, (*entry.where, "litellm_params", "cooldown_time"), problems)
        if (allowed is None and cooldown is None) or self.get("disable_cooldowns"):
            return None
        usual = self.count("allowed_fails") if allowed is None else allowed
        return self._rules(usual, self._cooldown() if cooldown is None else float(cooldown))

    def retry_of(self, entry: Entry, problems: Problems) -> Retry | None:
        """Return the rules of retrying of one entry; None for those of the router."""
        said = entry.params.get("num_retries")
        retries = None if said is None else count(said, (*entry.where, "litellm_params", "num_retries"), problems)
        return None if retries is None else self._made(retries, self.seconds("retry_after"))

    def look_for_prices(self, options: dict[str, Any], made: list[Deployment]) -> None:
        """Look for deployments without prices where prices decide.

        Args:
            options: The options of the router.
            made: The deployments.
        """
        usual, single = options.get("strategy"), options.get("strategies", {})
        for one in made:
            if single.get(one.model_name, usual) is Strategy.CHEAPEST and one.input_price is one.output_price is None:
                text = (
                    f"{one.deployment_id!r} has no price, so it is picked last: give input_cost_per_token and output_cost_per_token"
                )
                self._problems.warn(self._place("routing_strategy"), text)

    def _default_tag(self) -> str | None:
        said = self.get("enable_tag_filtering")
        if said is not None and not isinstance(said, bool):
            self._problems.error(self.where("enable_tag_filtering"), f"this must be true or false, not {shown(said)}")
        if said is False:
            self._problems.warn(self.where("enable_tag_filtering"), "this has no effect: tags of a request are always looked at")
        return "default" if said is True else None

    def _strategy(self, name: str) -> Strategy | None:
        said = self.get(name)
        return None if said is None else self._named(said, self.where(name))

    def _named(self, said: Any, where: Where) -> Strategy | None:
        if said == "cost-based-routing":
            # By itself the router takes it for litellm-rs' rule of this name, which looks at priorities.
            return Strategy.CHEAPEST
        try:
            return Router(strategy=said).strategy  # it knows LiteLLM's spellings
        except (ValueError, TypeError) as error:
            self._problems.error(where, str(error))
            return None

    def _groups(self) -> dict[str, Strategy]:
        said = self.get("routing_groups")
        if said is not None and not isinstance(said, list):
            self._problems.error(self.where("routing_groups"), f"this must be a list of groups, not {shown(said)}")
        found = {}
        for nth, group in enumerate(said if isinstance(said, list) else []):
            where = (*self.where("routing_groups"), nth)
            if not isinstance(group, Mapping) or not isinstance(group.get("models"), list):
                self._problems.error(where, "this must be a mapping with a list of models")
                continue
            for name in group.keys() - {"group_name", "models", "routing_strategy"}:
                self._problems.warn((*where, name), "this has no effect: a group has models and a routing_strategy here")
            strategy = self._named(group.get("routing_strategy", "simple-shuffle"), where)
            if strategy is not None:
                found.update(dict.fromkeys(map(str, group["models"]), strategy))
        return found

    def _cooldown(self) -> float | None:
        if self.get("disable_cooldowns"):
            return 0.0
        seconds = self.seconds("cooldown_time")
        if seconds == 0.0:
            self._problems.note(self.where("cooldown_time"), "LiteLLM takes 0 for 5 seconds: disable_cooldowns is for none")
            return _USUAL_COOLDOWN
        return seconds

    def _rules(self, allowed: int | None, cooldown: float | None) -> Health | MinuteRules | None:
        if cooldown == 0.0:
            return Health(consecutive_failures=None, failure_rate=None, cooldown_time=0.0)
        if allowed is not None:
            # LiteLLM allows so many; here it is the number that is too many.
            return MinuteRules(allowed_fails=allowed + 1, min_requests=0, cooldown_time=cooldown or _USUAL_COOLDOWN, majority=False)
        return None if cooldown is None else Health(cooldown_time=cooldown)

    def _retry(self) -> Retry | None:
        retries, pause = self.count("num_retries"), self.seconds("retry_after")
        policy = self.get("retry_policy")
        if isinstance(policy, Mapping):
            return self._policy(policy, self.where("retry_policy"), retries, pause)
        if policy is not None:
            self._problems.error(self.where("retry_policy"), f"this must be a mapping, not {shown(policy)}")
        return None if retries is None and not pause else self._made(retries, pause)

    def _made(self, retries: int | None, pause: float | None, **more: Any) -> Retry:
        attempts = 1 + (_USUAL_RETRIES if retries is None else retries)
        backoff = Backoff(base=pause, jitter="none", factor=1.0) if pause else Backoff()
        return Retry(attempts=attempts, backoff=backoff, **more)

    def _policy(self, policy: Mapping[str, Any], where: Where, retries: int | None, pause: float | None) -> Retry:
        """Returns what a policy by kinds of errors comes to: the largest number, and the kinds without 0."""
        kinds = set(RETRIED)
        # Kinds that it does not name have as many as always.
        most = 0 if _POLICY.keys() <= policy.keys() else _USUAL_RETRIES if retries is None else retries
        counts: set[int] = set()
        for name, said in policy.items():
            if name in _POLICY:
                times = count(said, (*where, name), self._problems) if said is not None else None
                if times == 0:
                    kinds.discard(_POLICY[name])
                most = max(most, times or 0)
                counts.add(times or 0)
            elif name in _POINTLESS:
                if said:
                    self._problems.warn((*where, name), "this has no effect: another attempt would get the same answer")
            else:
                self._problems.unknown((*where, name), {*_POLICY, *_POINTLESS})
        if len(counts - {0}) > 1:
            self._problems.note(where, f"one number holds for all kinds of errors: {most}")
        return self._made(most, pause, kinds=kinds)

    def _policies(self) -> dict[str, Options]:
        said = self.get("model_group_retry_policy")
        if not isinstance(said, Mapping):
            if said is not None:
                self._problems.error(self.where("model_group_retry_policy"), f"this must be a mapping, not {shown(said)}")
            return {}
        where, usual = self.where("model_group_retry_policy"), self.count("num_retries")
        found = {}
        for name, policy in said.items():
            if isinstance(policy, Mapping):
                found[str(name)] = Options(retry=self._policy(policy, (*where, name), usual, self.seconds("retry_after")))
            else:
                self._problems.error((*where, name), "this must be a mapping")
        return found

    def _timeouts(self) -> Timeouts | None:
        attempt = self.seconds("timeout")
        of_requests = self.seconds("request_timeout")
        attempt = attempt or of_requests
        first = self.seconds("stream_timeout")
        if not attempt and not first:
            return None
        # LiteLLM has no bound of a whole call.
        total = None if max(attempt or 0.0, first or 0.0) > _USUAL_TOTAL else _USUAL_TOTAL
        return Timeouts(total=total, attempt=attempt or None, first_token=first or None)

    # --- fallbacks ---

    def _fallbacks(self, names: set[str]) -> Fallbacks | None:
        general = self._chains("fallbacks")
        default = general.pop("*", []) or self._targets(self.get("default_fallbacks") or [], self._place("default_fallbacks"))
        if default:
            for name in sorted(names):
                if targets := [target for target in default if target != name]:
                    general.setdefault(name, targets)
        long, refused = self._chains("context_window_fallbacks"), self._chains("content_policy_fallbacks")
        most = self.count("max_fallbacks")
        for chains in (general, long, refused):
            for name, targets in chains.items():
                chains[name] = targets if most is None else targets[:most]
        if not (general or long or refused):
            return None
        return Fallbacks(general, context_window=long, content_policy=refused)

    def _place(self, name: str) -> Where:
        return self.where(name) if name in self._found else ()

    def _chains(self, name: str) -> dict[str, list[str]]:
        said = self.get(name)
        if said is None:
            return {}
        where = self.where(name)
        if isinstance(said, Mapping):
            self._problems.warn(where, "LiteLLM takes no mapping here, so this has no effect: write a list of {name: [names]}")
            return {}
        if not isinstance(said, list):
            self._problems.error(where, f"this must be a list of {{name: [names]}}, not {shown(said)}")
            return {}
        chains: dict[str, list[str]] = {}
        for nth, one in enumerate(said):
            place = (*where, nth)
            if not isinstance(one, Mapping) or len(one) != 1:
                hint = (
                    ": write {name: [names]}, not model and fallback_models" if isinstance(one, Mapping) and "model" in one else ""
                )
                self._problems.error(place, f"this must be a mapping of one name to a list of names{hint}")
                continue
            ((model_name, targets),) = one.items()
            if not isinstance(targets, list):
                self._problems.error((*place, model_name), f"this must be a list of model names, not {shown(targets)}")
                continue
            names = self._targets(targets, (*place, model_name))
            if str(model_name) in names:
                self._problems.note((*place, model_name), f"{model_name!r} falls back to itself, which is left out")
            if str(model_name) in chains:
                self._problems.warn((*place, model_name), f"{model_name!r} has fallbacks already: the first ones count")
                continue
            chains[str(model_name)] = [target for target in names if target != model_name]
        return chains

    def _targets(self, said: Any, where: Where) -> list[str]:
        names: list[str] = []
        if not isinstance(said, list):
            self._problems.error(where, f"this must be a list of model names, not {shown(said)}")
            return names
        for nth, target in enumerate(said):
            name = target.get("model") if isinstance(target, Mapping) else target
            if isinstance(target, Mapping) and set(target) - {"model"}:
                self._problems.warn((*where, nth), "only the model of this fallback has an effect")
            if isinstance(name, str) and name:
                names.append(name)
            else:
                self._problems.error((*where, nth), f"this must be a model name, not {shown(target)}")
        return names
