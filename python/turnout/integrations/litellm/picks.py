"""What turnout picks among: the deployments of a LiteLLM Router, and what a request asks for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import litellm

try:
    import litellm.router_config as _  # noqa: F401
    from litellm.types.router import RouterRateLimitError
except ImportError as _error:
    raise ImportError("turnout in LiteLLM's Router needs litellm 1.110 or newer") from _error

from turnout._core import Lease, Router
from turnout.config import check
from turnout.config.loaded import Loaded
from turnout.exceptions import ModelNotFound, NoAvailableDeployment, RequestTooLarge
from turnout.integrations.litellm.sizes import size_of

__all__ = ["Picks", "Refused", "of_order", "settings_of"]

# What says how an entry is picked. Credentials and addresses stay with LiteLLM.
_PARAMS = frozenset(
    (
        *("model", "rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "daily_reset_time", "max_parallel_requests"),
        *("weight", "order", "tags", "region_name", "cooldown_time", "custom_llm_provider"),
    )
)
_INFO = frozenset(("id", "blocked", "allowed_fails", "cooldown_time"))
# Settings of LiteLLM's Router that are turnout's business here. LiteLLM goes on to follow the others:
# timeouts, retries, fallbacks, aliases, caches.
_SETTINGS = frozenset(
    (
        *("routing_strategy", "routing_strategy_args", "routing_groups", "default_max_parallel_requests"),
        *("cooldown_time", "disable_cooldowns", "allowed_fails", "allowed_fails_policy"),
        *("optional_pre_call_checks", "enable_weighted_failover", "provider_budget_config"),
    )
)
# What LiteLLM's Router does if nobody says otherwise. turnout has rules of its own for that.
_USUAL = {"cooldown_time": 5, "allowed_fails": 3}
_BUCKETS = ("metadata", "litellm_metadata")


class Refused(RouterRateLimitError):  # type: ignore[misc]
    """No deployment may take the request now. LiteLLM's Router raises the class above there.

    Attributes:
        cooldown_time: The seconds until one may; 0.0 if that is not known.
    """

    def __init__(self, message: str, model: str, cooldown_time: float) -> None:
        super().__init__(model, cooldown_time, False, [])
        self.message = message

    def __str__(self) -> str:
        return self.message


class Picks:
    """Picks deployments of a LiteLLM Router by a turnout router.

    Args:
        router: The turnout router. Its ids are those of LiteLLM (``model_info.id``). None makes one from the
            deployments of LiteLLM's Router, and follows their changes.
        settings: The settings of LiteLLM's Router, for a router that is made.
    """

    def __init__(self, router: Router | None = None, settings: Mapping[str, Any] | None = None) -> None:
        self._router = router
        self._is_made = router is None
        self._settings = {name: value for name, value in (settings or {}).items() if name in _SETTINGS and value is not None}
        self._lock = threading.Lock()
        self._seen: tuple[Any, int] | None = None

    def router(self, host: Any) -> Router:
        """Return the turnout router, which has the deployments that LiteLLM's Router has now.

        Args:
            host: LiteLLM's Router.

        Returns:
            The router.

        Raises:
            ConfigurationError: The deployments make no router.
        """
        registry = host.registry()
        if self._router is not None and (not self._is_made or self._seen == (host, registry.version)):
            return self._router
        with self._lock:
            version = registry.version
            if self._router is None or self._seen != (host, version):
                loaded = _load(registry.all(), self._settings)
                if self._router is None:
                    loaded.warn(stacklevel=3)
                    self._router = loaded.router()
                else:
                    loaded.put_into(self._router)
                self._seen = (host, version)
            return self._router

    def named(self, host: Any, model: str, request: Mapping[str, Any]) -> tuple[Lease, dict[str, Any]]:
        """Pick for a name as callers of LiteLLM's Router give it: a model name, an alias, a routing group, a
        name that a wildcard serves, or the id of a deployment.

        Args:
            host: LiteLLM's Router.
            model: The name.
            request: The request's arguments.

        Returns:
            The lease, and the deployment as LiteLLM's Router takes it.

        Raises:
            Refused: No deployment may take it now.
            BadRequestError: No deployment serves the name.
        """
        registry = host.registry()
        if registry.has_deployment(model):
            found = [registry.deployment_dict(model)]
        else:
            found = registry.deployments(model, team_id=_team(request)) or []
        if not found:
            raise litellm.BadRequestError(
                message=f"no deployment serves {model!r}. Passed model={model}", model=model, llm_provider=""
            )
        settings = host.settings()
        found = of_order(found, request)
        ids = [entry["model_info"]["id"] for entry in found]
        if settings.enable_tag_filtering:
            ids = _tagged(found, _tags(request), bool(settings.tag_filtering_match_any))
        lease = self.among(host, ids, request, model)
        return lease, next(entry for entry in found if entry["model_info"]["id"] == lease.deployment_id)

    def knows(self, host: Any, ids: Iterable[str]) -> bool:
        """Tell whether turnout has any of some deployments.

        Args:
            host: LiteLLM's Router.
            ids: Their ids.

        Returns:
            Whether it has.
        """
        router = self.router(host)
        return any(id_ in router for id_ in ids)

    def among(self, host: Any, ids: Sequence[str], request: Mapping[str, Any], model: str) -> Lease:
        """Pick one of some deployments.

        Args:
            host: LiteLLM's Router.
            ids: Their ids.
            request: The request's arguments.
            model: The name that was asked for.

        Returns:
            The lease.

        Raises:
            Refused: None of them may take it now.
        """
        router = self.router(host)
        never = _strings(request.get("_excluded_deployment_ids")) | _strings(request.get("_retry_skipped_deployment_ids"))
        tried = _tried(request)
        refused: Exception | None = None
        # What failed before in this call comes last.
        for exclude in (never | tried, never) if tried - never else (never,):
            for group in _groups(router, ids):
                try:
                    return router.acquire(group, only=ids, exclude=exclude, tokens=size_of(request))
                except (NoAvailableDeployment, RequestTooLarge) as error:
                    refused = error
                except ModelNotFound:
                    continue  # it was taken out meanwhile
        wait = getattr(refused, "retry_after", None)
        text = f"turnout has no deployment for {model!r}" if refused is None else str(refused)
        raise Refused(text, model, float(wait or 0.0)) from refused


def of_order(found: list[Any], request: Mapping[str, Any]) -> list[Any]:
    """Keep the deployments of the ``order`` that LiteLLM has come to in this call.

    Args:
        found: The deployments.
        request: The request's arguments.

    Returns:
        Those; all of them if LiteLLM is at no order.
    """
    order = request.get("_target_order")
    kept = [entry for entry in found if order is not None and entry["litellm_params"].get("order") == order]
    return kept or found


def settings_of(host: Any) -> dict[str, Any]:
    """Read the settings of a Router of LiteLLM that exists.

    Args:
        host: LiteLLM's Router.

    Returns:
        Those that are not as LiteLLM has them anyway.
    """
    settings = host.settings()
    said = {**{name: getattr(settings, name, None) for name in _SETTINGS}, **settings.as_dict()}
    return {name: value for name, value in said.items() if value is not False and value not in (None, _USUAL.get(name), {}, [])}


def _load(entries: Iterable[Mapping[str, Any]], settings: Mapping[str, Any]) -> Loaded:
    """Reads the deployments of LiteLLM's Router."""
    listed = [
        {
            **{name: entry[name] for name in ("rpm", "tpm") if entry.get(name) is not None},
            "model_name": entry["model_name"],
            "litellm_params": {name: value for name, value in entry["litellm_params"].items() if name in _PARAMS},
            "model_info": {name: value for name, value in (entry.get("model_info") or {}).items() if name in _INFO},
        }
        for entry in entries
    ]
    loaded = check({"model_list": listed, "router_settings": dict(settings)})
    loaded.raise_for()
    return loaded


def _groups(router: Router, ids: Iterable[str]) -> list[str]:
    """Returns the model names of some deployments."""
    groups: dict[str, None] = {}
    for id_ in ids:
        with contextlib.suppress(LookupError):  # one that is out of service, or none of this router
            groups[router.get_deployment(id_).model_name] = None
    return list(groups)


def _buckets(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [bucket for name in _BUCKETS if isinstance(bucket := request.get(name), Mapping)]


def _team(request: Mapping[str, Any]) -> str | None:
    found = (bucket.get("user_api_key_team_id") for bucket in _buckets(request))
    return next((team for team in found if isinstance(team, str)), None)


def _tags(request: Mapping[str, Any]) -> list[str]:
    for bucket in _buckets(request):
        tags = bucket.get("tags")
        if isinstance(tags, (list, tuple)):
            return [tag for tag in tags if isinstance(tag, str)]
    return []


def _tagged(found: Iterable[Mapping[str, Any]], tags: Sequence[str], match_any: bool) -> list[str]:
    """Returns the ids of those with the tags; without a match those with the tag ``default``."""
    kept: list[str] = []
    default: list[str] = []
    every: list[str] = []
    for entry in found:
        id_, own = entry["model_info"]["id"], set(entry["litellm_params"].get("tags") or ())
        every.append(id_)
        if "default" in own:
            default.append(id_)
        if tags and (own & set(tags) if match_any else own >= set(tags)):
            kept.append(id_)
    if tags:
        return kept or default
    return default or every


def _tried(request: Mapping[str, Any]) -> set[str]:
    """Returns the ids of the deployments that failed in this call."""
    for bucket in _buckets(request):
        before = bucket.get("previous_models")
        if isinstance(before, (list, tuple)):
            return {id_ for one in before if isinstance(one, Mapping) and isinstance(id_ := one.get("deployment_id"), str)}
    return set()


def _strings(value: Any) -> set[str]:
    return {one for one in value if isinstance(one, str)} if isinstance(value, (list, tuple, set, frozenset)) else set()
