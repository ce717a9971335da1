"""Which operation makes a Core ML file fail: asked only once a component has failed in the project's evaluator.

In float16 the file runs beside itself in float32, operation by operation (`mlprogram.diagnosis`): the cause is the
first operation whose value overflows, or where the error jumps. In float32 the file runs against PyTorch, by module
(`bisect`): the cause is the first module that differs, with the operations of its part.

A `.tflite` file that fails is run again without LiteRT's CPU delegate, which tells a wrong file from a wrong delegate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sdmobile.basics.words import describe
from sdmobile.runtimes.mlprogram.precision import EVALUATORS
from sdmobile.validate.checks import Cause, CauseKind, ComponentCheck, Status

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.reference.recording import RecordedSample, Recording
    from sdmobile.runtimes.mlprogram.diagnosis import Fault
    from sdmobile.validate.bisect.part import Culprit
    from sdmobile.validate.thresholds import Thresholds

_LITERT = "litert"
FLOAT32_ISLANDS = "export with --float32-islands, which keeps such operations in float32"


def with_causes(
    bundle: Bundle,
    checkpoint: Checkpoint,
    checks: Iterable[ComponentCheck],
    recording: Recording,
    culprits: Sequence[Culprit] = (),
) -> list[ComponentCheck]:
    """Returns checks, those that failed in the evaluator with their cause; nothing is run for others.

    Args:
        bundle: what was checked.
        checkpoint: its reference.
        checks: of components, by runtime.
        recording: the inputs.
        culprits: what was found already, by `--bisect`.
    """
    explained: list[ComponentCheck] = []
    wrong: dict[str, Cause] = {}  # by component that is wrong in float32 already
    right: set[str] = set()  # components that are right in float32
    known = {(culprit.component, culprit.runtime): culprit for culprit in culprits}
    for check in checks:
        if check.status == Status.PASSED and EVALUATORS.get(check.runtime) == "float32":
            right.add(check.component)
        if check.status != Status.FAILED or check.runtime not in EVALUATORS:
            explained.append(check)
            continue
        cause = _as_in_float32(wrong.get(check.component)) if _is_finite(check) else None
        culprit = known.get((check.component, check.runtime))
        cause = cause or find_cause(bundle, checkpoint, check, recording, culprit, check.component in right)
        if EVALUATORS[check.runtime] == "float32":
            wrong[check.component] = cause
        explained.append(replace(check, cause=cause))
    return explained


def with_delegates(
    components: Mapping[str, BundleComponent],
    checks: Iterable[ComponentCheck],
    recording: Recording,
    thresholds: Thresholds,
) -> list[ComponentCheck]:
    """Returns checks; those that failed in LiteRT say whether the file or the CPU delegate is wrong.

    Args:
        components: the files that were checked.
        checks: of components, by runtime.
        recording: the inputs.
        thresholds: what must be reached.
    """
    return [
        replace(check, cause=_file_or_delegate(components[check.component], check, recording, thresholds))
        if check.runtime == _LITERT and check.status in (Status.FAILED, Status.ERROR)
        else check
        for check in checks
    ]


def _file_or_delegate(
    component: BundleComponent, check: ComponentCheck, recording: Recording, thresholds: Thresholds
) -> Cause | None:
    """Runs a component again, without the delegate; returns None where that says nothing."""
    from sdmobile.runtimes.litert import LiteRTRunner
    from sdmobile.validate.parity import check_component

    runner = LiteRTRunner({check.component: component}, delegates=False)
    samples = recording.samples.get(check.component, [])
    again = check_component(runner, check.component, samples, thresholds, bool(component.record.get("compression")))
    if again.worst is None:
        return None if check.status == Status.ERROR else Cause(CauseKind.UNKNOWN, f"without XNNPACK: {again.reason}")
    level = f"{again.worst.psnr_db:.1f} dB without XNNPACK, LiteRT's CPU delegate"
    if again.status == Status.PASSED:
        hint = "a phone's GPU computes the file by other code; without one, it is wrong there too"
        return Cause(CauseKind.DELEGATE, f"the file is right: {level}, which computes it wrongly", hint=hint)
    return Cause(CauseKind.DIFFERS, f"the file is wrong: {level}")


def _as_in_float32(cause: Cause | None) -> Cause | None:
    """Returns the cause of a file that computes the wrong function whatever the precision, in fewer words."""
    if cause is None:
        return None
    return replace(cause, sentence=f"wrong in float32 already, see there{f': {cause.module}' if cause.module else ''}")


def _is_finite(check: ComponentCheck) -> bool:
    return check.worst is not None and check.worst.non_finite == 0


def find_cause(
    bundle: Bundle,
    checkpoint: Checkpoint,
    check: ComponentCheck,
    recording: Recording,
    culprit: Culprit | None,
    right_in_float32: bool,
) -> Cause:
    """Returns the cause of one failure; problems in finding it become its sentence."""
    from sdmobile.validate.bisect import bisect_component
    from sdmobile.validate.bisect.run import worst_sample

    def against_torch() -> Cause:
        return _of_culprit(culprit or bisect_component(bundle, checkpoint, check, recording, None))

    if EVALUATORS[check.runtime] == "float32":
        return against_torch()
    component = bundle.components[check.component]
    try:
        fault = _float16_fault(component, checkpoint, check.runtime, worst_sample(check, recording))
    except Exception as error:
        return Cause(CauseKind.UNKNOWN, f"the operation at fault was not found: {describe(error)}")
    if fault is None and not right_in_float32:
        return against_torch()
    if fault is None:
        return Cause(
            CauseKind.UNKNOWN, "no operation overflows or lets the error jump: rounding adds up over the program"
        )
    hint = _islands_hint(component) if fault.kind == "overflow" else None
    measured = fault.measured
    return Cause(CauseKind(fault.kind), fault.message(), measured.name, measured.type, fault.module, hint)


def _of_culprit(culprit: Culprit) -> Cause:
    if culprit.module is None:
        return Cause(CauseKind.UNKNOWN, culprit.finding)
    return Cause(CauseKind.DIFFERS, culprit.finding, culprit.operations[-1], culprit.type, culprit.module)


def _float16_fault(
    component: BundleComponent, checkpoint: Checkpoint, runtime: str, sample: RecordedSample
) -> Fault | None:
    """Returns the first fault of a component's files, each on what the files before it give in float32."""
    from sdmobile.reference.subject import captured
    from sdmobile.runtimes.mlprogram import MLProgram
    from sdmobile.runtimes.mlprogram.diagnosis import first_fault
    from sdmobile.validate.bisect.reference import module_sequence

    contract = component.contract
    paths = module_sequence(captured(checkpoint, contract, component.record))
    values = dict(sample.inputs)
    files = component.chain or (component,)
    for file in files:
        inputs = file.contract.to_target(values)
        fault = first_fault(file.path, inputs, EVALUATORS[runtime], modules=paths)
        if fault is not None or file is files[-1]:
            return fault
        values.update(file.contract.from_target(MLProgram(file.path).predict(inputs)))
    return None


def _islands_hint(component: BundleComponent) -> str:
    """Returns what to do about an overflow, which depends on how the file was exported."""
    kept = any(stage.get("float32_islands", {}).get("operators") for stage in component.record.get("stages", []))
    return "its float32 islands, found on other inputs, do not reach there" if kept else FLOAT32_ISLANDS
