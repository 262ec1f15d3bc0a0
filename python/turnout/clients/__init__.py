"""The clients of openai and anthropic, set up so that a router carries each of their requests.

Each function returns an object of the SDK's own class. Its transport routes, its base URL is one that nothing
is sent to, and it does not retry by itself: the router does. The SDK's own exceptions come out.

    from turnout.clients import AsyncOpenAI

    client = AsyncOpenAI(router)
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from turnout._core import Router
from turnout.transports.asks import BASE_URL

if TYPE_CHECKING:
    import anthropic as _anthropic
    import openai as _openai

__all__ = ["Anthropic", "AsyncAnthropic", "AsyncAzureOpenAI", "AsyncOpenAI", "AzureOpenAI", "OpenAI"]

_T = TypeVar("_T")

# An SDK refuses to be made without a key. This one is taken out of each request.
_NO_KEY = "turnout"
_OURS = ("base_url", "azure_endpoint", "azure_deployment", "http_client", "max_retries")


def _sdk(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"turnout.clients needs {name} for this client: pip install {name}") from error


def _made(
    sdk: str,
    name: str,
    client: str,
    router: Router,
    default_model: str | None,
    tokens: Callable[[bytes], int] | None,
    options: dict[str, Any],
    usual: dict[str, Any],
) -> Any:
    module = _sdk(sdk)
    if not isinstance(router, Router):
        raise TypeError(f"router must be a Router, not {router!r} ({type(router).__name__})")
    for option in _OURS:
        if option in options:
            raise TypeError(f"{name}() has no argument {option!r}: the router decides that")
    # The newer SDKs are built on httpx2, the older ones on httpx.
    bases = module.DefaultHttpxClient.__mro__
    family = "httpx2" if any(base.__module__.partition(".")[0] == "httpx2" for base in bases) else "httpx"
    http = getattr(import_module(f"turnout.{family}"), client)(router, default_model=default_model, tokens=tokens)
    return getattr(module, name)(**{**usual, **options}, http_client=http, max_retries=0)


def OpenAI(  # noqa: N802 - the name of the class that it returns an object of
    router: Router, *, default_model: str | None = None, tokens: Callable[[bytes], int] | None = None, **options: Any
) -> "_openai.OpenAI":
    """Make a client of openai whose requests are routed.

    Args:
        router: The router. Its deployments need an :class:`turnout.Endpoint`.
        default_model: The model name of requests that name none, such as those for files.
        tokens: Estimates the tokens of a request from its body; see
            :class:`turnout.httpx2.AsyncRouterTransport`.
        **options: The other arguments of the SDK's class. Its ``timeout`` stays the upper bound of an
            attempt.

    Returns:
        The client.

    Raises:
        ImportError: openai, or the HTTP library that it is built on, is not installed.
        TypeError: An argument is the router's business, such as ``base_url``.
    """
    usual = {"base_url": BASE_URL, "api_key": _NO_KEY}
    return _made("openai", "OpenAI", "Client", router, default_model, tokens, options, usual)  # type: ignore[no-any-return]


def AsyncOpenAI(  # noqa: N802 - likewise
    router: Router, *, default_model: str | None = None, tokens: Callable[[bytes], int] | None = None, **options: Any
) -> "_openai.AsyncOpenAI":
    """Make a client of openai for tasks whose requests are routed.

    Args:
        router: As for :func:`OpenAI`.
        default_model: As for :func:`OpenAI`.
        tokens: As for :func:`OpenAI`.
        **options: As for :func:`OpenAI`.

    Returns:
        The client.

    Raises:
        ImportError: As for :func:`OpenAI`.
        TypeError: As for :func:`OpenAI`.
    """
    usual = {"base_url": BASE_URL, "api_key": _NO_KEY}
    return _made("openai", "AsyncOpenAI", "AsyncClient", router, default_model, tokens, options, usual)  # type: ignore[no-any-return]


def AzureOpenAI(  # noqa: N802 - likewise
    router: Router, *, default_model: str | None = None, tokens: Callable[[bytes], int] | None = None, **options: Any
) -> "_openai.AzureOpenAI":
    """Make a client of openai's class for Azure whose requests are routed. Deployments need not be Azure's.

    Args:
        router: As for :func:`OpenAI`.
        default_model: As for :func:`OpenAI`.
        tokens: As for :func:`OpenAI`.
        **options: As for :func:`OpenAI`.

    Returns:
        The client.

    Raises:
        ImportError: As for :func:`OpenAI`.
        TypeError: As for :func:`OpenAI`.
    """
    usual = {"azure_endpoint": _AZURE, "api_key": _NO_KEY, "api_version": _AZURE_VERSION}
    return _made("openai", "AzureOpenAI", "Client", router, default_model, tokens, options, usual)  # type: ignore[no-any-return]


def AsyncAzureOpenAI(  # noqa: N802 - likewise
    router: Router, *, default_model: str | None = None, tokens: Callable[[bytes], int] | None = None, **options: Any
) -> "_openai.AsyncAzureOpenAI":
    """Make a client of openai's class for Azure, for tasks, whose requests are routed.

    Args:
        router: As for :func:`OpenAI`.
        default_model: As for :func:`OpenAI`.
        tokens: As for :func:`OpenAI`.
        **options: As for :func:`OpenAI`.

    Returns:
        The client.

    Raises:
        ImportError: As for :func:`OpenAI`.
        TypeError: As for :func:`OpenAI`.
    """
    usual = {"azure_endpoint": _AZURE, "api_key": _NO_KEY, "api_version": _AZURE_VERSION}
    return _made("openai", "AsyncAzureOpenAI", "AsyncClient", router, default_model, tokens, options, usual)  # type: ignore[no-any-return]


def Anthropic(  # noqa: N802 - likewise
    router: Router, *, default_model: str | None = None, tokens: Callable[[bytes], int] | None = None, **options: Any
) -> "_anthropic.Anthropic":
    """Make a client of anthropic whose requests are routed.

    Args:
        router: As for :func:`OpenAI`. Its deployments need an endpoint of the dialect ``"anthropic"``.
        default_model: As for :func:`OpenAI`.
        tokens: As for :func:`OpenAI`.
        **options: As for :func:`OpenAI`.

    Returns:
        The client.

    Raises:
        ImportError: anthropic, or the HTTP library that it is built on, is not installed.
        TypeError: As for :func:`OpenAI`.
    """
    usual = {"base_url": BASE_URL.removesuffix("/v1"), "api_key": _NO_KEY}
    return _made("anthropic", "Anthropic", "Client", router, default_model, tokens, options, usual)  # type: ignore[no-any-return]


def AsyncAnthropic(  # noqa: N802 - likewise
    router: Router, *, default_model: str | None = None, tokens: Callable[[bytes], int] | None = None, **options: Any
) -> "_anthropic.AsyncAnthropic":
    """Make a client of anthropic for tasks whose requests are routed.

    Args:
        router: As for :func:`Anthropic`.
        default_model: As for :func:`OpenAI`.
        tokens: As for :func:`OpenAI`.
        **options: As for :func:`OpenAI`.

    Returns:
        The client.

    Raises:
        ImportError: As for :func:`Anthropic`.
        TypeError: As for :func:`OpenAI`.
    """
    usual = {"base_url": BASE_URL.removesuffix("/v1"), "api_key": _NO_KEY}
    return _made("anthropic", "AsyncAnthropic", "AsyncClient", router, default_model, tokens, options, usual)  # type: ignore[no-any-return]


_AZURE = BASE_URL.removesuffix("/v1")
_AZURE_VERSION = "2024-10-21"
