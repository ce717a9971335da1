"""Runs a `.tflite` file through Google's GPU engine, without a GPU, and says what came of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.metrics import compare, worst
from sdmobile.basics.scratch import temporary_folder
from sdmobile.errors import MissingDependencyError
from sdmobile.validate.gpu import places
from sdmobile.validate.gpu.inputs import cpu_outputs, exciting_inputs
from sdmobile.validate.gpu.order import Answer, Ending, Order, load_answer, load_outputs, run_order
from sdmobile.validate.gpu.verdict import GpuStatus, GpuVerdict, Precision, Way, read_acceptance
from sdmobile.validate.gpu.vulkan import device_of
from sdmobile.validate.thresholds import COMPONENT_DB, Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sdmobile.validate.gpu.model_facts import ModelFacts

    Arrays = Mapping[str, NDArray[Any]]

DEFAULT_TIMEOUT = 600.0
_LOG_LINES = 25
# What WebAssembly and the browser say when native code failed rather than refused.
_CRASH_WORDS = ("Aborted(", "unreachable", "memory access out of bounds", "table index is out of bounds", "crashed")
_CRASH_WORDS += ("Target closed", "has been closed", "Out of memory", "out of memory", "allocation failed")
_CRASH_WORDS += ("memory had grown to",)  # what the browser way adds to an error with most of the memory in use


@dataclass(frozen=True)
class GpuRun:
    """A verdict that does not yet know whether the outputs are right, and the outputs.

    Args:
        verdict: accepted, or why not.
        outputs: the file's outputs by name, one entry per input; empty where nothing was computed.
    """

    verdict: GpuVerdict
    outputs: tuple[dict[str, NDArray[Any]], ...] = ()


@dataclass(frozen=True)
class Ready:
    """How to run a way, or what is missing.

    Args:
        module: the way's program.
        environment: variables that it needs.
        settings: what its order holds besides.
        missing: what this machine lacks.
        fix: what to do about that.
    """

    module: str
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    missing: str | None = None
    fix: str = places.SETUP


def check_file(
    path: Path,
    inputs: Arrays | Sequence[Arrays] | None = None,
    expected: Arrays | Sequence[Arrays] | None = None,
    *,
    way: Way = "browser",
    precision: Precision = "float32",
    timeout: float = DEFAULT_TIMEOUT,
    repeat: int = 1,
    threshold_db: float = COMPONENT_DB,
) -> GpuVerdict:
    """Runs a file on the GPU alone and compares its outputs.

    Args:
        path: the `.tflite` file.
        inputs: arrays by input name, or several of them; None for made-up ones that reach every output. Where none do,
            the file counts as not run.
        expected: outputs of the float32 reference by output name, as many as inputs; None compares with LiteRT on the
            CPU, which shows what the GPU does to the file, not whether the file is right.
        way: "browser" or "wheel".
        precision: "float32", or "float16" as phones compute.
        timeout: seconds for the whole check.
        repeat: how often each input is run.
        threshold_db: least PSNR in dB of every output.

    Raises:
        UnsupportedError: not a `.tflite` file.
    """
    from sdmobile.validate.gpu.model_facts import read_model

    facts = read_model(path)
    made = exciting_inputs(path) if inputs is None else None
    samples = _as_list(inputs) if made is None else [made.inputs]  # pyright: ignore[reportArgumentType]
    run = run_on_gpu(path, samples, way=way, precision=precision, timeout=timeout, repeat=repeat, facts=facts)
    if not run.outputs:
        return run.verdict
    if expected is not None:
        return judge(run, _as_list(expected), threshold_db)
    verdict = judge(run, cpu_outputs(path, samples) if made is None else [made.outputs], threshold_db)
    if verdict.passed and made is not None and made.constant:
        reason = (
            f"{', '.join(made.constant)} has one value everywhere on all inputs that were made up: that shows nothing"
        )
        return replace(verdict, status=GpuStatus.NOT_RUN, reason=f"{reason}. Check the bundle, on recorded inputs")
    return verdict


def run_on_gpu(
    path: Path,
    samples: Sequence[Arrays],
    *,
    way: Way = "browser",
    precision: Precision = "float32",
    timeout: float = DEFAULT_TIMEOUT,
    repeat: int = 1,
    facts: ModelFacts | None = None,
    accelerator: str = "gpu",
    force: bool = False,
) -> GpuRun:
    """Runs a file in a process of its own and returns what came of it, the outputs unjudged.

    Args:
        path: the `.tflite` file.
        samples: arrays by input name.
        way: "browser" or "wheel".
        precision: "float32" or "float16".
        timeout: seconds for the whole check.
        repeat: how often each input is run.
        facts: what the file holds, if it has been read already.
        accelerator: "gpu"; "cpu" shows that a run without the GPU is found out.
        force: try what is known to crash.
    """
    from sdmobile.validate.gpu.model_facts import read_model

    facts = facts or read_model(path)
    base = GpuVerdict(way, precision, GpuStatus.NOT_RUN, samples=len(samples))
    ready = prepare(way)
    if ready.missing is not None:
        return GpuRun(replace(base, reason=f"{ready.missing}. {ready.fix}", missing=ready.missing))
    if way == "wheel" and facts.composites and not force:
        names = ", ".join(sorted(set(facts.composites)))
        reason = f"composites ({names}), on which the wheel's accelerator crashes; the browser way takes them. "
        reason += "To check float16, export with --plain-ops"
        return GpuRun(replace(base, reason=reason))
    with temporary_folder("gpu") as folder:
        order = Order(
            str(path.resolve()), precision, facts.signature, len(samples), repeat, accelerator, ready.settings
        )
        order.save(folder, samples)
        ending = run_order(ready.module, folder, timeout, ready.environment)
        answer = load_answer(folder)
        if answer is None:
            return GpuRun(judge_ending(base, ending, timeout))
        result = judge_answer(base, answer, ending, facts, lambda proof: proves_gpu(way, proof))
        computed = result.status in (GpuStatus.ACCEPTED, GpuStatus.TOO_LARGE) and answer.error is None
        outputs = tuple(load_outputs(folder, len(samples))) if computed else ()
    return GpuRun(result, outputs)


def judge(run: GpuRun, expected: Sequence[Arrays], threshold_db: float = COMPONENT_DB) -> GpuVerdict:
    """Compares the outputs of a run with the reference's; an error of a tensor too large is told, but decides nothing.

    Args:
        run: from `run_on_gpu`.
        expected: reference outputs by name, one entry per input.
        threshold_db: least PSNR in dB of every output.
    """
    if not run.outputs:
        return run.verdict
    figures = []
    for computed, wanted in zip(run.outputs, expected, strict=True):
        if set(computed) != set(wanted):
            reason = f"the outputs are {', '.join(sorted(computed))}; expected {', '.join(sorted(wanted))}"
            return replace(run.verdict, status=GpuStatus.WRONG, reason=reason)
        for name, reference in wanted.items():
            if computed[name].shape != reference.shape:
                reason = f"{name} has the shape {computed[name].shape}; expected {reference.shape}"
                return replace(run.verdict, status=GpuStatus.WRONG, reason=reason)
            figures.append(compare(reference, computed[name]))
    figure = worst(figures)
    if not run.verdict.passed or Limits(component_db=threshold_db).component_passes(figure):
        return replace(run.verdict, worst=figure)
    what = f"{figure.non_finite} non-finite values" if figure.non_finite else f"{figure.psnr_db:.1f} dB"
    return replace(
        run.verdict, status=GpuStatus.WRONG, worst=figure, reason=f"{what}; at least {threshold_db:g} dB needed"
    )


def _as_list(arrays: Arrays | Sequence[Arrays]) -> list[Arrays]:
    return [arrays] if isinstance(arrays, Mapping) else list(arrays)


def judge_ending(base: GpuVerdict, ending: Ending, timeout: float) -> GpuVerdict:
    """Returns the verdict where the process ended, or was ended, before it could say anything."""
    log = ending.log[-_LOG_LINES:]
    if ending.code is None:
        reason = f"no result within {timeout:g} s; it was {ending.phase}"
        return replace(base, status=GpuStatus.TIMED_OUT, reason=reason, log=log)
    if ending.signal_name is not None:
        reason = f"native code crashed ({ending.signal_name}) while {ending.phase}"
        return replace(base, status=GpuStatus.CRASHED, reason=reason, signal=ending.signal_name, log=log)
    last = next((line for line in reversed(ending.log) if line.strip()), "no word")
    return replace(base, reason=f"the check itself failed while {ending.phase}: {last}", missing="a check", log=log)


def judge_answer(
    base: GpuVerdict, answer: Answer, ending: Ending, facts: ModelFacts, proven: Callable[[dict[str, Any]], bool]
) -> GpuVerdict:
    """Returns the verdict that an answer and the runtime's own words come to.

    Args:
        base: way, precision and number of samples.
        answer: of the process.
        ending: how it ended, and what was printed.
        facts: what the file holds.
        proven: whether the evidence of a run shows that the GPU computed.
    """
    if answer.unavailable is not None:
        return replace(base, reason=answer.unavailable)
    acceptance = read_acceptance(ending.log)
    largest = facts.largest(base.precision, answer.limit)
    verdict = replace(
        base,
        adapter=answer.adapter,
        proof=answer.proof,
        seconds=answer.seconds,
        largest=largest,
        refused=facts.explain(acceptance),
    )
    log = ending.log[-_LOG_LINES:]
    if answer.error is not None and any(word in answer.error for word in _CRASH_WORDS):
        return replace(verdict, status=GpuStatus.CRASHED, reason=f"{answer.error} (while {ending.phase})", log=log)
    if acceptance.complaints or not answer.accepted:
        counts = f"; {acceptance.on_cpu} operators would be left to the CPU" if acceptance.on_cpu else ""
        reason = _complaints(verdict) or _one_line(answer.error or "the accelerator did not take every operator")
        return replace(verdict, status=GpuStatus.REJECTED, reason=reason + counts, log=log)
    if largest is not None and not largest.fits:
        reason = f"{largest.name} needs {largest.bytes} bytes in one buffer; this device holds {largest.limit}"
        return replace(verdict, status=GpuStatus.TOO_LARGE, reason=f"{reason}; results beyond that are not trusted")
    if answer.error is not None or answer.errors:
        return replace(
            verdict, status=GpuStatus.RUN_FAILED, reason=_one_line(answer.error or answer.errors[0]), log=log
        )
    if not proven(answer.proof):
        return replace(verdict, reason="it ran, but nothing shows that the GPU computed", log=log)
    return replace(verdict, status=GpuStatus.ACCEPTED)


def _complaints(verdict: GpuVerdict) -> str:
    return "; ".join(f"{operator.operator}: {operator.reason}" for operator in verdict.refused)


def _one_line(text: str) -> str:
    """Returns an error of several lines, which the runtime draws as a tree, as one."""
    return "; ".join(part for line in text.splitlines() if (part := line.strip(" └").removeprefix("ERROR: ")))


def prepare(way: Way) -> Ready:
    """Returns how to run a way here, or what is missing for it."""
    return _browser() if way == "browser" else _wheel()


def proves_gpu(way: Way, proof: dict[str, Any]) -> bool:
    """Whether the evidence of a run shows that the GPU computed."""
    from sdmobile.validate.gpu import browser, wheel

    return browser.proves_gpu(proof) if way == "browser" else wheel.proves_gpu(proof)


def _browser() -> Ready:
    module = "sdmobile.validate.gpu.browser"
    if find_spec("playwright") is None:
        return Ready(module, missing="Playwright is not installed", fix="Install it: pip install 'sdmobile[gpu]'")
    browser = places.find_browser()
    if browser is None:
        return Ready(module, missing="there is no Chromium")
    if not places.page_is_built():
        return Ready(module, missing="the page for the browser is not built, or is of another version")
    return Ready(module, settings={"browser": str(browser), "page": str(places.page_folder())})


def _wheel() -> Ready:
    module = "sdmobile.validate.gpu.wheel"
    if sys.platform != "linux":
        return Ready(module, missing="the wheel's accelerator is checked on Linux only", fix="Use the browser way")
    if find_spec("ai_edge_litert") is None:
        fix = "Install it: pip install 'sdmobile[android]'"
        return Ready(module, missing="ai-edge-litert is not installed", fix=fix)
    driver = places.find_driver()
    if driver is None:
        return Ready(module, missing="there is no software Vulkan driver of Mesa 25 or newer")
    try:
        device = device_of(driver)
    except MissingDependencyError as error:
        return Ready(module, missing=f"the software Vulkan driver does not load ({error.rule})")
    settings = {"adapter": f"{device.name}, {device.driver}", "limit": str(device.max_storage_buffer_range)}
    return Ready(module, driver.environment(), settings)
