"""Recipes that were searched for and measured, and the curve of size and quality that they lie on.

Every step has prompts of its own: sensitivities are measured on some, candidates are chosen on others, and the curve is
drawn on prompts that neither has seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import write_json, write_whole
from sdmobile.basics.scratch import temporary_folder
from sdmobile.checkpoints import open_checkpoint
from sdmobile.errors import CheckpointError
from sdmobile.quantize.recipes import Recipe, save_recipe
from sdmobile.quantize.search import Goal, search
from sdmobile.quantize.sensitivity_analysis import opened_study
from sdmobile.quantize.sensitivity_study import (
    JUDGING_PROMPTS,
    JUDGING_SEED,
    SELECTION_PROMPTS,
    SELECTION_SEED,
    EncodedWeights,
    Study,
    judging_requests,
    requests_for,
    weights_key,
)
from sdmobile.quantize.tradeoff import Point, curve_svg, exact_pictures, markdown, measure_point
from sdmobile.reference.recording_cache import default_recordings_dir

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.quantize.sensitivity import Sensitivity
    from sdmobile.quantize.sensitivity_work import Tell
    from sdmobile.reference.sampling import SampleRequest


@dataclass(frozen=True)
class WorkFolders:
    """Where finished pieces of work are kept.

    Args:
        work: sensitivities and compressed weights.
        recordings: the reference's recordings, None to keep none.
    """

    work: Path
    recordings: Path | None


@contextmanager
def work_folders(keep: bool = True) -> Iterator[WorkFolders]:
    """Yields the user's cache folders, or a folder that is removed again."""
    if keep:
        recordings = default_recordings_dir()
        yield WorkFolders(recordings.parent / "quantize", recordings)
    else:
        with temporary_folder("quantize") as scratch:
            yield WorkFolders(scratch, None)


def analysed_checkpoint(sensitivity: Sensitivity, path: Path | None) -> Checkpoint:
    """Opens the checkpoint that was analysed, or a fine-tune of its architecture.

    Args:
        sensitivity: what `analyse` returned.
        path: a Diffusers folder or single file; None for the checkpoint that sdmobile ships.

    Raises:
        CheckpointError: none was named, and the one that ships was not analysed.
    """
    opened = open_checkpoint(path)
    if path is None and opened.content_hash != sensitivity.source_hash:
        raise CheckpointError(
            "measuring needs the checkpoint that was analysed", "it is not shapes-64", "Give it: --checkpoint."
        )
    return opened


def _study(
    checkpoint: Checkpoint,
    component: str,
    requests: tuple[SampleRequest, ...],
    max_samples: int,
    folders: WorkFolders,
    through: str = "call",
) -> tuple[Study, EncodedWeights]:
    study = opened_study(checkpoint, component, requests, max_samples, folders.recordings, through)
    return study, EncodedWeights(study, folders.work / "weights" / weights_key(checkpoint.content_hash, component))


def _choosing(
    sensitivity: Sensitivity, checkpoint: Checkpoint, steps: int, max_samples: int, folders: WorkFolders
) -> tuple[Study, EncodedWeights]:
    """Returns what candidates are measured on: other prompts than the analysis had, and the error that it had."""
    requests = requests_for(checkpoint, SELECTION_PROMPTS, steps, SELECTION_SEED)
    through = str(sensitivity.settings.get("through", "call"))
    return _study(checkpoint, sensitivity.component, requests, max_samples, folders, through)


def measured_recipe(
    sensitivity: Sensitivity,
    goal: Goal,
    checkpoint: Checkpoint | None,
    steps: int,
    max_samples: int,
    folders: WorkFolders,
    tell: Tell,
) -> Recipe:
    """Searches the recipe for a goal.

    Args:
        sensitivity: what `analyse` returned.
        goal: size or quality.
        checkpoint: what candidates are measured on; None to trust the prediction.
        steps: scheduler steps of the recorded pictures.
        max_samples: most recorded calls of the component.
        folders: where finished work is kept.
        tell: sees (what, finished, all).
    """
    study, encoded = None, None
    if checkpoint is not None:
        tell("recording", 0, 1)
        study, encoded = _choosing(sensitivity, checkpoint, steps, max_samples, folders)
    tell("searching", 0, 1)
    return search(sensitivity, goal, study, encoded)


@dataclass(frozen=True)
class CurvePlan:
    """What the curve shows.

    Args:
        bits: sizes of mixed recipes, in average bits per weight.
        uniform: recipes with one scheme for every weight.
        pictures: pictures per recipe; 0 for none.
        steps: scheduler steps of the recorded pictures.
        max_samples: most recorded calls of the component.
    """

    bits: tuple[float, ...]
    uniform: tuple[Recipe, ...]
    pictures: int
    steps: int
    max_samples: int


@dataclass(frozen=True)
class SizeQuality:
    """The curve of one component.

    Args:
        title: checkpoint and component.
        component: canonical name.
        source_hash: of the checkpoint that was analysed.
        points: in the order of the plan, uniform recipes first.
        mixed: the recipes that were found.
    """

    title: str
    component: str
    source_hash: str
    points: tuple[Point, ...]
    mixed: tuple[Recipe, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the points with what they are of."""
        points = [point.to_json() for point in self.points]
        return {"component": self.component, "source_hash": self.source_hash, "points": points}

    @property
    def table(self) -> str:
        """The curve as a Markdown table."""
        return markdown(self.points)

    def save(self, folder: Path) -> None:
        """Writes curve.json, curve.md, curve.svg and the mixed recipes into a folder, which is made if needed."""
        write_json(folder / "curve.json", self.to_json())
        write_whole(folder / "curve.md", self.table.encode())
        write_whole(folder / "curve.svg", curve_svg(self.points, self.title).encode())
        for recipe in self.mixed:
            save_recipe(recipe, folder / f"{recipe.name}.json")


def draw_curve(
    sensitivity: Sensitivity, checkpoint: Checkpoint, plan: CurvePlan, folders: WorkFolders, tell: Tell
) -> SizeQuality:
    """Measures uniform recipes, and mixed ones that are searched for, on prompts that no search has seen.

    Args:
        sensitivity: what `analyse` returned.
        checkpoint: what was analysed, or a fine-tune of its architecture.
        plan: which recipes.
        folders: where finished work is kept.
        tell: sees (what, finished, all).
    """
    component = sensitivity.component
    tell("recording", 0, 1)
    study, encoded = _choosing(sensitivity, checkpoint, plan.steps, plan.max_samples, folders)
    tell("searching", 0, 1)
    mixed = [search(sensitivity, Goal(bits=bits), study, encoded) for bits in plan.bits]
    recipes = [*plan.uniform, *mixed]
    judging = requests_for(checkpoint, JUDGING_PROMPTS, plan.steps, JUDGING_SEED)
    study, encoded = _study(checkpoint, component, judging, plan.max_samples, folders)
    exact = study.outputs()
    drawn = exact_pictures(checkpoint, study, judging_requests(checkpoint, plan.pictures, plan.steps), tell)
    points: list[Point] = []
    for recipe in recipes:
        tell(recipe.name, len(points), len(recipes))
        points.append(measure_point(study, encoded, exact, recipe, drawn, tell))
    return SizeQuality(
        f"{checkpoint.name}, {component}", component, sensitivity.source_hash, tuple(points), tuple(mixed)
    )
