"""turnout's own form of a config: the options of a router and its deployments, under the names of the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema

import turnout.shared
from turnout._core import Deployment, Router
from turnout.config.document import Document, Where
from turnout.config.loaded import Loaded
from turnout.config.mirrors import STRICT, mirror
from turnout.config.problems import Problems, near, shown
from turnout.config.values import GONE, credential, is_credential, resolved
from turnout.endpoints import Endpoint, Env
from turnout.enums import FailureKind, Strategy
from turnout.exceptions import ConfigurationError
from turnout.execution.options import Backoff, Budget, Fallbacks, Hedge, Options, Retry, Timeouts
from turnout.limits import Limit, Quota
from turnout.options import Health, Learning, MinuteRules, Waiting

__all__ = ["Config", "load"]

_LIMITS = frozenset(("rpm_limit", "tpm_limit", "max_parallel_requests", "limits", "quotas"))


def _secret(said: object) -> object:
    """Checks a credential, without a text that shows it."""
    if said is not None and not isinstance(said, (Env, str)):
        raise ValueError(f"this must be a text, such as ${{NAME}}, not a {type(said).__name__}")
    return said


def _rule(said: str) -> Strategy:
    return Router(strategy=said).strategy  # type: ignore[arg-type] # it says what is allowed


_Secret = Annotated[Any, BeforeValidator(_secret), WithJsonSchema({"type": "string"})]
_Strategy = Annotated[str, AfterValidator(_rule), WithJsonSchema({"enum": [str(one) for one in Strategy]})]
_Names = dict[str, list[str]]

# For a checker of types they are what comes out.
if TYPE_CHECKING:
    _Retry: TypeAlias = Retry
    _Fallbacks: TypeAlias = Fallbacks
    _Timeouts: TypeAlias = Timeouts
    _Hedge: TypeAlias = Hedge
    _Options: TypeAlias = Options
    _Limit: TypeAlias = Limit
    _Health: TypeAlias = Health
    _MinuteRules: TypeAlias = MinuteRules
    _Learning: TypeAlias = Learning
    _Waiting: TypeAlias = Waiting
else:
    _Retry = mirror(Retry, kinds=list[FailureKind], backoff=mirror(Backoff), budget=mirror(Budget) | None)
    _Fallbacks = mirror(Fallbacks, general=_Names, context_window=_Names, content_policy=_Names, rate_limit=_Names)
    _Timeouts, _Hedge = mirror(Timeouts), mirror(Hedge)
    _Options = mirror(Options, retry=_Retry | None, fallbacks=_Fallbacks | None, timeouts=_Timeouts | None, hedge=_Hedge | None)
    _Limit = mirror(Limit)
    _Health, _MinuteRules, _Learning, _Waiting = mirror(Health), mirror(MinuteRules), mirror(Learning), mirror(Waiting)


class EndpointConfig(BaseModel):
    """Where and how a deployment is reached."""

    model_config = STRICT

    base_url: str = Field(description="What the provider's own SDK takes as its base URL.")
    api_key: _Secret = Field(None, description="The key. ${NAME} is read from the environment at each use.")
    headers: dict[str, _Secret] = Field({}, description="Headers that each request gets.")
    query: dict[str, str] = Field({}, description="Parameters that each request gets.")
    auth: Literal["usual", "bearer", "x-api-key", "api-key"] | None = Field("usual", description="How the key is sent.")
    dialect: Literal["openai", "anthropic"] = Field("openai", description="What the deployment understands.")

    def made(self) -> Endpoint:
        """Return the endpoint."""
        return Endpoint(**{name: getattr(self, name) for name in self.model_fields_set})


class DeploymentConfig(BaseModel):
    """One deployment of a model."""

    model_config = STRICT

    id: str = Field(description="Its id, unique in the config.")
    model_name: str = Field(description="The name that requests ask for.")
    model: str | None = Field(None, description="The provider's own name of the model; else the model name.")
    weight: int = Field(1, description="Its share under simple_shuffle.")
    priority: int = Field(0, description="Its rank, the lowest first.")
    rpm_limit: int | None = Field(None, description="Most requests in a clock minute.")
    tpm_limit: int | None = Field(None, description="Most tokens in a clock minute.")
    max_parallel_requests: int | None = Field(None, description="Most requests in flight.")
    limits: list[_Limit] = Field([], description="Further limits of its own.")
    quotas: list[str] = Field([], description="Names of quotas that it shares with others.")
    tags: list[str] = Field([], description="Labels that requests may ask for.")
    metadata: dict[str, Any] = Field({}, description="Data for the application.")
    domain: str | None = Field(None, description="Its failure domain, such as a region.")
    health: _Health | None = Field(None, description="Rules of cooldown of its own.")
    minute_rules: _MinuteRules | None = Field(None, description="Rules of cooldown that count in clock minutes.")
    retry: _Retry | None = Field(None, description="How calls follow a failure of it with another attempt.")
    input_price: float | None = Field(None, description="The price of a million tokens of prompts.")
    output_price: float | None = Field(None, description="The price of a million tokens of answers.")
    endpoint: EndpointConfig | None = Field(None, description="Where it is reached.")


class SharedConfig(BaseModel):
    """The store through which limits are shared with other processes."""

    model_config = STRICT

    store: Literal["file", "redis"] = Field(description="file for the workers of one host, redis for many hosts.")
    path: str | None = Field(None, description="The file, of file; else one in memory, named by the namespace.")
    url: _Secret = Field(None, description="The server, of redis. ${NAME} is read from the environment.")
    namespace: str = Field("turnout", description="Processes with the same namespace share.")
    ttl: float = Field(10.0, description="Seconds after which a process that no longer speaks is taken for dead.")
    busy_ttl: float = Field(60.0, description="Seconds for which places of such a process stay taken after that.")
    horizon: float = Field(0.25, description="Seconds of its own demand that a process holds.")
    patience: float = Field(0.05, description="Seconds that a request waits for an answer of the store.")
    on_loss: Literal["closed", "share", "open"] = Field("share", description="What may be used while the store is lost.")

    def made(self) -> Any:
        """Return the store."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"store", "path", "url"}}
        if self.store == "file":
            if self.url is not None:
                raise ConfigurationError("url is for redis: a file has a path")
            return turnout.shared.File(self.path, **given)
        if self.path is not None or self.url is None:
            raise ConfigurationError("redis needs a url, and no path")
        url = self.url.read() if isinstance(self.url, Env) else self.url
        return turnout.shared.Redis(url, **given)


class RouterConfig(BaseModel):
    """The options of the router."""

    model_config = STRICT

    strategy: _Strategy = Field("simple_shuffle", description="The rule that picks.")
    strategies: dict[str, _Strategy] = Field({}, description="The rules of single model names.")
    tiers: bool = Field(False, description="Whether it picks among the candidates of the lowest priority only.")
    default_tag: str | None = Field(None, description="The tag of the deployments that serve requests without tags.")
    health: _Health | None = Field(None, description="The rules of cooldown.")
    minute_rules: _MinuteRules | None = Field(None, description="Rules of cooldown that count in clock minutes.")
    learning: _Learning | None = Field(None, description="What is learnt from providers.")
    waiting: _Waiting | None = Field(None, description="How many requests may wait.")
    retry: _Retry | None = Field(None, description="Whether and how a failed attempt is followed by another one.")
    fallbacks: _Fallbacks | None = Field(None, description="Which other model names serve a request.")
    timeouts: _Timeouts | None = Field(None, description="How long a request may take.")
    hedge: _Hedge | None = Field(None, description="Whether a slow attempt gets another one beside it.")
    model_options: dict[str, _Options] = Field({}, description="Such options of single model names.")
    shared: SharedConfig | None = Field(None, description="How it shares limits with other processes.")


class Config(BaseModel):
    """A router of turnout. Texts may hold ${NAME}, which stands for a variable of the environment."""

    model_config = STRICT

    router: RouterConfig | None = Field(None, description="The options of the router.")
    aliases: dict[str, str] = Field({}, description="Names, and the model names that they stand for.")
    quotas: dict[str, list[_Limit]] = Field({}, description="Limits that several deployments share, by name.")
    deployments: list[DeploymentConfig] = Field(description="The deployments.")


def load(document: Document, problems: Problems) -> Loaded:
    """Read a config in turnout's own form.

    Args:
        document: The config.
        problems: Where problems are noted.

    Returns:
        What it comes to, as far as it is right.
    """
    data = _prepared(document.data, (), problems)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _note(detail, data, problems)
        return Loaded("turnout", (), {}, {})
    quotas = {name: _tried(problems, ("quotas", name), Quota, name, *limits) for name, limits in config.quotas.items()}
    deployments = []
    for nth, given in enumerate(config.deployments):
        made = _deployment(given, quotas, ("deployments", nth), problems)
        if made is not None:
            deployments.append(made)
    return Loaded("turnout", tuple(deployments), _options(config.router, problems), dict(config.aliases))


def _prepared(said: Any, where: Where, problems: Problems, *, is_limit: bool = False) -> Any:
    """Returns data with what stands in the environment. Credentials are left to be looked up at their use."""
    if isinstance(said, list):
        items = [_prepared(item, (*where, nth), problems, is_limit=is_limit) for nth, item in enumerate(said)]
        return [item for item in items if item is not GONE]
    if not isinstance(said, Mapping):
        return resolved(said, where, problems, is_limit=is_limit)
    prepared = {}
    for name, value in said.items():
        below = (*where, name)
        is_secret = where[-1:] == ("headers",) or (is_credential(str(name)) and not {"endpoint", "metadata"}.isdisjoint(where))
        if is_secret and isinstance(value, str):
            prepared[name] = credential(value, below, problems)
            continue
        found = _prepared(value, below, problems, is_limit=is_limit or name in _LIMITS)
        if found is not GONE:
            prepared[name] = found
    return prepared


def _note(detail: Any, data: Any, problems: Problems) -> None:
    """Notes what pydantic found."""
    kind, loc = detail["type"], detail["loc"]
    if kind == "none_required":
        return  # the other half of "or None" says more
    # pydantic also names the types that it tries. Those are no steps.
    where: list[str | int] = []
    node = data
    for step in loc:
        is_there = step in node if isinstance(node, Mapping) else isinstance(node, list) and step in range(len(node))
        if is_there:
            where.append(step)
            node = node[step]
    if kind == "missing":
        where.append(loc[-1])
    place = tuple(where)
    if kind == "extra_forbidden":
        problems.error(place, f"there is no such setting{near(str(place[-1]), _names_beside(place))}")
    elif kind == "missing":
        problems.error(place, "this is required")
    elif kind == "value_error":
        problems.error(place, str(detail["ctx"]["error"]))
    else:
        is_secret = any(is_credential(str(step)) or step == "headers" for step in place)
        given = "" if is_secret else f", not {shown(detail['input'])}"
        problems.error(place, f"{detail['msg'][0].lower()}{detail['msg'][1:]}{given}")


def _names_beside(where: Where) -> list[str]:
    """Returns the names that a config knows at a place."""
    schema = Config.model_json_schema()
    node: Any = schema
    for step in where[:-1]:
        node = _inner(node, schema)
        node = (
            node.get("items", {})
            if isinstance(step, int)
            else node.get("properties", {}).get(step) or node.get("additionalProperties", {})
        )
        if not isinstance(node, dict):
            return []
    return list(_inner(node, schema).get("properties", {}))


def _inner(node: Any, schema: Any) -> Any:
    """Returns a part of a schema without the references and the "or null" around it."""
    while True:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        elif "anyOf" in node:
            node = next((one for one in node["anyOf"] if one.get("type") != "null"), {})
        elif "allOf" in node:
            node = node["allOf"][0]
        else:
            return node


def _tried(problems: Problems, where: Where, make: Any, *given: Any, **named: Any) -> Any:
    """Returns what is made; None if it cannot be."""
    try:
        return make(*given, **named)
    except (ValueError, TypeError) as error:
        problems.error(where, str(error))
        return None


def _rules(given: Any, where: Where, problems: Problems) -> Health | MinuteRules | None:
    """Returns the rules of health that a part of a config names."""
    if given.health is not None and given.minute_rules is not None:
        problems.error(where, "there must be health or minute_rules, not both")
    rules: Health | MinuteRules | None = given.health or given.minute_rules
    return rules


def _deployment(given: DeploymentConfig, quotas: Mapping[str, Quota], where: Where, problems: Problems) -> Deployment | None:
    facts = {name: getattr(given, name) for name in given.model_fields_set - {"id", "minute_rules"}}
    facts["health"] = _rules(given, where, problems)
    if given.endpoint is not None:
        facts["endpoint"] = _tried(problems, (*where, "endpoint"), given.endpoint.made)
    for name in given.quotas:
        if name not in quotas:
            problems.error((*where, "quotas"), f"there is no quota {name!r}{near(name, quotas)}")
    facts["quotas"] = [quotas[name] for name in given.quotas if quotas.get(name) is not None]
    made: Deployment | None = _tried(problems, where, Deployment, given.id, facts.pop("model_name"), **facts)
    return made


def _options(given: RouterConfig | None, problems: Problems) -> dict[str, Any]:
    if given is None:
        return {}
    options = {name: getattr(given, name) for name in given.model_fields_set - {"health", "minute_rules"}}
    rules = _rules(given, ("router",), problems)
    if rules is not None:
        options["health"] = rules
    if given.shared is not None:
        options["shared"] = _tried(problems, ("router", "shared"), given.shared.made)
    return {name: value for name, value in options.items() if value is not None}
