"""Takes runs of the page of `sdmobile serve` into a validation, and so into its report."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.prediction.phone_run import ComponentRun, PhoneRun, PhoneRunError, read_run
from sdmobile.validate.checks import Checker, ExtraCheck, Status
from sdmobile.validate.thresholds import COMPONENT_DB

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.recording import Recording


def phone_run_checker(files: Sequence[Path]) -> Checker:
    """Returns the checker that judges runs on phones again, from the figures that they brought.

    Args:
        files: what `serve` kept, or the page offered.
    """

    def check(bundle: Bundle, components: Sequence[str], _recording: Recording) -> list[ExtraCheck]:
        return [found for file in files for found in _of_file(file, bundle, components)]

    return check


def _of_file(file: Path, bundle: Bundle, components: Sequence[str]) -> list[ExtraCheck]:
    try:
        run = read_run(file)
        if run.bundle_sha256 != bundle.sha256:
            raise PhoneRunError("a run is of the bundle that is validated", f"{file.name}: {run.bundle_name}")
    except PhoneRunError as error:
        return [ExtraCheck("phone run", "bundle", Status.ERROR, file.name, error.message())]
    ran = [one for one in run.components if one.name in components]
    if not ran:
        return [ExtraCheck("phone run", "bundle", Status.NOT_RUN, file.name, "it ran none of the components")]
    return [*(_of_component(run, one) for one in ran), *_of_whole(run)]


def _of_whole(run: PhoneRun) -> list[ExtraCheck]:
    """Returns what is wrong with a run beside its components: a picture, a tokenizer, an end that came too early."""
    lost = not any(run.component_faults(one.name, COMPONENT_DB) for one in run.components) and run.verdict == "failed"
    faults = [*run.errors, *run.picture_faults()] or ([run.reason or "the page says: failed"] if lost else [])
    if not faults:
        return []
    place = f"{run.runtime}, {run.started}"
    return [ExtraCheck(_title(run), "bundle", Status.FAILED, place, "; ".join(dict.fromkeys(faults)))]


def _of_component(run: PhoneRun, one: ComponentRun) -> ExtraCheck:
    """Returns what a run says of one component; a GPU made of software is no phone, and said so."""
    place = "the browser's CPU" if run.adapter is None else run.adapter.title
    own = run.component_faults(one.name, COMPONENT_DB)
    known = [check.psnr_db for check in run.checks if check.component == one.name and check.psnr_db is not None]
    figures = {"worst_db": min(known)} if known else {}
    if one.seconds:
        figures["median_ms"] = 1e3 * statistics.median(one.seconds)
    remark = run.unstorable()
    return ExtraCheck(
        _title(run),
        one.name,
        Status.FAILED if own else Status.PASSED,
        f"{place}, {run.runtime}, {run.started}",
        "; ".join(own) or None,
        () if remark is None else (f"the time is no measurement of a phone's GPU: {remark}",),
        figures,
    )


def _title(run: PhoneRun) -> str:
    return f"phone run, {run.accelerator} {run.precision}"
