"""How a router behaves, in groups of options: frozen, checked where they are made, and each with a default that is explained."""

from dataclasses import dataclass

__all__ = ["Learning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What a router learns from providers.

    Args:
        headers: Take the limits that an exception's response headers tell, when it leaves a lease's block.
            :meth:`turnout.Lease.observe` takes those of any response, whatever this says.
        concurrency: Where a deployment has no limit of any kind, let its refusals (429) teach how many requests it takes at once: a
            refusal lowers the cap to seven tenths of what was in flight, as many successes as the cap raise it by one. Without it
            the only lesson of a refusal is a cooldown, after which everything comes back at once.

    Raises:
        TypeError: A value is not a bool.
    """

    headers: bool = True
    concurrency: bool = True

    def __post_init__(self) -> None:
        for name in ("headers", "concurrency"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be a bool, not {value!r} ({type(value).__name__})")
