"""How large a request is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from turnout._core import _scan_request
from turnout.transports.asks import estimate

__all__ = ["size_of"]

_CONTENT = ("messages", "input", "prompt", "tools", "max_tokens", "max_completion_tokens", "max_output_tokens")


def size_of(request: Mapping[str, Any]) -> int:
    """Estimate the tokens that a request may use, as for the clients of this package.

    Args:
        request: The arguments of the request.

    Returns:
        The tokens; 0 if they cannot be told.
    """
    said = {name: value for name in _CONTENT if (value := request.get(name)) is not None}
    try:
        body = json.dumps(said, default=str, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError):
        return 0
    return estimate(body, _scan_request(body))
