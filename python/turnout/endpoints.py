"""Where and how a deployment is reached: its base URL, key and headers. No secret shows in a text."""

import inspect
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NoReturn, TypeAlias
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from turnout.exceptions import ConfigurationError

__all__ = ["Endpoint", "Env"]

_Rewrite: TypeAlias = Callable[[dict[str, Any]], dict[str, Any] | None]

_AUTHS = ("bearer", "x-api-key", "api-key")
_USUAL_AUTH = {"openai": "bearer", "anthropic": "x-api-key"}
_HIDDEN = "…"
# Names of headers and parameters whose values are keys.
_SECRET = re.compile(r"auth|key|password|secret|sig|token")
_FACTS = ("base_url", "_key", "_headers", "_query", "auth", "dialect", "rewrite")
_NO_FACTS: tuple[Any, ...] = ("", None, {}, {}, None, "openai", None)
# These are set for each attempt, from the key and the body.
_OWN_HEADERS = frozenset(("authorization", "content-length", "content-type", "host", "transfer-encoding"))


class Env:
    """The value of an environment variable, read each time that it is needed. It is pickled as its name.

    Args:
        name: The name of the variable.

    Raises:
        ConfigurationError: The name is empty.
        TypeError: It is no str.

    Example:
        >>> from turnout import Env
        >>> Env("OPENAI_API_KEY")
        Env('OPENAI_API_KEY')
    """

    __slots__ = ("name",)

    name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", _text("name", name))

    def read(self) -> str:
        """Return the value.

        Returns:
            The value of the variable now.

        Raises:
            ConfigurationError: The variable is not set, or empty.
        """
        value = os.environ.get(self.name)
        if not value:
            raise ConfigurationError(f"the environment variable {self.name!r} must be set: an endpoint takes its key from it")
        return value

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an Env is frozen: {name!r} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an Env is frozen: {name!r} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return self.name == other.name if isinstance(other, Env) else NotImplemented

    def __hash__(self) -> int:
        return hash((Env, self.name))

    def __repr__(self) -> str:
        return f"Env({self.name!r})"

    def __reduce__(self) -> tuple[type["Env"], tuple[str]]:
        return Env, (self.name,)


_Key: TypeAlias = str | Env | Callable[[], str | Awaitable[str]]


class Endpoint:
    """Where and how a deployment is reached. It is frozen. Its key, its headers and its query show in no text
    and in no hash.

    Args:
        base_url: What the provider's own SDK takes as its base URL: with ``/v1`` for OpenAI, without for
            Anthropic.
        api_key: The key: a str, an :class:`turnout.Env`, or a callable that returns it. A callable may return
            an awaitable where the client is one of tasks. It is asked at each attempt, so that keys can
            change. None for no key.
        headers: Headers that each request gets, in place of the client's own. A value is a str or an
            :class:`turnout.Env`.
        query: Parameters that each request gets, such as Azure's ``api-version``.
        auth: How the key is sent: ``"bearer"`` (``Authorization: Bearer``), ``"x-api-key"`` or ``"api-key"``,
            each a header of that name. ``"usual"`` takes ``"bearer"`` for OpenAI's dialect and
            ``"x-api-key"`` for Anthropic's. None sends no key.
        dialect: The language of the interface, ``"openai"`` or ``"anthropic"``. A request of one dialect
            never reaches a deployment of another.
        rewrite: Changes the body of each request: it gets the parsed JSON, with this deployment's model, and
            returns it, or None if it has changed it in place. It is for parameters that a provider does not
            accept.

    Raises:
        ConfigurationError: A value is out of range.
        TypeError: A value is of the wrong type.

    Example:
        >>> from turnout import Deployment, Endpoint, Env
        >>> endpoint = Endpoint("https://eu.example.com/v1", api_key=Env("EU_KEY"))
        >>> Deployment("eu", "gpt-4o", endpoint=endpoint).endpoint
        Endpoint('https://eu.example.com/v1', api_key=Env('EU_KEY'))
    """

    __slots__ = ("_headers", "_key", "_query", "auth", "base_url", "dialect", "rewrite")

    base_url: str
    auth: Literal["bearer", "x-api-key", "api-key"] | None
    dialect: Literal["openai", "anthropic"]
    rewrite: _Rewrite | None
    _key: _Key | None
    _headers: dict[str, str | Env]
    _query: dict[str, str]

    def __init__(
        self,
        base_url: str,
        *,
        api_key: _Key | None = None,
        headers: Mapping[str, str | Env] | None = None,
        query: Mapping[str, str] | None = None,
        auth: Literal["usual", "bearer", "x-api-key", "api-key"] | None = "usual",
        dialect: Literal["openai", "anthropic"] = "openai",
        rewrite: _Rewrite | None = None,
    ) -> None:
        facts = _checked(base_url, api_key, headers, query, auth, dialect, rewrite)
        refused = facts if isinstance(facts, Exception) else None
        if isinstance(facts, Exception):
            facts = _NO_FACTS  # reporters of errors ask for the text of this object
            # They also show the variables of each frame.
            del base_url, api_key, headers, query
        for name, fact in zip(_FACTS, facts, strict=True):
            object.__setattr__(self, name, fact)
        if refused is not None:
            raise refused

    # --- what an attempt needs ---

    def key(self) -> str | Awaitable[str] | None:
        """Ask for the key.

        Returns:
            The key, or an awaitable of it if the callable returns one; None if there is none.

        Raises:
            ConfigurationError: The environment variable is not set.
        """
        key = self._key
        if isinstance(key, Env):
            return key.read()
        return key() if callable(key) else key

    @property
    def has_literal_key(self) -> bool:
        """Whether a key is part of this object, and not looked up at its use."""
        if isinstance(self._key, str):
            return True
        pairs = [*self._headers.items(), *self._query.items()]
        return any(isinstance(value, str) and _SECRET.search(name.lower()) for name, value in pairs)

    def headers(self) -> dict[str, str]:
        """Return the headers that each request gets, in lower case, without the key.

        Returns:
            The headers.

        Raises:
            ConfigurationError: An environment variable is not set, or cannot be sent.
        """
        headers = {}
        for name, value in self._headers.items():
            headers[name] = said = value.read().strip() if isinstance(value, Env) else value
            if not _is_sendable(said):
                del said, headers
                raise ConfigurationError(f"{value!r} must hold one line of printable text for the header {name!r}")
        return headers

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters that each request gets."""
        return MappingProxyType(self._query)

    def auth_header(self, key: object) -> tuple[str, str] | None:
        """Return the header that sends a key.

        Args:
            key: What the key turned out to be.

        Returns:
            The name, in lower case, and the value; None if no key is sent. White space at the ends of a key
            is left out: files and variables often end with a line end.

        Raises:
            ConfigurationError: The key cannot be sent. The text does not show it.
            TypeError: The key is no str. The text does not show it.
        """
        if key is None or self.auth is None:
            return None
        if not isinstance(key, str):
            kind = type(key).__name__
            del key
            raise TypeError(f"api_key must give a str, not a {kind}")
        key = key.strip()
        if not key or not key.isascii() or not key.isprintable():
            del key
            raise ConfigurationError("api_key must give printable ASCII; it is not shown here")
        return ("authorization", f"Bearer {key}") if self.auth == "bearer" else (self.auth, key)

    # --- an object among others ---

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an Endpoint is frozen: {name!r} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an Endpoint is frozen: {name!r} cannot be deleted")

    def _facts(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in _FACTS)

    def __eq__(self, other: object) -> bool:
        return self._facts() == other._facts() if isinstance(other, Endpoint) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.base_url, self.auth, self.dialect))

    def __repr__(self) -> str:
        said = [repr(self.base_url)]
        if self._key is not None:
            said.append(f"api_key={self._key!r}" if isinstance(self._key, Env) else f"api_key={_HIDDEN}")
        for name, values in (("headers", self._headers), ("query", self._query)):
            if values:
                said.append(f"{name}={{{', '.join(f'{key!r}: {_shown(value)}' for key, value in values.items())}}}")
        if self.auth != _USUAL_AUTH[self.dialect]:
            said.append(f"auth={self.auth!r}")
        if self.dialect != "openai":
            said.append(f"dialect={self.dialect!r}")
        if self.rewrite is not None:
            said.append(f"rewrite={getattr(self.rewrite, '__qualname__', type(self.rewrite).__name__)}")
        return f"Endpoint({', '.join(said)})"

    def __copy__(self) -> "Endpoint":
        return self

    def __deepcopy__(self, memo: object) -> "Endpoint":
        return self

    def __reduce__(self) -> tuple[Callable[..., "Endpoint"], tuple[object, ...]]:
        if self.has_literal_key:
            raise TypeError("an Endpoint with a literal key cannot be pickled, so that no key leaves the process: use Env('NAME')")
        return _unpickled, self._facts()


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, Env) else _HIDDEN


def _unpickled(base_url: str, key: Any, headers: Any, query: Any, auth: Any, dialect: Any, rewrite: Any) -> Endpoint:
    return Endpoint(base_url, api_key=key, headers=headers, query=query, auth=auth, dialect=dialect, rewrite=rewrite)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not a {type(value).__name__}")
    if not value:
        raise ConfigurationError(f"{name} must not be empty")
    return str(value)


def _checked(base_url: Any, api_key: Any, headers: Any, query: Any, auth: Any, dialect: Any, rewrite: Any) -> Any:
    """Returns the facts of an endpoint in their order, or what is wrong. It raises nothing: the frames of a
    traceback would show the secrets.
    """
    try:
        if dialect not in _USUAL_AUTH:
            raise ConfigurationError(f"dialect must be 'openai' or 'anthropic', not {dialect!r}")
        if auth == "usual":
            auth = _USUAL_AUTH[dialect]
        if auth is not None and auth not in _AUTHS:
            raise ConfigurationError(f"auth must be 'usual', 'bearer', 'x-api-key', 'api-key' or None, not {auth!r}")
        if rewrite is not None and not callable(rewrite):
            raise TypeError(f"rewrite must be a callable or None, not {rewrite!r} ({type(rewrite).__name__})")
        if inspect.iscoroutinefunction(rewrite):
            raise TypeError(f"rewrite must be a function, not a coroutine function: {rewrite!r}")
        url, in_url = _base_url(base_url)
        return url, _key(api_key), _headers(headers), {**in_url, **_query(query)}, auth, dialect, rewrite
    except (ConfigurationError, TypeError) as error:
        return type(error)(*error.args)


def _is_sendable(value: str) -> bool:
    """Tells whether a value can be sent in a header."""
    return all(letter.isprintable() or letter == "\t" for letter in value)


def _base_url(value: object) -> tuple[str, dict[str, str]]:
    """Returns the URL without a slash at its end and without its query, and the parameters of its query."""
    allowed = "an URL such as 'https://api.openai.com/v1'"
    if not isinstance(value, str):
        # httpx and yarl have classes for it.
        if not hasattr(value, "host") or not hasattr(value, "scheme"):
            raise TypeError(f"base_url must be {allowed}, not a {type(value).__name__}")
        value = str(value)
    shown = value.partition("?")[0].partition("#")[0].rpartition("@")[2]
    try:
        url = urlsplit(value)
        has_secret = url.username is not None or url.password is not None
        is_whole = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        has_secret, is_whole = "@" in value, False
    if has_secret:
        raise ConfigurationError("base_url must not hold a user or a password: give api_key or headers")
    if not is_whole:
        raise ConfigurationError(f"base_url must be {allowed}, not {shown!r}")
    if url.fragment:
        raise ConfigurationError("base_url must not have a fragment, the part behind '#'")
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    return urlunsplit((url.scheme, url.netloc, url.path.rstrip("/"), "", "")), query


def _key(value: Any) -> _Key | None:
    if value is None or isinstance(value, Env) or callable(value):
        return value  # type: ignore[no-any-return]
    if not isinstance(value, str):
        raise TypeError(f"api_key must be a str, an Env, a callable or None, not a {type(value).__name__}")
    if not value or not value.isascii() or not value.isprintable():
        raise ConfigurationError("api_key must be printable ASCII and not empty; it is not shown here")
    return value


def _headers(headers: object) -> dict[str, str | Env]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must map names to values, not a {type(headers).__name__}")
    read: dict[str, str | Env] = {}
    for name, value in headers.items():
        lower = _text("a name in headers", name).lower()
        if lower in _OWN_HEADERS and lower != "authorization":
            raise ConfigurationError(f"headers must not have {name!r}: it is set for each request")
        if not isinstance(value, (str, Env)):
            raise TypeError(f"headers[{name!r}] must be a str or an Env, not a {type(value).__name__}")
        value = value.strip() if isinstance(value, str) else value
        if isinstance(value, str) and not _is_sendable(value):
            raise ConfigurationError(f"headers[{name!r}] must be one line of printable text; it is not shown here")
        read[lower] = value
    return read


def _query(query: object) -> dict[str, str]:
    if query is None:
        return {}
    if not isinstance(query, Mapping):
        raise TypeError(f"query must map names to values, not a {type(query).__name__}")
    for name, value in query.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"query must map str to str, not a {type(name).__name__} to a {type(value).__name__}")
    return dict(query)
