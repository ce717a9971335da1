"""Pictures of one batch are those that are drawn one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.families import FAMILIES
from sdmobile.reference.batched import sample_batch
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.families.tiny import write_tiny


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_batch_is_its_pictures(family: str, scale: float, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(family, tmp_path / "tiny"))
    spec = PipelineSpec.from_checkpoint(checkpoint).guided_at(scale)
    runner = TorchRunner(checkpoint, spec.geometry)
    requests = [
        SampleRequest(text, negative, 3, seed, scale)
        for seed, (text, negative) in enumerate([("red circle", ""), ("blue square", "circle"), ("red circle", "")])
    ]
    given = sample_batch(runner, spec, requests)
    wanted = np.concatenate([sample(runner, spec, request).image for request in requests])
    np.testing.assert_allclose(given, wanted, rtol=0, atol=2e-4)
    assert np.abs(wanted[0] - wanted[2]).max() > 0.01
