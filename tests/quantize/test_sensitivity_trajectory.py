from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.errors import UnsupportedError
from sdmobile.quantize.sensitivity_analysis import AnalysisPlan, probe_gradients
from sdmobile.quantize.sensitivity_study import compressible, requests_for
from sdmobile.quantize.sensitivity_trajectory import open_trajectories
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import sample_all
from sdmobile.reference.torch_runner import TorchRunner
from tests.families.tiny import write_tiny


@pytest.mark.parametrize("family", ["stable-diffusion", "stable-diffusion-xl", "stable-diffusion-3"])
def test_the_loop_ends_at_the_samplers_latent(family: str, tmp_path: Path) -> None:
    opened = open_checkpoint(write_tiny(family, tmp_path / "tiny"))
    requests = requests_for(opened, ["a circle", "a square"], 3, seed=5)
    spec = PipelineSpec.from_checkpoint(opened)
    runs = sample_all(TorchRunner(opened, spec.geometry), spec, requests)
    study = open_trajectories(opened, requests)
    expected = np.stack([run.latents[-1][0] for run in runs])
    np.testing.assert_allclose(np.stack(study.outputs()), expected, atol=2e-5 * np.abs(expected).max())


def test_the_gradient_through_the_loop_predicts_a_small_change(tiny_checkpoint: Path) -> None:
    opened = open_checkpoint(tiny_checkpoint)
    study = open_trajectories(opened, requests_for(opened, ["a circle"], 2))
    assert list(study.layers) == list(compressible(study.module.get_submodule("component")))
    gradients = probe_gradients(study, study.rows[0], (1,))
    layer = max(gradients, key=lambda name: float(gradients[name].norm()))
    step = 1e-3 * study.weight(layer).std() / float(gradients[layer].abs().mean())
    change = step * gradients[layer].numpy()
    exact = study.outputs()[0].astype(np.float64)
    with study.replaced({layer: study.weight(layer) + change}):
        up = study.outputs()[0].astype(np.float64)
    with study.replaced({layer: study.weight(layer) - change}):
        down = study.outputs()[0].astype(np.float64)
    signs = np.random.default_rng((1,)).integers(0, 2, exact.size, dtype=np.int8) * 2.0 - 1
    found = float(signs @ (up - down).ravel()) / 2 / np.sqrt(exact.size)
    assert found == pytest.approx(float((gradients[layer].numpy() * change).sum()), rel=0.05)


def test_only_a_unet_has_trajectories() -> None:
    with pytest.raises(UnsupportedError, match="trajectory"):
        AnalysisPlan("vae_decoder", (), through="trajectory")
