"""The name by which a store knows a process."""

from turnout._core import _process_name

__all__ = ["process_name"]


def process_name() -> str:
    """Make a name for this process that no process had or will have.

    Returns:
        ``HOST-PIDNS:PID:START:RANDOM``: the host's boot and pid namespace, the pid, when the process started,
        and 64 random bits. A store on the same host finds out by it whether the process lives. What the
        system does not tell is 0.
    """
    return _process_name()
