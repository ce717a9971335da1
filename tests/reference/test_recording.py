from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmobile.families.component import SEPARATE
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.recording import chosen_steps, content_key, load_recording, record
from sdmobile.reference.sampling import SampleRequest, timesteps_of
from sdmobile.reference.torch_runner import TorchRunner
from tests.families import COMPONENTS

REQUESTS = [SampleRequest("a red circle", steps=6, seed=0), SampleRequest("a blue square", steps=6, seed=1)]


@given(steps=st.integers(1, 100), count=st.integers(1, 100))
def test_chosen_steps_are_bounded_and_reach_both_ends(steps: int, count: int) -> None:
    chosen = chosen_steps(steps, count)
    assert len(chosen) == min(steps, count)
    assert chosen <= set(range(steps))
    if count > 1:
        assert {0, steps - 1} <= chosen


def test_a_run_is_recorded_at_early_middle_and_late_steps(torch_runner: TorchRunner, spec: PipelineSpec) -> None:
    recording = record(torch_runner, spec, REQUESTS, COMPONENTS, max_samples=6)
    counts = {name: len(samples) for name, samples in recording.samples.items()}
    assert counts == {"text_encoder": 3, "unet": 6, "vae_decoder": 2, "vae_encoder": 2}
    timesteps = timesteps_of(spec, REQUESTS[0])
    found = [sample.inputs["timestep"][0] for sample in recording.samples["unet"][:3]]
    assert found == [timesteps[0], timesteps[round((len(timesteps) - 1) / 2)], timesteps[-1]]
    assert len({sample.key for sample in recording.samples["unet"]}) == 6
    # A recorded sample is a call: the module gives the recorded output for the recorded input.
    for samples in recording.samples.values():
        for sample in samples[:2]:
            again = torch_runner.run(sample.component, sample.inputs)
            for name, array in sample.outputs.items():
                np.testing.assert_allclose(again[name], array, atol=1e-5)
    image = recording.samples["vae_encoder"][0].inputs["image"]
    np.testing.assert_array_equal(image, np.clip(recording.runs[0].image, -1, 1))


@pytest.mark.parametrize(("max_samples", "unet"), [(1, 1), (2, 2), (4, 4)])
def test_two_calls_a_step_are_both_recorded(
    torch_runner: TorchRunner, spec: PipelineSpec, max_samples: int, unet: int
) -> None:
    from dataclasses import replace

    recording = record(torch_runner, replace(spec, guidance=SEPARATE), REQUESTS, ["unet"], max_samples)
    assert list(recording.samples) == ["unet"]
    assert len(recording.samples["unet"]) == unet
    assert recording.samples["unet"][0].inputs["sample"].shape[0] == 1


def test_text_alone_needs_no_sampling(torch_runner: TorchRunner, spec: PipelineSpec) -> None:
    steps: list[int] = []
    recording = record(
        torch_runner, spec, REQUESTS, ["text_encoder"], whole_runs=False, on_step=lambda done, _: steps.append(done)
    )
    assert (len(recording.samples["text_encoder"]), recording.runs, steps) == (3, [], [])


def test_saved_by_content_and_read_again(torch_runner: TorchRunner, spec: PipelineSpec, tmp_path: Path) -> None:
    recording = record(torch_runner, spec, REQUESTS, ["text_encoder", "unet"], max_samples=2)
    recording.save(tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.npz")}
    recording.save(tmp_path)
    assert before == {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.npz")}
    assert len(before) == 4
    again = load_recording(tmp_path)
    for name, samples in recording.samples.items():
        for old, new in zip(samples, again.samples[name], strict=True):
            assert (old.label, old.key) == (new.label, new.key)
            assert f"{name}-{new.key}.npz" in before
            for key, array in old.outputs.items():
                np.testing.assert_array_equal(array, new.outputs[key])


def test_the_key_is_of_names_types_shapes_and_values() -> None:
    array = np.arange(6, dtype=np.float32)
    key = content_key({"a": array})
    assert key == content_key({"a": array.copy()})
    others = [{"b": array}, {"a": array.astype(np.float64)}, {"a": array.reshape(2, 3)}, {"a": array + 1}]
    assert key not in {content_key(other) for other in others}
