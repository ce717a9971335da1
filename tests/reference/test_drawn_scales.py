"""Scales from a drawn picture: PyTorch's decision, without PyTorch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from sdmobile.checkpoints import Checkpoint, open_checkpoint
from sdmobile.errors import CheckpointError, SdmobileError, UnsupportedError
from sdmobile.families.streams import observe
from sdmobile.reference import drawn_scales as module
from sdmobile.reference.drawn_pictures import drawn_input, run_arrays
from sdmobile.reference.drawn_scales import GROWTH, LARGE, SMALL, drawn_scales, stream_peaks
from sdmobile.reference.float16_scales import LIMIT, scales_for
from sdmobile.reference.geometry import geometry_for
from sdmobile.reference.subject import wrapped_component
from tests.validate.scaled import planted_checkpoint

if TYPE_CHECKING:
    from sdmobile.families.streams import Observed

HALVES = ("vae_encoder", "vae_decoder")
WITHOUT_TORCH = """
import json, sys
from pathlib import Path

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "diffusers", "transformers"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Refusing())

from sdmobile.checkpoints import open_checkpoint
from sdmobile.reference.drawn_scales import drawn_scales, stream_peaks
from sdmobile.reference.geometry import geometry_for

checkpoint = open_checkpoint(Path(sys.argv[1]))
geometry = geometry_for(checkpoint, None, None)
exponents = {name: found.exponents for name, found in drawn_scales(checkpoint, sys.argv[2:], geometry).items()}
json.dump([stream_peaks(checkpoint, sys.argv[2:], geometry), exponents], sys.stdout)
"""


@pytest.fixture(scope="module")
def planted(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_checkpoint(tiny_checkpoint, tmp_path_factory.mktemp("planted") / "tiny", 17)


@pytest.mark.parametrize("component", HALVES)
def test_a_planted_overflow_is_found_as_by_pytorch(planted: Path, component: str) -> None:
    checkpoint = open_checkpoint(planted)
    geometry = geometry_for(checkpoint, None, None)
    half = wrapped_component(checkpoint, "onnx", component)
    drawn = torch.from_numpy(drawn_input(checkpoint, component, geometry, LARGE))
    right, _ = observe(half, checkpoint.family.component(component).streams(half), [(drawn,)])
    found = drawn_scales(checkpoint, HALVES, geometry)[component]
    assert found.exponents == scales_for(right, "PyTorch").exponents
    assert len(found.exponents) > 3
    assert {one.stream: one.largest for one in found.streams} == pytest.approx(
        {name: value for name, value in right.items() if name in found.exponents}, rel=1e-5
    )


def test_the_same_is_found_where_pytorch_cannot_be_imported(planted: Path) -> None:
    for path in (Path("shapes-64"), planted):
        checkpoint = open_checkpoint(path)
        geometry = geometry_for(checkpoint, None, None)
        command = [sys.executable, "-c", WITHOUT_TORCH, str(path), *HALVES]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks, exponents = json.loads(done.stdout)
        assert peaks == stream_peaks(checkpoint, HALVES, geometry)
        assert exponents == {n: found.exponents for n, found in drawn_scales(checkpoint, HALVES, geometry).items()}
        assert bool(exponents["vae_decoder"]) == (path == planted)


def test_a_small_picture_settles_it_unless_values_come_near(
    checkpoint: Checkpoint, planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[tuple[str, int]] = []

    def run(checkpoint: Checkpoint, component: str, inputs: object) -> Observed:
        found = run_arrays(checkpoint, component, inputs)  # type: ignore[arg-type]
        looks.append((component, max(inputs.shape[2:])))  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr(module, "run_arrays", run)
    geometry = geometry_for(checkpoint, None, 128)
    assert max(stream_peaks(checkpoint, HALVES, geometry)["vae_decoder"].values()) * GROWTH < LIMIT
    assert looks == [("vae_encoder", SMALL), ("vae_decoder", SMALL // 2)]  # the encoder once for both

    looks.clear()
    near = open_checkpoint(planted)
    peaks = stream_peaks(near, HALVES, geometry)
    assert looks[2:] == [("vae_encoder", 128), ("vae_decoder", 64)]
    for half in HALVES:
        assert peaks[half] == run_arrays(near, half, drawn_input(near, half, geometry, LARGE))[0]

    looks.clear()
    stream_peaks(near, HALVES, geometry_for(checkpoint, None, SMALL))
    assert len(looks) == 2  # there is no larger picture


def test_what_has_no_streams_has_no_scales(checkpoint: Checkpoint) -> None:
    geometry = geometry_for(checkpoint, None, None)
    assert set(drawn_scales(checkpoint, checkpoint.family.names, geometry)) == set(HALVES)


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        (7, CheckpointError, "shapes of its architecture"),
        (64, CheckpointError, "shapes of its architecture"),
        (0, UnsupportedError, "whole number above zero: 0"),
        ("8", UnsupportedError, "whole number above zero"),
        (None, UnsupportedError, "whole number above zero"),
    ],
)
def test_norms_that_cannot_be_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, groups: object, error: type[SdmobileError], words: str
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "changed")
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "norm_num_groups": groups}))
    checkpoint = open_checkpoint(folder)
    with pytest.raises(error, match=words):
        drawn_scales(checkpoint, HALVES, geometry_for(checkpoint, None, None))


def test_a_decision_is_the_same_for_one_half_as_for_both(planted: Path) -> None:
    checkpoint = open_checkpoint(planted)
    geometry = geometry_for(checkpoint, None, (128, 64))
    both = drawn_scales(checkpoint, HALVES, geometry)
    assert both == {half: drawn_scales(checkpoint, (half,), geometry)[half] for half in HALVES}
