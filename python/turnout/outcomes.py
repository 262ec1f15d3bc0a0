"""The old name of `turnout.providers.exceptions`."""

import warnings

from turnout.providers.exceptions import Failure as Failure
from turnout.providers.exceptions import classify_exception as classify_exception

__all__ = ["Failure", "classify_exception"]

warnings.warn("turnout.outcomes is now turnout.providers.exceptions", DeprecationWarning, stacklevel=2)
