"""What a Router in place of LiteLLM's says of its deployments, and how they change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import RLock
from typing import Any

from litellm.types.router import Deployment

from turnout._core import Router as Core
from turnout.config.loaded import Loaded
from turnout.exceptions import ModelNotFound
from turnout.integrations.litellm.params import plain, with_ids

__all__ = ["Listing"]


class Listing:
    """The methods of LiteLLM's Router around its ``model_list`` and its settings.

    Args:
        model_list: The deployments.
        settings: The settings.

    Attributes:
        turnout: The router beneath.
    """

    turnout: Core

    def __init__(self, model_list: Iterable[Any], settings: Mapping[str, Any]) -> None:
        self._settings = {name: plain(value) for name, value in settings.items() if value is not None}
        self._entries = with_ids(plain(entry) for entry in model_list)
        # A change reads what there is, and puts another whole in its place.
        self._changes = RLock()

    def _load(self, entries: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> Loaded:
        """Reads what deployments and settings come to."""
        raise NotImplementedError

    def _change(self, entries: dict[str, dict[str, Any]], settings: Mapping[str, Any]) -> None:
        """Takes over deployments and settings. Counts, leases and cooldowns of ids that stay are kept."""
        loaded = self._load(entries, settings)
        # Attempts begin meanwhile, at the old ones and at the new ones.
        self._entries = {**self._entries, **entries}
        loaded.put_into(self.turnout)
        self._entries, self._settings = entries, dict(settings)

    # --- the settings ---

    @property
    def routing_strategy(self) -> str:
        """The strategy, by LiteLLM's name for it."""
        return str(self._settings.get("routing_strategy", "simple-shuffle"))

    @property
    def model_group_alias(self) -> dict[str, Any]:
        """The aliases, as they were given."""
        return dict(self._settings.get("model_group_alias") or {})

    def get_settings(self) -> dict[str, Any]:
        """Return the settings that were given."""
        return dict(self._settings)

    def update_settings(self, **settings: Any) -> None:
        """Change settings while the router is in use. The others stay.

        Args:
            **settings: As for the router. None takes a setting back.

        Raises:
            turnout.ConfigurationError: Something is wrong. Nothing is changed then.
        """
        with self._changes:
            changed = {**self._settings, **{name: plain(value) for name, value in settings.items()}}
            self._change(self._entries, {name: value for name, value in changed.items() if value is not None})

    # --- the deployments ---

    @property
    def model_list(self) -> list[dict[str, Any]]:
        """The deployments, as they were given, each with its id as ``model_info.id``."""
        return list(self._entries.values())

    @property
    def model_names(self) -> list[str]:
        """The model names, sorted."""
        return self.turnout.models()

    @property
    def deployment_names(self) -> list[str]:
        """The models of all deployments, with their providers."""
        return [str(entry["litellm_params"]["model"]) for entry in self._entries.values()]

    def get_model_names(self, team_id: str | None = None) -> list[str]:
        """Return the model names and aliases, sorted. Aliases that are hidden are left out.

        Args:
            team_id: Not looked at: turnout knows no teams.
        """
        return sorted({*self.turnout.models(), *self._shown_aliases()})

    def _shown_aliases(self) -> list[str]:
        given = self.model_group_alias
        hidden = {alias for alias, said in given.items() if isinstance(said, Mapping) and said.get("hidden")}
        return [alias for alias in self.turnout.aliases() if alias not in hidden]

    def get_model_ids(self, model_name: str | None = None) -> list[str]:
        """Return the ids of the deployments that are in service.

        Args:
            model_name: Only those that serve this name; None for all.
        """
        try:
            return [one.deployment_id for one in self.turnout.deployments(model_name)]
        except ModelNotFound:
            return []

    def has_model_id(self, candidate_id: str) -> bool:
        """Tell whether a deployment has an id."""
        return candidate_id in self._entries

    def get_model_list(self, model_name: str | None = None, team_id: str | None = None) -> list[dict[str, Any]]:
        """Return the deployments, as they were given, each with its id as ``model_info.id``. Those of an
        alias have its name, as LiteLLM's Router does it.

        Args:
            model_name: Only those that serve this name; None for all.
            team_id: Not looked at: turnout knows no teams.
        """
        entries = self._entries
        if model_name is None:
            aliased = [entry for alias in self._shown_aliases() for entry in self.get_model_list(alias)]
            return [*aliased, *entries.values()]
        found = [entries[id_] for id_ in self.get_model_ids(model_name) if id_ in entries]
        return [{**entry, "model_name": model_name} for entry in found] if model_name in self.turnout.aliases() else found

    def get_deployment(self, model_id: str) -> Any:
        """Return the deployment with an id as LiteLLM's ``Deployment``; None without one."""
        entry = self._entries.get(model_id)
        return None if entry is None else Deployment(**entry)

    def get_model_info(self, id: str) -> dict[str, Any] | None:  # noqa: A002 - LiteLLM's name
        """Return the deployment with an id as it was given; None without one."""
        return self._entries.get(id)

    def get_deployment_by_model_group_name(self, model_group_name: str) -> Any:
        """Return the first deployment of a model name as LiteLLM's ``Deployment``; None without one."""
        return next((self.get_deployment(id_) for id_ in self.get_model_ids(model_group_name)), None)

    def resolve_model_name_from_model_id(self, model_id: str | None) -> str | None:
        """Return the model name of a deployment.

        Args:
            model_id: Its id, its model with the provider, or the model name itself.

        Returns:
            The name; None if nothing is called so.
        """
        if model_id in self.turnout.models():
            return model_id
        entry = self._entries.get(model_id or "")
        found = entry or next((one for one in self._entries.values() if one["litellm_params"]["model"] == model_id), None)
        return None if found is None else str(found["model_name"])

    # --- changes ---

    def set_model_list(self, model_list: Iterable[Any]) -> None:
        """Replace all deployments. Counts, leases and cooldowns of ids that stay are kept.

        Args:
            model_list: As for the router.

        Raises:
            turnout.ConfigurationError: Something is wrong. Nothing is changed then.
        """
        with self._changes:
            self._change(with_ids(plain(entry) for entry in model_list), self._settings)

    def add_deployment(self, deployment: Any) -> Any:
        """Add a deployment, unless there is one with its id.

        Args:
            deployment: The deployment, as one of ``model_list``.

        Returns:
            It; None if there was one with its id.
        """
        with self._changes:
            id_ = _id_of(plain(deployment))
            if id_ is not None and id_ in self._entries:
                return None
            return self.upsert_deployment(deployment)

    def upsert_deployment(self, deployment: Any) -> Any:
        """Add a deployment, or put it in the place of the one with its id.

        Args:
            deployment: The deployment, as one of ``model_list``.

        Returns:
            It.
        """
        entry = plain(deployment)
        with self._changes:
            others = dict(self._entries)
            id_ = _id_of(entry)
            if id_ in others:
                others[id_] = entry
                self.set_model_list(others.values())
            else:
                self.set_model_list([*others.values(), entry])
        return deployment

    def delete_deployment(self, id: str) -> Any:  # noqa: A002 - LiteLLM's name
        """Take a deployment out. Requests that it serves go on.

        Args:
            id: Its id.

        Returns:
            It, as LiteLLM's ``Deployment``; None if there was none.
        """
        with self._changes:
            deployment = self.get_deployment(id)
            if deployment is not None:
                self.set_model_list(known for id_, known in self._entries.items() if id_ != id)
            return deployment


def _id_of(entry: Mapping[str, Any]) -> str | None:
    id_ = (entry.get("model_info") or {}).get("id")
    return None if id_ is None else str(id_)
