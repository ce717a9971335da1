"""Which precision an Android app should ask the GPU for, component by component, as far as that can be told here.

LiteRT's `GpuOptions.precision` is FP32, DEFAULT (float16), or, since LiteRT 2.2, FP16_WITH_FP32_ACCUM: values are
float16, and convolutions, fully connected layers and matrix products add up float16 sums of four in float32. The last
one is simulated on the rewritten graph; what the engine does in DEFAULT is only known where it was run
(`gpu-check --precision float16`).

Source: LiteRT's release notes of 2.2.0 and its Kotlin API (com.google.ai.edge.litert.CompiledModel.GpuOptions);
google-ai-edge/ml-drift `ml_drift/common/precision.h`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.basics.float16 import MAX_FINITE
from sdmobile.basics.words import describe
from sdmobile.errors import UnsupportedError
from sdmobile.validate.checks import PREDICTED, Checker, ExtraCheck, Status

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.device_profiles.model import DeviceProfile
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.reference.recording import RecordedSample, Recording
    from sdmobile.rewrites.rule import Rule
    from sdmobile.validate.thresholds import Thresholds

NAME = "gpu precision"
FULL, ACCUMULATING = "FP32", "FP16_WITH_FP32_ACCUM"
_SIMULATED = "float16 with sums in float32"  # a runtime's name, for limits in a thresholds file
_SAMPLES = 3
_ROOM = 2  # values stay below half of the largest float16 number: other texts drive them up further


def precision_checker(checkpoint: Checkpoint, thresholds: Thresholds) -> Checker:
    """Returns the checker that simulates float16 and advises a precision for each component.

    Args:
        checkpoint: that the bundle was exported from.
        thresholds: what an output must reach in float16.
    """

    def check(bundle: Bundle, components: Sequence[str], recording: Recording) -> list[ExtraCheck]:
        if bundle.target != "android":
            return [ExtraCheck(NAME, "bundle", Status.NOT_RUN, reason="the precision of Android's GPU is asked for")]
        return [_checked(checkpoint, bundle, name, recording.samples.get(name, []), thresholds) for name in components]

    return check


def _checked(
    checkpoint: Checkpoint, bundle: Bundle, name: str, samples: Sequence[RecordedSample], thresholds: Thresholds
) -> ExtraCheck:
    component = bundle.components[name]
    if "compression" in component.record:
        return ExtraCheck(NAME, name, Status.NOT_RUN, reason="integer weights are not simulated")
    if not samples:
        return ExtraCheck(NAME, name, Status.NOT_RUN, reason="no inputs were recorded")
    try:
        worst, largest = simulated(checkpoint, bundle, component, samples[:_SAMPLES])
    except Exception as error:
        return ExtraCheck(NAME, name, Status.ERROR, PREDICTED, describe(error))
    needed = thresholds.limits(name, _SIMULATED).component_db
    advice, why = advised(worst, largest, needed)
    figures = {"psnr_db": worst, "largest_value": largest}
    place = f"{PREDICTED}: {advice}"
    return ExtraCheck(NAME, name, Status.PASSED, place, findings=(f"{advice}: {why}",), figures=figures)


def advised(worst_db: float, largest: float, needed_db: float) -> tuple[str, str]:
    """Returns the precision to ask for, and why.

    Args:
        worst_db: PSNR of the worst output in simulated float16 with sums in float32; NaN where it is not finite.
        largest: finite value of the graph.
        needed_db: least PSNR.
    """
    if not worst_db >= needed_db:
        return FULL, f"{worst_db:.1f} dB in float16 with sums in float32, simulated; {needed_db:g} dB are needed"
    if largest > MAX_FINITE / _ROOM:
        return FULL, f"values reach {largest:.0f}, and float16 ends at {MAX_FINITE:.0f}"
    return ACCUMULATING, f"{worst_db:.1f} dB, simulated; values reach {largest:.3g} (LiteRT 2.2 or newer, else {FULL})"


def simulated(
    checkpoint: Checkpoint, bundle: Bundle, component: BundleComponent, samples: Sequence[RecordedSample]
) -> tuple[float, float]:
    """Returns the worst output in dB and the largest finite value of a component's rewritten graph in float16.

    Every operator's result is rounded to float16, and the errors of float16 sums of four products are drawn
    (`rewrites.rounded`); all other sums are float32: also those of norms and reductions, which the engine adds up in
    float16.

    Args:
        checkpoint: that the bundle was exported from.
        bundle: the bundle.
        component: of it.
        samples: recorded calls.

    Raises:
        UnsupportedError: the rules of the bundle's record are not those of its device.
    """
    from sdmobile.basics import metrics
    from sdmobile.device_profiles import default_profile, load_profile
    from sdmobile.reference.component_inputs import as_tensors
    from sdmobile.reference.subject import captured
    from sdmobile.rewrites.engine import rewrite
    from sdmobile.rewrites.rounded import rounded_range

    profile = load_profile(bundle.device) if bundle.device else default_profile(bundle.target)
    contract = component.contract
    program = rewrite(captured(checkpoint, contract, component.record), rules_of(component.record, profile)).program
    worst, largest = float("inf"), 0.0
    for sample in samples:
        outputs, reached = rounded_range(program, as_tensors(contract, sample), sums_of_four=True)
        named = {spec.name: value.numpy() for spec, value in zip(contract.outputs, outputs, strict=True)}
        found = contract.from_target(named)
        decibels = [metrics.psnr(sample.outputs[name], found[name]) for name in sample.outputs]
        finite = all(metrics.non_finite(array) == 0 for array in found.values())
        worst, largest = min(worst, *decibels) if finite else float("nan"), max(largest, reached)
        if not finite:
            break
    return worst, largest


def rules_of(record: Mapping[str, Any], profile: DeviceProfile) -> tuple[Rule, ...]:
    """Returns the rules that a component was exported with, by its record.

    Raises:
        UnsupportedError: they are not those that its device gets, with or without composite operators.
    """
    from sdmobile.rewrites.options import RewriteOptions
    from sdmobile.rewrites.registry import APPROXIMATE, rules_for

    ran = {entry["rule"] for entry in record["rewrites"]}
    approximate = tuple(name for name in APPROXIMATE if name in ran)
    for plain in (False, True):
        rules = rules_for(profile, RewriteOptions(plain_ops=plain, approximate=approximate))
        chosen = tuple(rule for rule in rules if rule.name in ran)
        if {rule.name for rule in chosen} == ran:
            return chosen
    raise UnsupportedError("the rules of a bundle must be those of its device", ", ".join(sorted(ran)), "Export again")
