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
def hub_errors(
    name: HubName, kind: type[SdmobileError] = CheckpointError, what: str = "a checkpoint"
) -> Iterator[None]:
    """Turns whatever the Hub's client raises into one error; only its calls belong into the block.

    Args:
        name: what is read, or written to.
        kind: of the error.
        what: is read.
    """
    try:
        yield
    except SdmobileError:
        raise
    except Exception as error:  # of the client, of the HTTP library below it and of what a server may answer
        raise _explained(name, error, kind, what) from error


def _explained(name: HubName, error: Exception, kind: type[SdmobileError], what: str) -> SdmobileError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        FileMetadataError,
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
    if isinstance(error.__cause__, FileMetadataError):  # of a file; the client then looks for it in the cache
        cause = error.__cause__
    if is_disk_full(cause):
        return ResourceError("the disk must have room for what comes from the Hub", _line(cause), "Free some space.")
    known: tuple[tuple[type[BaseException], Callable[[], SdmobileError]], ...] = (
        (GatedRepoError, lambda: _gated(name, kind)),
        (RevisionNotFoundError, lambda: _no_revision(name, kind)),
        (RepositoryNotFoundError, lambda: _no_repository(name, kind, what)),
        (OfflineModeIsEnabled, lambda: kind("the Hub must be reached", f"{name}: HF_HUB_OFFLINE is set", "Unset it.")),
        (LocalEntryNotFoundError, lambda: not_cached(name, kind, what=what)),
        (EntryNotFoundError, lambda: _gone(name, cause, kind)),
        (HfHubHTTPError, lambda: _refused(name, cause, kind)),
        (HTTPError, lambda: _unreachable(name, cause, kind, what)),
    )
    for known_kind, explanation in known:
        if isinstance(cause, known_kind):
            return explanation()
    return kind(
        "the answer of the Hub must be readable",
        f"{name}: {hub_endpoint() or PUBLIC} answers with something else ({type(cause).__name__}: {_line(cause)})",
        "Look whether a proxy or the log-in page of a network answers in its place, or HF_ENDPOINT is no Hub.",
    )


def not_cached(
    name: HubName, kind: type[SdmobileError] = CheckpointError, part: str = "", what: str = "a checkpoint"
) -> SdmobileError:
    """Returns that something, or a part of it, was not downloaded before and cannot be now."""
    return kind(
        f"without the network, {what} of the Hub must have been downloaded before",
        f"{part} of {name} is not in the cache" if part else f"{name} is not in the cache",
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


def _no_repository(name: HubName, kind: type[SdmobileError], what: str) -> SdmobileError:
    must = f"{what} must be a path that exists, or" if kind is CheckpointError else "what is written to must be"
    return kind(
        f"{must} a repository of the Hub that you may read",
        name,
        f"Correct the name; if it is private, {_LOG_IN}.",
    )


def _gone(name: HubName, error: BaseException, kind: type[SdmobileError]) -> SdmobileError:
    said = _line(getattr(error, "server_message", None) or "a file of its list is not there")
    return kind("the Hub must have every file that it lists", f"{name}: {said}", "Try again.")


_MEANT = {
    401: ("the Hub must know who you are", f"To do so, {_LOG_IN}."),
    403: ("the Hub must allow it", "Use a token with the permission: https://huggingface.co/settings/tokens"),
    404: ("the Hub must have what is asked for", "Correct the name, and HF_ENDPOINT if you set it."),
    408: ("the Hub must answer in time", "Try again later."),
    416: ("the Hub must send the part of a file that is asked for", "Remove *.incomplete from the Hub's cache."),
    429: ("the Hub must take more requests than these", f"Wait some minutes; for a higher limit, {_LOG_IN}."),
}
_BROKEN = ("the Hub must be in order", "Try again later; https://status.huggingface.co tells of faults.")
_OTHER = ("the Hub must take the request", "Look whether a proxy answers in its place, or HF_ENDPOINT is no Hub.")


def _refused(name: HubName, error: BaseException, kind: type[SdmobileError]) -> SdmobileError:
    """Returns what a status means; the server's own words stand behind it where they are no page."""
    status = int(getattr(getattr(error, "response", None), "status_code", None) or 0)
    rule, fix = _MEANT.get(status, _BROKEN if status >= 500 else _OTHER)
    words = _line(getattr(error, "server_message", None) or "")
    page = words.lower().startswith(("<!doctype", "<html", "<?xml"))
    said = "a web page" if page else words
    return kind(rule, f"{name}: status {status}" + (f", {said}" if said else ""), fix)


def _unreachable(name: HubName, error: BaseException, kind: type[SdmobileError], what: str) -> SdmobileError:
    reading, place = kind is CheckpointError, hub_endpoint() or PUBLIC
    if "SSL" in str(error):
        return kind(
            "the Hub must prove by a certificate that it is the Hub",
            f"{name}: {place} does not ({_line(error)})",
            "Look whether a proxy stands in between; SSL_CERT_FILE names further certificates.",
        )
    return kind(
        f"the Hub must be reached for {what} that is no path here" if reading else "the Hub must be reached",
        f"{name}: {place} does not answer ({_line(error) or type(error).__name__})",
        "Check the network" + ("; HF_HUB_OFFLINE=1 takes what was downloaded before." if reading else "."),
    )


def _line(error: object) -> str:
    """Returns a text as one line of bounded length, for a server may have written it."""
    text = _ADVICE.sub("", "".join(c if c.isprintable() else " " for c in str(error)))
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
