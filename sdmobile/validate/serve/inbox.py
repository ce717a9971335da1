"""What the page sends: told at once, held to its schema, looked into, kept whole; the verdict is made here."""

from __future__ import annotations

import datetime
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sdmobile.basics.files import write_whole
from sdmobile.basics.metrics import image_psnr
from sdmobile.basics.untrusted import UntrustedError, parse_json
from sdmobile.basics.words import seconds as spoken_seconds
from sdmobile.basics.words import size
from sdmobile.errors import SdmobileError
from sdmobile.prediction.phone_run import ComponentRun, Count, Name, PhoneRun, PhoneRunError, parse_run
from sdmobile.validate.serve.job import thresholds_of
from sdmobile.validate.serve.png import PictureError, png_pixels

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.validate.golden import Golden

MOST_RESULTS = 100
"""A page that sends without end shall not fill the disk."""
MOST_MESSAGES = 20_000
"""Nor the terminal, or what it is written into; a run of a pipeline in parts sends some hundreds."""
Tell = Callable[[str], None]


class RefusedError(SdmobileError):
    """A document that the server does not take."""


class Progress(BaseModel):
    """What the page is about to do.

    Args:
        sequence: counts the page's messages.
        phase: such as "compiling".
        component: canonical name, None for the whole.
        detail: such as the step.
        heap: bytes of the runtime's memory, None if it is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sequence: Count
    phase: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    component: Name | None = None
    detail: Annotated[str, StringConstraints(max_length=1024)] = ""
    heap: Annotated[int, Field(ge=0, le=2**53)] | None = None

    @property
    def words(self) -> str:
        """The message as a line."""
        heap = "" if self.heap is None else f"runtime's memory {size(self.heap)}"
        rest = "; ".join(printable(part) for part in (self.detail, heap) if part)
        what = " ".join(printable(part) for part in (self.phase, self.component or "") if part)
        return f"{what} ({rest})" if rest else what


@dataclass(frozen=True)
class Receipt:
    """A result that was taken.

    Args:
        run: as the page told it.
        faults: what is wrong with it, worst first; nothing if it passed.
        file: where it is kept.
        picture: where its picture is kept, None if it drew none.
    """

    run: PhoneRun
    faults: tuple[str, ...]
    file: Path
    picture: Path | None

    @property
    def verdict(self) -> str:
        """In the word of the document."""
        return "failed" if self.faults else "passed"

    def to_json(self) -> dict[str, Any]:
        """Returns what `sdmobile serve --json` prints of it."""
        return {
            "verdict": self.verdict,
            "faults": list(self.faults),
            "file": str(self.file),
            "picture": None if self.picture is None else str(self.picture),
            "accelerator": self.run.accelerator,
            "adapter": None if self.run.adapter is None else self.run.adapter.title,
            "unstorable": self.run.unstorable(),
        }


class Inbox:
    """Takes what pages send, from several threads.

    Args:
        job: that the pages were given.
        golden: recorded calls that they compare with.
        folder: where results are kept.
        tell: gets lines for people.
    """

    def __init__(self, job: Mapping[str, Any], golden: Golden, folder: Path, tell: Tell) -> None:
        self.receipts: list[Receipt] = []
        self.last: Progress | None = None
        """What the page was about to do; None once a result came."""
        self.arrived = threading.Event()
        self._job, self._golden, self._folder, self._tell = job, golden, folder, tell
        self._lock = threading.Lock()
        self._messages = 0

    def progress(self, data: bytes) -> None:
        """Takes a message.

        Raises:
            RefusedError: it does not keep to its schema.
        """
        try:
            message = Progress.model_validate(parse_json(data))
        except (ValidationError, UntrustedError) as error:
            raise RefusedError("a message must keep to its schema", _first(error)) from error
        with self._lock:
            if self._messages >= MOST_MESSAGES:
                raise RefusedError(f"at most {MOST_MESSAGES} messages are taken", None, "Start `sdmobile serve` again")
            self._messages += 1
            self.last = message
            self._tell(f"phone: {message.words}")

    def results(self, data: bytes) -> Receipt:
        """Takes a result and keeps it.

        Raises:
            RefusedError: it does not keep to its schema, or is of another job or bundle.
            OutputError, ResourceError: it cannot be kept.
        """
        try:
            run = parse_run(data)
            picture, pixels = self._picture(run)
        except (PhoneRunError, PictureError) as error:
            raise RefusedError(str(error)) from error
        if run.job != self._job["id"] or run.bundle_sha256 != self._job["bundle"]["sha256"]:
            raise RefusedError("a result must be of this job and bundle", run.job, "Load the page again")
        if run.precision != self._job["precision"]:
            raise RefusedError("a result must be of the job's precision", run.precision, "Load the page again")
        faults = (*run.faults(thresholds_of(self._job)), *self._gaps(run), *self._picture_faults(run, pixels))
        with self._lock:
            if len(self.receipts) >= MOST_RESULTS:
                raise RefusedError(f"at most {MOST_RESULTS} results are taken", None, "Start `sdmobile serve` again")
            file = self._folder / f"{self._name()}.json"
            write_whole(file, data, overwrite=False)
            place = None if picture is None else file.with_suffix(".png")
            if place is not None and picture is not None:
                write_whole(place, picture, overwrite=False)
            receipt = Receipt(run, faults, file, place)
            self.receipts.append(receipt)
            self.last = None
            for line in told(receipt):
                self._tell(line)
        self.arrived.set()
        return receipt

    def _name(self) -> str:
        moment = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        return f"{moment}-{self._job['bundle']['device']}-{self._job['id']}-{len(self.receipts) + 1}"

    def _picture(self, run: PhoneRun) -> tuple[bytes | None, NDArray[np.uint8] | None]:
        """Returns the picture's bytes and pixels; raises PictureError or PhoneRunError unless it is what was asked."""
        if run.picture is None:
            return None, None
        if self._job["picture"] is None:
            raise PictureError("no picture was asked for")
        expected = self._job["picture"]["expected"]
        data = run.picture.png()
        return data, png_pixels(data, expected["width"], expected["height"])

    def _picture_faults(self, run: PhoneRun, pixels: NDArray[np.uint8] | None) -> list[str]:
        """Returns what is wrong with the picture, by its own pixels."""
        if self._job["picture"] is None:
            return []
        if run.picture is None or pixels is None:
            return [] if run.way == "one at a time" or run.verdict == "failed" else ["no picture was drawn"]
        least = self._job["picture"]["expected"]["psnr_db"]
        figure = image_psnr(_unit(self._golden.pixels()), _unit(pixels))
        faults = [] if figure >= least else [f"the picture has {figure:.1f} dB, at least {least:g} is asked"]
        if run.picture.sha256 != hashlib.sha256(pixels.tobytes()).hexdigest():
            faults.append("the picture's hash is not that of its pixels")
        return faults

    def _gaps(self, run: PhoneRun) -> list[str]:
        """Returns what was asked for and neither timed nor compared."""
        gaps = []
        compared = {(check.component, check.label, check.output) for check in run.checks}
        for one in run.components:
            if one.error is not None or one.name not in thresholds_of(self._job):
                continue
            if len(one.seconds) < self._job["runs"]:
                gaps.append(f"{one.name}: {len(one.seconds)} of {self._job['runs']} runs were timed")
            for call in self._golden.calls(one.name):
                missing = [name for name in call["outputs"] if (one.name, call["label"], name) not in compared]
                gaps += [f"{one.name}: {name} of {call['label']} was not compared" for name in missing]
        return gaps


def _unit(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return pixels / 127.5 - 1.0


def _first(error: Exception) -> str:
    """Returns the first problem of a document."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'the document'}: {first['msg']}"


def printable(text: str) -> str:
    """Returns text without what moves a terminal's cursor or turns the direction of reading."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def told(receipt: Receipt) -> list[str]:
    """Returns a result in lines for people."""
    run = receipt.run
    adapter = "no adapter" if run.adapter is None else printable(run.adapter.title)
    where = f"{adapter}, {run.precision}" if run.accelerator == "webgpu" else "the browser's CPU"
    lines = [f"phone: {receipt.verdict} on {where}; kept in {receipt.file}"]
    lines += [_component_line(one, run) for one in run.components if one.error is None]
    if run.picture is not None:
        lines.append(f"phone: picture in {spoken_seconds(run.picture.total_seconds)}: {receipt.picture}")
    lines += [f"phone: {printable(fault)}" for fault in receipt.faults]
    if (reason := run.unstorable()) is not None:
        lines.append(f"phone: the times are no measurement of a phone's GPU: {printable(reason)}")
    return lines


def _component_line(one: ComponentRun, run: PhoneRun) -> str:
    figures = [check.psnr_db for check in run.checks if check.component == one.name]
    known = [figure for figure in figures if figure is not None]
    worst = "not finite" if len(known) < len(figures) else f"{min(known):.1f} dB" if known else "not compared"
    if not one.seconds:
        return f"phone: {one.name}: {worst}"
    ordered = sorted(one.seconds)
    median = 1000 * ordered[len(ordered) // 2]
    return f"phone: {one.name}: worst of {len(figures)} comparisons {worst}; median of {len(ordered)}: {median:.1f} ms"
