"""What failures of the Hub mean to a user: one line with what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdmobile.basics.files import is_disk_full
from sdmobile.checkpoints.hub import PUBLIC, HubName, hub_endpoint, page_of
from sdmobile.errors import CheckpointError, ResourceError, SdmobileError

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_LONGEST = 300
_ADVICE = re.compile(r"For more information check: \S+")  # by the HTTP library, on what a status means


@contextmanager
def hub_errors(name: HubName, kind: type[SdmobileError] = CheckpointError) -> Iterator[None]:
    """Turns whatever the Hub's client raises into one error; only its calls belong into the block.

    Args:
        name: what is read, or written to.
        kind: of the error.
    """
    try:
        yield
    except SdmobileError:
        raise
    except Exception as error:  # of the client, of the HTTP library below it and of what a server may answer
        raise _explained(name, error, kind) from error


def _explained(name: HubName, error: Exception, kind: type[SdmobileError]) -> SdmobileError:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,  # that of the HTTP library, whose name differs by release
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause = error.__cause__ if isinstance(error.__cause__, HTTPError) else error  # of a thread, or of a cache's miss
    cause = error if isinstance(error, HTTPError) else cause
    if is_disk_full(cause):
        return ResourceError("the disk must have room for what comes from the Hub", _line(cause), "Free some space.")
    known: tuple[tuple[type[BaseException], Callable[[], SdmobileError]], ...] = (
        (GatedRepoError, lambda: _gated(name, kind)),
        (RevisionNotFoundError, lambda: _no_revision(name, kind)),
        (RepositoryNotFoundError, lambda: _no_repository(name, kind)),
        (OfflineModeIsEnabled, lambda: kind("the Hub must be reached", f"{name}: HF_HUB_OFFLINE is set", "Unset it.")),
        (LocalEntryNotFoundError, lambda: not_cached(name, kind)),
        (HfHubHTTPError, lambda: _refused(name, cause, kind)),
        (HTTPError, lambda: _unreachable(name, cause, kind)),
    )
    for known_kind, explanation in known:
        if isinstance(cause, known_kind):
            return explanation()
    return kind(
        "the answer of the Hub must be readable", f"{name}: {type(cause).__name__}: {_line(cause)}", "Try again."
    )


def not_cached(name: HubName, kind: type[SdmobileError] = CheckpointError, what: str = "") -> SdmobileError:
    """Returns that something was not downloaded before and cannot be now."""
    return kind(
        "without the network, a checkpoint of the Hub must have been downloaded before",
        f"{what} of {name} is not in the cache" if what else f"{name} is not in the cache",
        "Run once with the network and without HF_HUB_OFFLINE.",
    )


def _gated(name: HubName, kind: type[SdmobileError]) -> SdmobileError:
    return kind(
        "a gated repository asks to accept its terms first",
        name,
        f"Accept them on {page_of(name.repository)}, then {_LOG_IN}.",
    )


def _no_revision(name: HubName, kind: type[SdmobileError]) -> SdmobileError:
    return kind(
        "the revision must be a branch, a tag or a commit of the repository",
        f"{name.repository} has no {name.revision or 'main'}",
        f"Those that there are: {page_of(name.repository)}/tree/main",
    )


def _no_repository(name: HubName, kind: type[SdmobileError]) -> SdmobileError:
    what = "a checkpoint must be a path that exists, or" if kind is CheckpointError else "what is written to must be"
    return kind(
        f"{what} a repository of the Hub that you may read",
        name,
        f"Correct the name; if it is private, {_LOG_IN}.",
    )


def _refused(name: HubName, error: BaseException, kind: type[SdmobileError]) -> SdmobileError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = f"{name}: {_line(getattr(error, 'server_message', None) or error)}"
    if status == 401:
        return kind("the Hub must know who you are", said, f"To do so, {_LOG_IN}.")
    if status == 403:
        return kind(
            "the Hub must allow it",
            said,
            "Use a token with the permission: https://huggingface.co/settings/tokens",
        )
    return kind("the Hub must answer", said, "Try again later.")


def _unreachable(name: HubName, error: BaseException, kind: type[SdmobileError]) -> SdmobileError:
    reading = kind is CheckpointError
    return kind(
        "the Hub must be reached for a checkpoint that is no path here" if reading else "the Hub must be reached",
        f"{name}: {hub_endpoint() or PUBLIC} does not answer ({_line(error) or type(error).__name__})",
        "Check the network" + ("; HF_HUB_OFFLINE=1 takes what was downloaded before." if reading else "."),
    )


def _line(error: object) -> str:
    """Returns a text as one line of bounded length, for a server may have written it."""
    text = _ADVICE.sub("", "".join(c if c.isprintable() else " " for c in str(error)))
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
