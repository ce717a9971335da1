"""How thorough validation is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.checkpoints.changes import UNCHANGED, Changes
from sdmobile.reference.recording import DEFAULT_MAX_SAMPLES, DEFAULT_PROMPTS
from sdmobile.reference.sampling import SampleRequest
from sdmobile.validate.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmobile.checkpoints.control import ControlFolder
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.validate.checks import Checker


@dataclass(frozen=True)
class ValidationOptions:
    """How thorough validation is.

    Args:
        reference: the source checkpoint, None for the one that ships with sdmobile.
        controls: the control networks of a bundle with some.
        prompts: sampled whole, each with its own seed.
        steps: scheduler steps, None for the usual number of the bundle's family.
        seed: seed of the first prompt; the next have the next seeds.
        guidance_scale: classifier-free guidance scale, None for the bundle's own.
        scheduler: short name, None for the checkpoint's own.
        components: which to check, None for all of the bundle.
        runtime: "auto" for every runtime of the target that this machine has, or one name.
        max_samples: most recorded inputs per component.
        trajectory: sample whole pictures with the bundle's runtimes.
        thresholds: what must be reached.
        threads: CPU threads of the runtime.
        recording_dir: where recorded inputs are saved, None for nowhere.
        cache_dir: where the reference's recordings are kept for the next validation, None for nowhere.
        overflow: look for values that float16 cannot hold, in the reference, by component and step.
        precision: simulate float16 on Android's GPU and advise a precision for each component.
        checkers: what else is asked, by name; see `checkers`.
        changes: that were put on top of the source checkpoint.
        golden: put a few recorded calls into an Android bundle, for `sdmobile serve`.
        bisect_dir: where the smallest failing subgraph of each failing component is saved, None for nowhere.
    """

    reference: Path | None = None
    controls: tuple[ControlFolder, ...] = ()
    prompts: tuple[str, ...] = DEFAULT_PROMPTS
    steps: int | None = None
    seed: int = 0
    guidance_scale: float | None = None
    scheduler: str | None = None
    components: tuple[str, ...] | None = None
    runtime: str = "auto"
    max_samples: int = DEFAULT_MAX_SAMPLES
    trajectory: bool = True
    thresholds: Thresholds = field(default_factory=Thresholds)
    threads: int | None = None
    recording_dir: Path | None = None
    cache_dir: Path | None = None
    overflow: bool = False
    precision: bool = False
    checkers: Mapping[str, Checker] = field(default_factory=dict)
    changes: Changes = UNCHANGED
    golden: bool = False
    bisect_dir: Path | None = None

    def settled(self, spec: PipelineSpec) -> ValidationOptions:
        """Returns the options with what was left open taken from a pipeline."""
        steps = spec.steps if self.steps is None else self.steps
        scale = spec.guidance_scale if self.guidance_scale is None else self.guidance_scale
        return replace(self, steps=steps, guidance_scale=scale)

    def requests(self) -> tuple[SampleRequest, ...]:
        """Returns the pictures to sample; the options are settled."""
        assert self.steps is not None
        assert self.guidance_scale is not None
        return tuple(
            SampleRequest(prompt, "", self.steps, (self.seed + i) % 2**32, self.guidance_scale, self.scheduler)
            for i, prompt in enumerate(self.prompts)
        )
