"""The whole analysis of one component: estimate by probes, direct measurements, kept and shared among processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.quantize.probe import estimate, projections
from sdmobile.quantize.schemes import parse_scheme
from sdmobile.quantize.sensitivity import DEFAULT_SCHEMES, DIRECT, PROBES, Sensitivity
from sdmobile.quantize.sensitivity_study import EncodedWeights, Study, open_study, weights_key
from sdmobile.quantize.sensitivity_work import computed, is_main, silent, wait_for_all, world

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.quantize.sensitivity_work import Tell
    from sdmobile.reference.sampling import SampleRequest


CALL, TRAJECTORY = "call", "trajectory"
_CODE = ("probe.py", "sensitivity_study.py", "sensitivity_trajectory.py")


@dataclass(frozen=True)
class AnalysisPlan:
    """How a component is analysed.

    Args:
        component: canonical name.
        requests: pictures whose trajectories are recorded.
        schemes: what each layer may become.
        max_samples: most recorded calls.
        probes: random probes per recorded row; 0 for no estimate.
        direct: how many layers are measured directly, those with the largest estimate first; None for all.
        seed: of the probes.
        through: "call" for the error of single calls, "trajectory" for that of a UNet's final latents.
    """

    component: str
    requests: tuple[SampleRequest, ...]
    schemes: tuple[str, ...] = DEFAULT_SCHEMES
    max_samples: int = 15
    probes: int = 4
    direct: int | None = None
    seed: int = 0
    through: str = CALL

    def __post_init__(self) -> None:
        if self.probes == 0 and self.direct == 0:
            raise UnsupportedError("an analysis needs probes or direct measurements", "0 of both")
        if self.through not in (CALL, TRAJECTORY) or (self.through == TRAJECTORY and self.component != "unet"):
            raise UnsupportedError("errors are those of a call, or of a UNet's trajectory", self.through)
        for scheme in self.schemes:
            parse_scheme(scheme)

    def settings(self) -> dict[str, Any]:
        """Returns what the figures come from, as JSON."""
        return {**asdict(self), "requests": [asdict(request) for request in self.requests]}


def analyse(
    checkpoint: Checkpoint, plan: AnalysisPlan, folder: Path, recordings: Path | None, tell: Tell = silent
) -> Sensitivity:
    """Measures the sensitivity of every layer of a component to every scheme.

    Args:
        checkpoint: the opened checkpoint.
        plan: how.
        folder: finished pieces are kept here under a hash of everything that decides them; a stopped analysis goes on.
        recordings: cache of recordings, None for none.
        tell: sees (what, finished, all).
    """
    if not is_main():
        wait_for_all()  # and find what the first process recorded
    study = opened_study(checkpoint, plan.component, plan.requests, plan.max_samples, recordings, plan.through)
    if is_main():
        wait_for_all()
    code = weights_key(checkpoint.content_hash, plan.component)
    encoded = EncodedWeights(study, folder / "weights" / code)
    sizes = _encode_all(study, encoded, plan.schemes, tell)
    work = folder / "work" / _key(study, plan, code)
    exact = study.outputs()
    errors: dict[str, NDArray[np.float64]] = {}
    if plan.probes:
        errors[PROBES] = _estimated(study, encoded, plan, work, tell)
    if plan.direct != 0:
        errors[DIRECT] = _direct(study, encoded, plan, exact, errors.get(PROBES), work, tell)
    stacked = np.stack(exact).astype(np.float64)
    return Sensitivity(
        component=plan.component,
        source_hash=checkpoint.content_hash,
        schemes=plan.schemes,
        layers=tuple(study.layers),
        elements=np.array([weight.numel() for weight in study.layers.values()], np.int64),
        stored_bytes=sizes,
        errors=errors,
        power=float(np.mean(np.square(stacked))),
        peak=float(np.abs(stacked).max()),
        settings=plan.settings(),
    )


def opened_study(
    checkpoint: Checkpoint,
    component: str,
    requests: Sequence[SampleRequest],
    max_samples: int,
    recordings: Path | None,
    through: str,
) -> Study:
    """Returns the component under study, by its calls or by its trajectories."""
    if through == TRAJECTORY:
        from sdmobile.quantize.sensitivity_trajectory import open_trajectories

        return open_trajectories(checkpoint, requests)
    return open_study(checkpoint, component, requests, max_samples, recordings)


def _encode_all(study: Study, encoded: EncodedWeights, schemes: Sequence[str], tell: Tell) -> NDArray[np.float64]:
    """Encodes every layer in every scheme and returns the stored bytes; each process starts at another layer."""
    layers = list(study.layers)
    rank, size = world()
    sizes = np.full((len(layers), len(schemes)), np.nan)
    for turn in range(len(layers)):
        tell("encoding", turn, len(layers))
        i = (turn + rank * len(layers) // size) % len(layers)
        for j, scheme in enumerate(schemes):
            found = encoded.get(layers[i], scheme)
            if found is not None:
                sizes[i, j] = found[1]
    return sizes


def _estimated(
    study: Study, encoded: EncodedWeights, plan: AnalysisPlan, work: Path, tell: Tell
) -> NDArray[np.float64]:
    def piece(index: int) -> NDArray[np.float64]:
        return projections(study, encoded, plan.schemes, index, plan.seed)

    return estimate(computed("probes", range(len(study.rows) * plan.probes), piece, work, tell))


def _direct(
    study: Study,
    encoded: EncodedWeights,
    plan: AnalysisPlan,
    exact: Sequence[NDArray[np.float32]],
    estimated: NDArray[np.float64] | None,
    work: Path,
    tell: Tell,
) -> NDArray[np.float64]:
    """Compresses one layer at a time and measures the output; NaN where that was not asked for or does not fit."""
    names = list(study.layers)
    chosen = measured_layers(names, estimated, plan.direct)

    def piece(index: int) -> NDArray[np.float64]:
        row, column = divmod(index, len(plan.schemes))
        found = encoded.get(names[row], plan.schemes[column])
        return np.array(np.nan if found is None else study.quality(exact, {names[row]: found[0]}).mse)

    table = np.full((len(names), len(plan.schemes)), np.nan)
    cells = [row * len(plan.schemes) + column for row in chosen for column in range(len(plan.schemes))]
    table.flat[cells] = computed("direct", cells, piece, work, tell)
    return table


def measured_layers(names: Sequence[str], estimated: NDArray[np.float64] | None, count: int | None) -> list[int]:
    """Returns which layers are measured directly: all, or those with the largest estimated error of any scheme."""
    if count is None or count >= len(names):
        return list(range(len(names)))
    if estimated is None:
        return list(range(count))
    return sorted(np.argsort(-np.nanmax(estimated, axis=1), kind="stable")[:count].tolist())


def _sampling(plan: AnalysisPlan) -> list[Any]:
    """Returns what decides a trajectory besides its inputs."""
    return [(r.steps, r.guidance_scale, r.scheduler) for r in plan.requests] if plan.through == TRAJECTORY else []


def _key(study: Study, plan: AnalysisPlan, code: str) -> str:
    """Returns the hash that names finished pieces: inputs, encoders, schemes, seed, and the code that measures.

    How many probes and direct measurements were asked for is not in it: more of them use those that are there.
    """
    digest = hashlib.sha256(
        json.dumps([plan.component, plan.schemes, plan.seed, plan.through, _sampling(plan), code], default=str).encode()
    )
    for row in study.rows:
        for tensor in row:
            digest.update(tensor.numpy().tobytes())
    root = Path(__file__).resolve().parent
    for name in _CODE:
        digest.update((root / name).read_bytes())
    return digest.hexdigest()[:32]
