"""Damages bundles on purpose and measures what notices it, and after how many seconds.

    python -m benchmarks.detection measure FACTS.json BUNDLE…    tries every fault of the catalogue on copies of bundles
    python -m benchmarks.detection report FACTS.json             writes the tables into docs/validate.md

The bundles are exports of `shapes-64`. A fault is first shown to the check that reads it (stored weights, or one of the
files for an app). Only what passes there is run: the component's numeric check at validate's default settings.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sdmobile.formats.bundle.reading import BundleError
from tests.validate.faults import BUNDLE, Fault, faults_of
from tests.validate.patients import Anatomy, Patient

_PAGE = Path(__file__).parents[1] / "docs" / "validate.md"
_BEGIN, _END = "<!-- detection: begin -->", "<!-- detection: end -->"
_MISSED = "**nothing**"
_OPENING = "opening the bundle"
_NUMBERS = "running the component"
_NOT_THERE = (AssertionError, IndexError, StopIteration, ValueError)  # a file without such an operation or value


def measure(facts: Path, folders: Sequence[Path]) -> None:
    """Tries all faults and writes one row for each; rows that are there already are kept."""
    from sdmobile.checkpoints import open_checkpoint

    rows: list[dict[str, Any]] = json.loads(facts.read_text("utf-8")) if facts.is_file() else []
    known = {(row["bundle"], row["place"], row["kind"]) for row in rows}
    checkpoint = open_checkpoint(None)
    for folder in folders:
        anatomy = Anatomy(folder, checkpoint)
        for fault in faults_of(anatomy):
            if (folder.name, fault.place, fault.kind) in known:
                continue
            try:
                tried = _tried(anatomy, fault)
            except _NOT_THERE as error:
                print(f"{folder.name} has no place for: {fault.kind} in {fault.place} ({error})", file=sys.stderr)
                continue
            rows.append({"bundle": folder.name, "place": fault.place, "kind": fault.kind, **tried})
            facts.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
            print(*rows[-1].values(), sep=" | ", file=sys.stderr, flush=True)


def _tried(anatomy: Anatomy, fault: Fault) -> dict[str, Any]:
    """Returns what notices a fault, after how many seconds, and in which words."""
    with tempfile.TemporaryDirectory(prefix="sdmobile-detection-") as scratch:
        patient = anatomy.patient(Path(scratch) / anatomy.folder.name)
        fault.apply(patient)  # raises one of _NOT_THERE
        started = time.perf_counter()
        try:
            noticed = _noticed(patient, fault)
        except _NOT_THERE as error:
            raise RuntimeError(f"{fault.kind} in {fault.place}") from error
        return {"seconds": round(time.perf_counter() - started, 2), **noticed}


def _noticed(patient: Patient, fault: Fault) -> dict[str, Any]:
    try:
        patient.sealed()
    except BundleError as error:
        return {"by": _OPENING, "words": str(error)}
    for checker, words in _read(patient, fault):
        return {"by": checker, "words": words}
    if fault.place == BUNDLE:
        return {"by": None, "words": ""}
    return _run(patient, fault.place)


def _read(patient: Patient, fault: Fault) -> Iterator[tuple[str, str]]:
    """Yields the checks that read the fault and fail."""
    from sdmobile.reference.recording import Recording
    from sdmobile.reference.resolve import reference_pipeline
    from sdmobile.validate.app_files import app_file_checkers

    if fault.place != BUNDLE:
        check = patient.check(fault.place)
        if check.status != "passed":
            yield check.checker, check.failure
        return
    bundle, checkpoint = patient.sealed(), patient.anatomy.checkpoint
    name = fault.kind.partition(":")[0]
    checker = app_file_checkers(checkpoint, reference_pipeline(bundle, checkpoint))[name]
    for check in checker(bundle, list(bundle.components), Recording()):
        if check.status != "passed":
            yield check.checker, check.failure


def _run(patient: Patient, component: str) -> dict[str, Any]:
    """Returns what running a component says, on the inputs that validate takes by default."""
    from sdmobile.reference.recording_cache import default_recordings_dir
    from sdmobile.validate.check import validate_bundle
    from sdmobile.validate.options import ValidationOptions

    options = ValidationOptions(components=(component,), trajectory=False, cache_dir=default_recordings_dir())
    checks = validate_bundle(patient.folder, options).report.components
    failed = [check for check in checks if check.status in ("failed", "error")]
    words = "; ".join(check.failure for check in failed)
    levels = ", ".join(f"{c.worst.psnr_db:.1f} dB on {c.runtime}" for c in checks if c.worst is not None)
    return {"by": _NUMBERS if failed else None, "words": words or f"passed with {levels}"}


def report(facts: Path) -> None:
    """Writes the tables between the marks of docs/validate.md."""
    rows = json.loads(facts.read_text("utf-8"))
    text = _PAGE.read_text("utf-8")
    before, rest = text.split(_BEGIN)
    _PAGE.write_text(f"{before}{_BEGIN}\n{_tables(rows)}\n{_END}{rest.split(_END)[1]}", "utf-8")


def _tables(rows: Sequence[dict[str, Any]]) -> str:
    missed = [row for row in rows if row["by"] is None]
    bundles = list(dict.fromkeys(row["bundle"] for row in rows))
    lines = [
        f"{len(rows)} faults in {len(bundles)} bundles ({', '.join(bundles)}); {len(rows) - len(missed)} noticed, "
        f"{len(missed)} not.",
        "",
        "| fault | in | noticed by | seconds |",
        "|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["by"] or _MISSED), []).append(row)
    for (kind, by), alike in groups.items():
        seconds = [row["seconds"] for row in alike]
        span = f"{min(seconds):.1f}" if len(seconds) == 1 else f"{min(seconds):.1f} to {max(seconds):.1f}"
        lines.append(f"| {kind} | {_places(alike)} | {by} | {span} |")
    return "\n".join([*lines, *(f"\nNot noticed: {_row(row)}." for row in missed)])


def _places(rows: Sequence[dict[str, Any]]) -> str:
    """Returns bundles with the components that were damaged in each."""
    places: dict[str, list[str]] = {}
    for row in rows:
        places.setdefault(row["bundle"], []).append(row["place"])
    return "; ".join(
        bundle if parts == [BUNDLE] else f"{bundle}: {', '.join(dict.fromkeys(parts))}"
        for bundle, parts in places.items()
    )


def _row(row: dict[str, Any]) -> str:
    return f"{row['kind']} in {row['place']} of {row['bundle']} ({row['words']})"


if __name__ == "__main__":
    command, file, *others = sys.argv[1:]
    if command == "measure":
        measure(Path(file), [Path(name) for name in others])
    else:
        report(Path(file))
