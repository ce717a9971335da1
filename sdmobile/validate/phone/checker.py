"""Runs every file of an Android bundle with `benchmark_model` on the CPU and the GPU of a connected phone.

This measures time, memory and whether the GPU takes every node; `benchmark_model` feeds made-up inputs and returns no
outputs, so nothing is said about parity.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.errors import EXIT_MISSING, EXIT_RESOURCES, SdmobileError, UnsupportedError
from sdmobile.validate.extras import Checker, ExtraCheck
from sdmobile.validate.phone.adb import Phone, find_phone
from sdmobile.validate.phone.benchmark import Benchmark, parse_benchmark
from sdmobile.validate.results import ERROR, FAILED, NOT_RUN, PASSED

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.reference.recording import Recording

FOLDER = "/data/local/tmp/sdmobile"
BACKENDS = {"cpu": ("--use_xnnpack=true",), "gpu": ("--use_gpu=true",)}
_COMMON = ("--warmup_runs=1", "--num_runs=5", "--min_secs=0", "--max_secs=60", "--verbose=true")


def phone_checker(program: Path, serial: str | None = None) -> Checker:
    """Returns the checker that runs a bundle's files on a phone.

    Args:
        program: LiteRT's `benchmark_model` for the phone's processor.
        serial: which phone, if several are connected.

    Raises:
        UnsupportedError: there is no such program.
    """
    if not program.is_file():
        raise UnsupportedError(
            "--benchmark-model names LiteRT's benchmark_model for Android", program, "Build or download it for arm64."
        )

    def check(bundle: Bundle, components: Sequence[str], recording: Recording) -> list[ExtraCheck]:
        if bundle.target != "android":
            return [
                ExtraCheck("adb", "bundle", NOT_RUN, reason=f"a bundle for {bundle.target} does not run on Android")
            ]
        try:
            phone = find_phone(serial)
            phone.shell(["mkdir", "-p", FOLDER])
            phone.push(program, f"{FOLDER}/benchmark_model")
            phone.shell(["chmod", "755", f"{FOLDER}/benchmark_model"])
        except SdmobileError as error:
            status = NOT_RUN if error.exit_code in (EXIT_MISSING, EXIT_RESOURCES) else ERROR
            return [ExtraCheck("adb", "bundle", status, reason=error.message())]
        files = [file for name, file in bundle.components.items() if name in components]
        return [found for file in files for found in _check_file(phone, file)]

    return check


def _check_file(phone: Phone, file: BundleComponent) -> list[ExtraCheck]:
    """Pushes one file, runs it on every backend, and removes it again."""
    target = f"{FOLDER}/{file.path.name}"
    try:
        phone.push(file.path, target)
        return [_measured(phone, file, target, backend) for backend in BACKENDS]
    except SdmobileError as error:
        return [ExtraCheck("adb", file.name, ERROR, phone.title, error.message())]
    finally:
        phone.shell(["rm", "-f", target])


def _measured(phone: Phone, file: BundleComponent, target: str, backend: str) -> ExtraCheck:
    checker = f"adb {backend}"
    signature = f"--signature_to_run_for={file.contract.signature}"
    command = [f"{FOLDER}/benchmark_model", f"--graph={target}", signature, *BACKENDS[backend], *_COMMON]
    try:
        text = phone.shell(command)
    except SdmobileError as error:
        return ExtraCheck(checker, file.name, ERROR, phone.title, error.message())
    found = parse_benchmark(text)
    if found is None:
        last = " | ".join(line.strip() for line in text.strip().splitlines()[-3:])
        return ExtraCheck(checker, file.name, ERROR, phone.title, f"benchmark_model printed no timings: {last}")
    objection = _objection(found) if backend == "gpu" else None
    status = PASSED if objection is None else FAILED
    return ExtraCheck(checker, file.name, status, phone.title, objection, figures=found.figures())


def _objection(found: Benchmark) -> str | None:
    """Returns why a run on the GPU was none, or only in part: the program falls back to the CPU without failing."""
    if found.delegated is None or found.nodes is None or "xnnpack" in (found.delegate or "").lower():
        return "no node ran on the GPU; benchmark_model fell back to the CPU"
    if found.delegated < found.nodes:
        return f"the GPU took {found.delegated} of {found.nodes} nodes, in {found.partitions} parts"
    return None
