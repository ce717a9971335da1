"""Which operation makes a Core ML file fail: asked only once a component has failed in the project's evaluator.

In float16 the file runs beside itself in float32, operation by operation (`mlprogram.diagnosis`): the cause is the
first operation whose value overflows, or where the error jumps. In float32 the file runs against PyTorch, by module
(`bisect`): the cause is the first module that differs, with the operations of its part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from sdmobile.basics.describe import describe
from sdmobile.runtimes.mlprogram.precision import EVALUATORS
from sdmobile.validate.results import FAILED, PASSED

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.reference.recording import RecordedSample, Recording
    from sdmobile.runtimes.mlprogram.diagnosis import Fault
    from sdmobile.validate.bisect import Culprit
    from sdmobile.validate.results import ComponentCheck

FLOAT32_ISLANDS = "export with --float32-islands, which keeps such operations in float32"


@dataclass(frozen=True)
class Cause:
    """What makes a component fail, as far as its file tells.

    Args:
        kind: "overflow": a value is not finite in float16; "jump": the error against float32 jumps; "differs": a module
            computes something else than PyTorch's; "unknown": nothing stands out.
        sentence: for people.
        operation: name of the operation in the file, None if unknown.
        type: its type.
        module: path of its source module.
        hint: what to do.
    """

    kind: Literal["overflow", "jump", "differs", "unknown"]
    sentence: str
    operation: str | None = None
    type: str | None = None
    module: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        return self.sentence if self.hint is None else f"{self.sentence}; {self.hint}"

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return asdict(self)


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
    found: list[ComponentCheck] = []
    wrong: dict[str, Cause] = {}  # by component that is wrong in float32 already
    right: set[str] = set()  # components that are right in float32
    known = {(culprit.component, culprit.runtime): culprit for culprit in culprits}
    for check in checks:
        if check.status == PASSED and EVALUATORS.get(check.runtime) == "float32":
            right.add(check.component)
        if check.status != FAILED or check.runtime not in EVALUATORS:
            found.append(check)
            continue
        cause = _as_in_float32(wrong.get(check.component)) if _is_finite(check) else None
        culprit = known.get((check.component, check.runtime))
        cause = cause or _cause(bundle, checkpoint, check, recording, culprit, check.component in right)
        if EVALUATORS[check.runtime] == "float32":
            wrong[check.component] = cause
        found.append(replace(check, cause=cause))
    return found


def _as_in_float32(cause: Cause | None) -> Cause | None:
    """Returns the cause of a file that computes the wrong function whatever the precision, in fewer words."""
    if cause is None:
        return None
    return replace(cause, sentence=f"wrong in float32 already, see there{f': {cause.module}' if cause.module else ''}")


def _is_finite(check: ComponentCheck) -> bool:
    return check.worst is not None and check.worst.non_finite == 0


def _cause(
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
        return Cause("unknown", f"the operation at fault was not found: {describe(error)}")
    if fault is None and not right_in_float32:
        return against_torch()
    if fault is None:
        return Cause("unknown", "no operation overflows or lets the error jump: rounding adds up over the program")
    hint = _islands_hint(component) if fault.kind == "overflow" else None
    measured = fault.measured
    return Cause(fault.kind, fault.message(), measured.name, measured.type, fault.module, hint)


def _of_culprit(culprit: Culprit) -> Cause:
    if culprit.module is None:
        return Cause("unknown", culprit.finding)
    return Cause("differs", culprit.finding, culprit.operations[-1], culprit.type, culprit.module)


def _float16_fault(
    component: BundleComponent, checkpoint: Checkpoint, runtime: str, sample: RecordedSample
) -> Fault | None:
    """Returns the first fault of a component's files, each on what the files before it give in float32."""
    from sdmobile.reference.subject import captured
    from sdmobile.runtimes.mlprogram import MLProgram
    from sdmobile.runtimes.mlprogram.diagnosis import first_fault
    from sdmobile.validate.bisect.reference import module_sequence

    contract = component.contract
    paths = module_sequence(captured(checkpoint, contract))
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
