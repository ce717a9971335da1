"""What of a component's values float16 cannot hold: scales before capture, and after it what its files are run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sdmobile.formats.bundle.contracts import PERMUTATIONS

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.families.streams import Streams
    from sdmobile.formats.bundle.contracts import Contract, Geometry
    from sdmobile.reference.float16_scales import Float16Scales

Calls = tuple[tuple["Tensor", ...], ...]
Values = list[dict[str, "Tensor"]]


def scale_streams(
    load: Callable[[], nn.Module],
    streams: Streams,
    checkpoint: Checkpoint,
    contract: Contract,
    geometry: Geometry,
    recorded: Sequence[tuple[Tensor, ...]],
) -> tuple[Float16Scales, nn.Module | None]:
    """Scales a component where its values come near float16's range; it is loaded only where they may.

    Args:
        load: gives the component behind its file's interface.
        streams: of it.
        checkpoint: that it comes from.
        contract: of the file.
        geometry: the sizes of the export.
        recorded: further inputs to measure on, from a sampling run.

    Returns:
        What was found, and the scaled component; None where nothing was scaled.
    """
    import torch

    from sdmobile.families.streams import observe
    from sdmobile.reference.drawn_pictures import drawn_input
    from sdmobile.reference.drawn_scales import DRAWN, SMALL, stream_peaks
    from sdmobile.reference.float16_scales import apply_scales, scales_for

    component = contract.component
    peaks, words = stream_peaks(checkpoint, (component,), geometry).get(component, {}), DRAWN
    module = load() if recorded else None
    if module is not None:
        further, _ = observe(module, streams, recorded)
        peaks = {stream: max(peak, further[stream]) for stream, peak in peaks.items()}
        words = f"{words} and {len(recorded)} calls of a sampling run"
    scales = scales_for(peaks, words)
    if not scales.streams:
        return scales, None
    module = module or load()
    order = PERMUTATIONS[contract.inputs[0].layout]
    drawn = torch.from_numpy(drawn_input(checkpoint, component, geometry, SMALL)).permute(order)
    found = apply_scales(module, streams, scales, [(drawn,), *recorded])
    return found, module if found.streams else None


def values_of(contract: Contract, recorded: Sequence[tuple[Tensor, ...]]) -> Values:
    """Returns the recorded inputs of a component by name, one mapping per call."""
    names = [spec.name for spec in contract.inputs]
    return [dict(zip(names, call, strict=True)) for call in recorded]


def calls_of(contract: Contract, values: Values) -> Calls:
    """Returns the inputs of one file of a chain, one entry per call.

    Args:
        contract: the file's interface.
        values: by name, what the calls of the component and the files before it gave.
    """
    return tuple(tuple(known[spec.name] for spec in contract.inputs) for known in values)


def pass_on(program: ExportedProgram, contract: Contract, values: Values) -> None:
    """Adds to the values what a file of a chain makes of them; one that it passes on has one name in both files."""
    from sdmobile.rewrites.program import run

    for known, call in zip(values, calls_of(contract, values), strict=True):
        known.update(zip((spec.name for spec in contract.outputs), run(program, call), strict=True))


def overflow_warnings(program: ExportedProgram, calls: Calls) -> tuple[str, ...]:
    """Returns one sentence per module whose values float16 cannot hold, for a file that cannot keep them in float32."""
    from sdmobile.reference.overflow import scan_program

    labels = (f"recorded input {number}" for number in range(1, len(calls) + 1))
    return scan_program(program, "component", zip(labels, calls, strict=True)).warnings
