"""One call of `sdmobile serve`: a bundle is opened, its recorded calls are found or made, and a phone is waited for."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import data_folder
from sdmobile.basics.libraries import is_installed
from sdmobile.basics.stopping import stopped_by
from sdmobile.checkpoints.changes import UNCHANGED, Changes
from sdmobile.errors import (
    EXIT_BELOW_THRESHOLD,
    EXIT_MISSING,
    EXIT_OK,
    MissingDependencyError,
    UnsupportedError,
    UsageError,
)
from sdmobile.formats.bundle.file_list import check_file_list
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.reference.recording_cache import default_recordings_dir
from sdmobile.validate.golden import read_golden
from sdmobile.validate.golden_recording import PictureOrder, covers, record_golden
from sdmobile.validate.page_picture import has_table, why_no_picture
from sdmobile.validate.serve.address import LOOPBACK, lan_address
from sdmobile.validate.serve.cable import joined
from sdmobile.validate.serve.inbox import Inbox, Tell
from sdmobile.validate.serve.job import JobOptions, Mode, make_job, model_bytes
from sdmobile.validate.serve.memory import held, what_fits
from sdmobile.validate.serve.routes import Routes, make_routes, page_files
from sdmobile.validate.serve.server import Limits, Site, new_token, serving
from sdmobile.validate.serve.splitting import split_models
from sdmobile.validate.serve.tls import context_of, host_of, own_certificate

if TYPE_CHECKING:
    from sdmobile.checkpoints.control import ControlFolder
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.lint.report import Finding
    from sdmobile.validate.golden import Golden

DEFAULT_PORT = 8765
"""One and the same, since what a browser keeps belongs to address and port."""
BROWSER = "phone-browser"
"""The device profile with the limits that every browser with WebGPU has."""
SCHEMA_VERSION = 1
_LISTEN_SECONDS = 0.2


@dataclass(frozen=True)
class Source:
    """Where recorded calls come from, if the bundle has none that fit.

    Args:
        reference: the bundle's checkpoint, None for one that ships with sdmobile.
        changes: that were put on top of it.
        controls: the bundle's control networks.
    """

    reference: Path | None = None
    changes: Changes = UNCHANGED
    controls: Sequence[ControlFolder] = ()


@dataclass(frozen=True)
class Network:
    """Who can reach the server.

    Args:
        lan: the local network by TLS; else this computer alone.
        port: to listen on.
        certificate, key: of the user's own, PEM; None for one that is made.
    """

    lan: bool = False
    port: int = DEFAULT_PORT
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise UsageError("a key belongs to a certificate", self.key, "Give --cert, too")
        if self.certificate is not None and not self.lan:
            raise UsageError("a certificate is for --lan", self.certificate, "Add --lan, or leave --cert out")


@dataclass(frozen=True)
class Prepared:
    """All that is served.

    Args:
        bundle: opened.
        golden: recorded calls.
        job: of the page.
        routes: what is served.
    """

    bundle: Bundle
    golden: Golden
    job: dict[str, Any]
    routes: Routes

    @property
    def lines(self) -> list[str]:
        """What people want to know before a phone loads it."""
        sizes = model_bytes(self.bundle, self.job)
        total = sum(entry["size"] for entry in self.job["files"].values())
        components = ", ".join(sizes)
        lines = [f"{self.job['bundle']['name']}: {components}; the phone loads {total / 1e6:.1f} MB once"]
        lines += what_fits(sizes, _apart(self.job))
        if self.job["no_picture"] is not None:
            lines.append(f"no picture is drawn: {self.job['no_picture']}")
        return lines


@dataclass
class Session:
    """What came of serving.

    Args:
        address: that was served.
        inbox: with the results.
        reason: why it ended.
    """

    address: str
    inbox: Inbox
    reason: str = ""
    exit_code: int = field(init=False, default=EXIT_MISSING)

    def close(self, reason: str) -> None:
        """Notes why it ended, and what that means: the last result counts."""
        self.reason = reason
        if self.inbox.receipts:
            failed = self.inbox.receipts[-1].faults
            self.exit_code = EXIT_BELOW_THRESHOLD if failed else EXIT_OK

    @property
    def last_words(self) -> str | None:
        """What the page was about to do when nothing more came of it, None if a result came or nothing began."""
        if self.inbox.last is None:
            return None
        return (
            f"no result came after the page's last word: {self.inbox.last.words}. "
            "A browser ends a page without a word where memory runs out."
        )

    def to_json(self, job: dict[str, Any]) -> dict[str, Any]:
        """Returns what `sdmobile serve --json` prints."""
        receipts = self.inbox.receipts
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "sdmobile-serve",
            "job": job["id"],
            "bundle": job["bundle"],
            "passed": not receipts[-1].faults if receipts else None,
            "ended": self.reason,
            "last_words": self.last_words,
            "results": [receipt.to_json() for receipt in receipts],
        }


def prepare(
    path: Path,
    options: JobOptions,
    order: PictureOrder,
    source: Source,
    mode: Mode,
    tell: Tell,
    progress: Callable[[str, int, int], None] | None = None,
    folder: Path | None = None,
) -> Prepared:
    """Opens a bundle and gathers all that is served.

    Args:
        path: the bundle.
        options: how the page shall work.
        order: the picture that it shall draw.
        source: where recorded calls come from.
        mode: whether a server takes the results.
        tell: gets lines for people.
        progress: sees (what, done, all) of recording.
        folder: for what is served and is not the bundle's; it must stay. None: weights stay in their files.

    Raises:
        BundleError: the bundle is damaged.
        UnsupportedError: it is not for Android, or an unknown component was asked for.
        UsageError: there is no table for so many steps.
        MissingDependencyError: the page is not built; or calls must be recorded, and there is no PyTorch.
        CheckpointError: calls must be recorded, and the reference is missing or another one.
    """
    from sdmobile.validate.serve.job import chosen_components

    bundle = open_bundle(path)
    if bundle.target != "android":
        raise UnsupportedError(
            "a phone's browser runs LiteRT files, which bundles for Android hold",
            f"{path} is for {bundle.target}",
            "Export with --target android; it runs in an iPhone's browser, too",
        )
    check_file_list(bundle)
    chosen_components(bundle, options.components)
    if order.steps is not None and why_no_picture(bundle) is None and not has_table(bundle, order.steps):
        raise UsageError("--steps must be a number that the bundle's scheduler.json has a table for", order.steps)
    page = page_files()
    _warn_of_textures(bundle, options, tell)
    golden = _golden(bundle, options, order, source, tell, progress)
    job = make_job(bundle, golden, options, mode)
    if not job["components"]:
        raise UnsupportedError("a component that runs needs a recorded call", "the reference calls none of them")
    external = {} if folder is None else split_models(bundle, job, options, folder, tell)
    if external:
        job = make_job(bundle, golden, options, mode, external)
    return Prepared(bundle, golden, job, make_routes(bundle, golden, job, page, external))


def _warn_of_textures(bundle: Bundle, options: JobOptions, tell: Tell) -> None:
    """Warns of files with convolutions whose transformed weights exceed the textures that every browser has."""
    from sdmobile.device_profiles import load_profile
    from sdmobile.formats.errors import FormatError
    from sdmobile.formats.tflite.reader import read_graph
    from sdmobile.lint.limits import limits_of
    from sdmobile.lint.tflite.memory import texture_findings
    from sdmobile.validate.serve.job import chosen_components

    limits = limits_of(load_profile(BROWSER))
    for name in chosen_components(bundle, options.components) or bundle.components:
        file = bundle.components[name]
        for part in file.chain or (file,):
            found: list[Finding] = []
            with contextlib.suppress(FormatError):  # the page says what is wrong with such a file
                found = list(texture_findings(read_graph(part.path), limits))
            if found:
                more = f" and {len(found) - 1} more" if len(found) > 1 else ""
                tell(f"warning: {part.path.name}: {found[0].detail}{more}. {found[0].fix}")


def _apart(job: dict[str, Any]) -> dict[str, list[float]] | None:
    """Returns what is held of each file of each component if weights come apart; None if none can."""
    entries = {one["name"]: [job["files"][part["file"]] for part in one["parts"]] for one in job["components"]}
    if not any("external" in entry for each in entries.values() for entry in each):
        return None
    return {name: [held(entry) for entry in each] for name, each in entries.items()}


def _golden(
    bundle: Bundle,
    options: JobOptions,
    order: PictureOrder,
    source: Source,
    tell: Tell,
    progress: Callable[[str, int, int], None] | None,
) -> Golden:
    """Returns recorded calls: the bundle's own if they fit, else new ones."""
    present, reason = read_golden(bundle)
    names = options.components or tuple(bundle.components)
    if present is not None and covers(present, names, order, why_no_picture(bundle) is None):
        return present
    why = reason or ("it has none" if present is None else "it has none of these components or of this picture")
    if not is_installed("torch"):
        if present is not None and order == PictureOrder():
            return present  # the components' calls, at least
        raise MissingDependencyError(
            "calls of the reference must be recorded with PyTorch, which is not installed",
            f"the bundle's own do not do: {why}",
            "Run `sdmobile validate` on the bundle where PyTorch is, or: pip install 'sdmobile[torch]'",
        )
    tell(f"recording calls of the reference with PyTorch: the bundle's own do not do, {why}")
    return record_golden(
        bundle, order, source.reference, source.changes, source.controls, default_recordings_dir(), progress
    )


@contextlib.contextmanager
def phone_session(
    prepared: Prepared, network: Network, results: Path | None, tell: Tell, limits: Limits | None = None
) -> Iterator[Session]:
    """Serves until the block ends.

    Args:
        prepared: what is served.
        network: who can reach it.
        results: folder for results; None for the user's data folder.
        tell: gets lines for people, from any thread.
        limits: of connections.

    Raises:
        MissingDependencyError: a certificate must be made, and `cryptography` is not installed.
        ResourceError: the port is taken, or there is no network.
        UsageError: the certificate cannot be used.
    """
    host = name = lan_address() if network.lan else LOOPBACK
    tls = None
    if network.lan:
        certificate = network.certificate or own_certificate(host)
        tls, name = context_of(certificate, network.key), host_of(certificate, host)
    inbox = Inbox(prepared.job, prepared.golden, results or data_folder("phone-runs"), tell)
    site = Site(new_token(), prepared.routes, inbox, tell, limits or Limits(), tls)
    with serving(host, network.port, site) as server, contextlib.ExitStack() as stack:
        scheme = "http" if tls is None else "https"
        port = server.server_port
        session = Session(f"{scheme}://{name}:{port}/{site.token}/", inbox)
        if not network.lan:
            stack.enter_context(joined(port, tell))
        yield session


def wait_for_phone(session: Session, minutes: float, once: bool) -> None:
    """Waits until the time is over, Ctrl-C, or with `once` the first result.

    Args:
        session: that is being served.
        minutes: at most.
        once: end after the first result.

    Raises:
        KeyboardInterrupt: the command was stopped by another signal than Ctrl-C's.
    """
    end = time.monotonic() + 60 * minutes
    try:
        while (left := end - time.monotonic()) > 0:
            if session.inbox.arrived.wait(min(left, _LISTEN_SECONDS)):
                if once:
                    session.close("a result came")
                    time.sleep(_LISTEN_SECONDS)  # the page shall get its answer
                    return
                time.sleep(min(left, _LISTEN_SECONDS))
        session.close(f"{minutes:g} minutes are over")
    except KeyboardInterrupt:
        if stopped_by() not in (None, signal.SIGINT):
            raise
        session.close("Ctrl-C")
