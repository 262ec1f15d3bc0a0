"""The record of one attempt, and where records are found."""

from contextlib import suppress
from typing import NamedTuple

from turnout.enums import FailureKind

__all__ = ["AttemptRecord", "attempts_of"]

_ATTRIBUTE = "turnout_attempts"


class AttemptRecord(NamedTuple):
    """One sending of a request to one deployment.

    Attributes:
        model_name: The model name that was asked.
        deployment_id: The deployment.
        kind: What went wrong; None after a success.
        status: The HTTP status of the answer; None if it is not known.
        waited: Seconds that the call waited for the deployment.
        seconds: Seconds from the acquire to the end of the attempt.
        first_token: Seconds to the first token; None if it was not noted.
        retry_after: Seconds after which the provider wants to be asked again; None if it did not say.
        tokens: The tokens that were reserved.
    """

    model_name: str
    deployment_id: str
    kind: FailureKind | None
    status: int | None
    waited: float
    seconds: float
    first_token: float | None
    retry_after: float | None
    tokens: int

    def __str__(self) -> str:
        said = "ok" if self.kind is None else str(self.kind)
        if self.status is not None:
            said += f" {self.status}"
        return f"{self.deployment_id!r}: {said} after {self.seconds:.3f} s"


def attempts_of(thing: object) -> tuple[AttemptRecord, ...]:
    """Return the attempts that led to an error or to an HTTP answer.

    Args:
        thing: An exception that a call of this package raised, or an answer of one of its transports.
            An exception of an SDK leads to its answer.

    Returns:
        The attempts in their order; empty if there were none, or if the object is of another origin.
    """
    found = getattr(thing, _ATTRIBUTE, None)
    if found is None:
        response = getattr(thing, "response", thing)
        extensions = getattr(response, "extensions", None)
        found = extensions.get("turnout") if isinstance(extensions, dict) else None
    if found is None and isinstance(thing, BaseException) and thing.__cause__ is not None:
        return attempts_of(thing.__cause__)
    return tuple(found or ())


def put_on(error: BaseException, records: tuple[AttemptRecord, ...], reason: str) -> None:
    """Put the attempts on an error: as an attribute, and as a note for people to read.

    Args:
        error: The error.
        records: The attempts.
        reason: Why there is no further attempt.
    """
    note = f"turnout: {'; '.join(map(str, records)) or 'nothing was sent'} ({reason})"
    with suppress(AttributeError, TypeError):  # some classes have no room for one more attribute
        error.turnout_attempts = records  # type: ignore[attr-defined]
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:  # Python 3.10 shows no notes, but keeps them
        notes = getattr(error, "__notes__", None)
        error.__notes__ = [*(notes or ()), note]  # type: ignore[attr-defined]


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an exception carries.

    Args:
        error: The exception.

    Returns:
        The status; None if there is none.
    """
    for thing in (error, getattr(error, "response", None)):
        for name in ("status_code", "status", "code"):
            status = getattr(thing, name, None)
            if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599:
                return status
    return None
