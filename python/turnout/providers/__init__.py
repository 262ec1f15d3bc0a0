"""Readers of what providers say: of their limits in headers, and of a failure in exceptions."""

from turnout.providers.exceptions import Failure as Failure
from turnout.providers.exceptions import classify_exception as classify_exception
from turnout.providers.headers import Observed as Observed
from turnout.providers.headers import RateLimits as RateLimits
from turnout.providers.headers import read_rate_limits as read_rate_limits

__all__ = ["Failure", "Observed", "RateLimits", "classify_exception", "read_rate_limits"]
