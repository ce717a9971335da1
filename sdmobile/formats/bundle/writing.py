"""Writes a bundle: staging folder, model card, manifest, and the move to its place; whole or not at all."""

from __future__ import annotations

import datetime
import json
import math
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.basics import scratch
from sdmobile.basics.files import explained, files_of, hash_of
from sdmobile.basics.untrusted import inside
from sdmobile.errors import OutputError, SdmobileError, UsageError
from sdmobile.formats.bundle.file_list import FILE_LIST, file_list_text
from sdmobile.formats.bundle.reading import MANIFEST, is_bundle, open_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_CHECKPOINT = "model_index.json"
"""Of a checkpoint's folder in Diffusers' format."""
_MEASURED = ("seconds", "peak_rss_bytes")


@dataclass(frozen=True)
class Part:
    """A finished component: the folder that holds its files, and its record."""

    folder: Path
    record: dict[str, Any]

    def path(self, file: str) -> Path:
        """Returns where a file of the record lies: in the folder and nowhere else."""
        return inside(self.folder, file)


def check_output(out: Path, overwrite: bool) -> None:
    """Checks that a bundle may be written to a folder; what a run that was killed left of it is put back first.

    Raises:
        OutputError: it exists and `overwrite` is false, or it is not a bundle, or lies in one or in a checkpoint, or
            its parent cannot be written.
    """
    scratch.recover(out)
    around = next((one for one in scratch.real(out).absolute().parents if _is_whole(one)), None)
    if around is not None:  # whose files would no longer be those that it lists
        raise OutputError("a bundle must not be written into another one", f"{out} is in {around}", "Choose another -o")
    inside = next((one for one in scratch.real(out).absolute().parents if (one / _CHECKPOINT).is_file()), None)
    if inside is not None:  # which somebody else made, and other programs read
        raise OutputError(
            "a bundle must not be written into a checkpoint", f"{out} is in {inside}", "Choose another -o"
        )
    if os.path.lexists(scratch.real(out)):
        if not overwrite:
            raise OutputError("the output folder must not exist", out, "Pass --overwrite or choose another --output")
        if not may_be_replaced(out):
            raise OutputError(
                "--overwrite replaces bundles only", f"{out} has no {MANIFEST}", "Choose another --output"
            )
    try:
        scratch.real(out).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, out) from error


def _is_whole(folder: Path) -> bool:
    """Whether a folder is a bundle; other programs, too, call a file manifest.json."""
    if not is_bundle(folder):
        return False
    try:
        open_bundle(folder, verify=False)
    except SdmobileError:
        return False
    return True


def may_be_replaced(folder: Path) -> bool:
    """Whether `--overwrite` may replace what is there: a bundle or an empty folder."""
    return folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """Yields a hidden folder beside the output, on the same file system, and removes it whatever happens.

    It holds `bundle`, for `put_in_place`, and `work`. What dead runs left beside the output is cleared away.

    Raises:
        OutputError: a file could not be written.
        ResourceError: the disk is full.
    """
    try:
        with scratch.scratch_beside(out) as folder:
            (folder / "bundle").mkdir()
            (folder / "work").mkdir()
            yield folder
    except OSError as error:
        raise explained(error, out) from error


def put_in_place(staged: Path, out: Path, overwrite: bool) -> None:
    """Gives the finished bundle its name; an old one is exchanged for it and goes with the staging folder.

    Raises:
        OutputError: something appeared at the output meanwhile, and it may not be overwritten.
    """
    if overwrite and out.exists():  # the old one must not be gone before the new one is on the disk
        for file in files_of(staged):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    scratch.put_in_place(staged, out, overwrite, may_be_replaced)


def fixed_date() -> int | None:
    """Returns `$SOURCE_DATE_EPOCH` in seconds since 1970, or None (reproducible-builds.org/specs/source-date-epoch).

    Raises:
        UsageError: it is no number of seconds.
    """
    stated = os.environ.get("SOURCE_DATE_EPOCH")
    if not stated:
        return None
    if not re.fullmatch(r"[0-9]{1,11}", stated):
        raise UsageError("SOURCE_DATE_EPOCH is a number of seconds since 1970", stated, "Correct or unset it")
    return int(stated)


def created() -> str:
    """Returns the manifest's date: `$SOURCE_DATE_EPOCH` if it is set, else now."""
    fixed, utc = fixed_date(), datetime.timezone.utc
    moment = datetime.datetime.now(utc) if fixed is None else datetime.datetime.fromtimestamp(fixed, utc)
    return moment.isoformat(timespec="seconds")


def without_measurements(value: Any) -> Any:
    """Returns JSON values without the time and memory that were measured: they differ from run to run."""
    if isinstance(value, dict):
        return {key: without_measurements(item) for key, item in value.items() if key not in _MEASURED}
    return [without_measurements(item) for item in value] if isinstance(value, list) else value


def finite(value: Any) -> Any:
    """Returns JSON values with null for the numbers that JSON has none for, such as the PSNR of equal arrays."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def seal(manifest: dict[str, Any], folder: Path, card: str) -> dict[str, Any]:
    """Writes model card, list of files and manifest of a bundle under construction.

    Args:
        manifest: all but the list of files.
        folder: the bundle under construction.
        card: the model card, Markdown.

    Returns:
        The manifest with the size and SHA-256 of every file.
    """

    manifest = finite({key: value for key, value in manifest.items() if key != "files"})
    if fixed_date() is not None:
        manifest["components"] = without_measurements(manifest["components"])
    (folder / "README.md").write_text(card, "utf-8")
    (folder / FILE_LIST).unlink(missing_ok=True)  # of the bundle that this one was made from
    entries = {file.relative_to(folder).as_posix(): _entry(file) for file in files_of(folder)}
    (folder / FILE_LIST).write_text(file_list_text(entries), "utf-8")
    manifest["files"] = dict(sorted({**entries, FILE_LIST: _entry(folder / FILE_LIST)}.items()))
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", "utf-8")
    return manifest


def _entry(file: Path) -> dict[str, Any]:
    """Returns what a manifest says of a file."""
    return {"sha256": hash_of([file]), "bytes": file.stat().st_size}
