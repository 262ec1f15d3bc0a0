"""The old name of `turnout.providers.headers`."""

import warnings

from turnout.providers.headers import Observed as Observed
from turnout.providers.headers import RateLimits as RateLimits
from turnout.providers.headers import read_rate_limits as read_rate_limits

__all__ = ["Observed", "RateLimits", "read_rate_limits"]

warnings.warn("turnout.headers is now turnout.providers.headers", DeprecationWarning, stacklevel=2)
