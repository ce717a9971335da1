"""What the page of `sdmobile serve` sends back: the schema of a run on a phone's own GPU, and what it is worth.

A run says what computed (the adapter), how right every timed call was, and how long it took. Nothing in it is believed
beyond that: the verdict is computed here from the checks, and a time is a measurement only where `storable` says so.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sdmobile.basics.untrusted import parse_json, read_bounded
from sdmobile.errors import EXIT_CHECKPOINT, SdmobileError
from sdmobile.prediction.measurements import SOFTWARE

KIND = "sdmobile-phone-run"
SCHEMA_VERSION = 1
MAX_BYTES = 32 << 20
EQUAL_DB = 999.0
"""Stands for the decibels of equal arrays, which are infinite."""

Text = Annotated[str, StringConstraints(max_length=4096)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]
Decibels = Annotated[float, Field(ge=-1000, le=EQUAL_DB, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class PhoneRunError(SdmobileError):
    """A document is no run of the page, or says something impossible."""

    exit_code = EXIT_CHECKPOINT


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Adapter(_Part):
    """The GPU, in the browser's words (GPUAdapterInfo of WebGPU).

    Args:
        vendor, architecture, device, description: as the browser tells them; often empty.
        fallback: whether the browser calls it a fallback; None where it does not say.
    """

    vendor: Text = ""
    architecture: Text = ""
    device: Text = ""
    description: Text = ""
    fallback: bool | None = None

    @property
    def title(self) -> str:
        """The words that are not empty."""
        words = (self.vendor, self.architecture, self.device, self.description)
        return " / ".join(word for word in words if word) or "unnamed adapter"

    @property
    def is_software(self) -> bool:
        """Whether a processor plays the GPU."""
        return self.fallback is True or any(word in self.title.lower() for word in SOFTWARE)


class ComponentRun(_Part):
    """How one component ran.

    Args:
        name: canonical name.
        accepted: whether the engine took the whole file, or every part of a chain.
        used: what it ran on.
        dispatches: kernel launches of one run, counted in the browser.
        download_seconds, compile_seconds, first_seconds: None if it did not come to that.
        seconds: of every timed run.
        heap_bytes: of the runtime's memory afterwards.
        buffers, largest_buffer: GPU buffers that were made, and bytes of the largest.
        error: why it failed, None if it did not.
    """

    name: Name
    accepted: bool
    used: Literal["webgpu", "wasm"] | None = None
    dispatches: Count = 0
    download_seconds: Seconds | None = None
    compile_seconds: Seconds | None = None
    first_seconds: Seconds | None = None
    seconds: list[Seconds] = Field(default_factory=list, max_length=1000)
    heap_bytes: Count = 0
    buffers: Count = 0
    largest_buffer: Count = 0
    error: Text | None = None


class OutputCheck(_Part):
    """One output of one run beside float32 PyTorch.

    Args:
        component: canonical name.
        label: of the recorded call.
        run: number of the run; every timed one is checked.
        output: the output's name.
        psnr_db: decibels, 999 where equal, None where not finite.
        identical_to_first: whether it equals the first run's, bit for bit.
        passed: what the page found.
    """

    component: Name
    label: Text
    run: Count
    output: Text
    psnr_db: Decibels | None
    identical_to_first: bool
    passed: bool


class PictureRun(_Part):
    """The picture that the whole pipeline drew.

    Args:
        sha256: of its RGB bytes.
        psnr_db: against the picture of float32 PyTorch; None where not finite.
        passed: what the page found.
        png_base64: the picture.
        step_seconds: of every step.
        total_seconds: from tokens to pixels.
    """

    sha256: Digest
    psnr_db: Decibels | None
    passed: bool
    png_base64: Annotated[str, StringConstraints(max_length=24 << 20)]
    step_seconds: list[Seconds] = Field(default_factory=list, max_length=1000)
    total_seconds: Seconds

    def png(self) -> bytes:
        """Returns the file's bytes.

        Raises:
            PhoneRunError: it is no PNG.
        """
        try:
            data = base64.b64decode(self.png_base64, validate=True)
        except ValueError as error:
            raise PhoneRunError("a picture is sent in base64", str(error)) from error
        if not data.startswith(b"\x89PNG\r\n\x1a\n"):
            raise PhoneRunError("a picture is a PNG file", data[:8].hex() or "nothing")
        return data


class Phase(_Part):
    """What began when.

    Args:
        phase: such as "compiling".
        component: canonical name, None for the whole.
        at: seconds since the start.
    """

    phase: Text
    component: Name | None = None
    at: Seconds


class PhoneRun(_Part):
    """A run of the page; docs/phone.md lists the fields."""

    schema_version: Literal[1]
    kind: Literal["sdmobile-phone-run"]
    job: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
    bundle_sha256: Digest
    bundle_name: Text
    device_profile: Name
    started: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")]
    sdmobile: Text
    runtime: Text
    page: Text
    accelerator: Literal["webgpu", "wasm"]
    precision: Literal["float32", "float16"]
    adapter: Adapter | None
    features: list[Text] = Field(default_factory=list, max_length=200)
    limits: dict[Annotated[str, StringConstraints(max_length=100)], Count] = Field(default_factory=dict, max_length=200)
    user_agent: Text = ""
    isolated: bool = False
    hidden: bool = False
    jspi: bool = False
    external: bool = False
    way: Literal["all resident", "one at a time"]
    components: list[ComponentRun] = Field(max_length=64)
    checks: list[OutputCheck] = Field(max_length=100_000)
    picture: PictureRun | None = None
    phases: list[Phase] = Field(default_factory=list, max_length=10_000)
    errors: list[Text] = Field(default_factory=list, max_length=1000)
    verdict: Literal["passed", "failed"]
    reason: Text = ""

    def faults(self, thresholds: dict[str, float]) -> list[str]:
        """Returns what is wrong with the run, worst first; nothing if it passed.

        Args:
            thresholds: least decibels of every component that was asked for.
        """
        found = [f"the page says: {self.reason or 'failed'}"] if self.verdict == "failed" else []
        found += [f"{one.name}: {one.error}" for one in self.components if one.error]
        ran = {one.name: one for one in self.components}
        found += [f"{name} did not run" for name in thresholds if name not in ran]
        for one in self.components:
            found += self._silent_fallback(one) if one.error is None else []
        for name, least in thresholds.items():
            if name in ran and ran[name].error is None:
                found += self._wrong(ran[name], least)
        return found + self.picture_faults()

    def component_faults(self, name: str, least: float) -> list[str]:
        """Returns what is wrong with one component, whatever else is wrong with the run; nothing if it ran rightly.

        Args:
            name: canonical name.
            least: decibels that every output of every run must have.
        """
        one = next((one for one in self.components if one.name == name), None)
        if one is None:
            return [f"{name} did not run"]
        if one.error is not None:
            return [f"{name}: {one.error}"]
        return self._silent_fallback(one) + self._wrong(one, least)

    def picture_faults(self) -> list[str]:
        """Returns what the page found wrong with the picture that it drew."""
        if self.picture is None or self.picture.passed:
            return []
        figure = self.picture.psnr_db
        return [f"the picture has {figure:.1f} dB" if figure is not None else "the picture could not be compared"]

    def _wrong(self, one: ComponentRun, least: float) -> list[str]:
        return _wrong(one.name, least, one, [check for check in self.checks if check.component == one.name])

    def _silent_fallback(self, one: ComponentRun) -> list[str]:
        if self.accelerator == "wasm":
            return []
        if not one.accepted or one.used != "webgpu":
            return [f"{one.name} did not run on the GPU: the runtime fell back to {one.used or 'nothing'}"]
        return [] if one.dispatches else [f"{one.name}: the GPU was given nothing to compute"]

    def unstorable(self) -> str | None:
        """Returns why the times of this run are no measurement of a phone's GPU, None if they are."""
        if self.accelerator != "webgpu":
            return "it ran on the browser's CPU, which no profile knows"
        if self.external:
            return "its weights came in files of their own, for which the runtime launches other kernels than in an app"
        if self.adapter is None:
            return "the browser named no adapter"
        if self.adapter.is_software:
            return f"the adapter is made of software ({self.adapter.title})"
        if self.hidden:
            return "the page was hidden meanwhile, and browsers slow such pages down"
        return None


def _wrong(name: str, least: float, one: ComponentRun, checks: list[OutputCheck]) -> list[str]:
    """Returns what the checks of a component that ran say against it."""
    if not checks:
        return [f"{name} was compared with nothing"]
    outputs = {check.output for check in checks}
    compared = Counter(run for run, _ in {(check.run, check.output) for check in checks})
    whole = sum(count == len(outputs) for count in compared.values())
    if whole < len(one.seconds):
        return [f"{name}: {len(one.seconds)} runs were timed, {whole} compared"]
    low = [check for check in checks if check.psnr_db is None or check.psnr_db < least]
    if not low:
        return []
    if all(check.run > 0 for check in low):
        return [f"{name}: only the first run is right (LiteRT issue 8065); {_worst(low)}, at least {least:g} is asked"]
    return [f"{name}: {_worst(low)}, at least {least:g} is asked"]


def _worst(checks: list[OutputCheck]) -> str:
    check = min(checks, key=lambda one: -math.inf if one.psnr_db is None else one.psnr_db)
    figure = "not finite" if check.psnr_db is None else f"{check.psnr_db:.1f} dB"
    return f"{check.label}, run {check.run + 1}: {figure}"


def parse_run(data: bytes) -> PhoneRun:
    """Returns a run from the document that the page sends.

    Args:
        data: JSON in UTF-8, at most `MAX_BYTES`.

    Raises:
        PhoneRunError: another document; the first problem with its place.
    """
    if len(data) > MAX_BYTES:
        raise PhoneRunError("a run of a phone is a small document", f"{len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        run = PhoneRun.model_validate(parse_json(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        raise PhoneRunError("a run of a phone must keep to its schema", f"{place}: {first['msg']}{more}") from error
    except ValueError as error:
        raise PhoneRunError("a run of a phone is a JSON document", str(error)) from error
    twice = [name for name, count in Counter(one.name for one in run.components).items() if count > 1]
    if twice:
        raise PhoneRunError("a component is told once", twice[0])
    return run


def read_run(path: Path) -> PhoneRun:
    """Returns a run from a file.

    Raises:
        PhoneRunError: no such file, or another document.
    """
    try:
        return parse_run(read_bounded(path, MAX_BYTES))
    except (OSError, ValueError) as error:
        raise PhoneRunError("a run of a phone is a JSON file", f"{path}: {error}") from error


def is_run(document: Any) -> bool:
    """Returns whether a parsed JSON document claims to be a run of the page."""
    return isinstance(document, dict) and document.get("kind") == KIND
