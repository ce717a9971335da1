"""Drawers that are known: one that renders, one that always draws the same picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sdmobile.checkpoints.shapes64.captions import Claims
from sdmobile.checkpoints.shapes64.obedience import read_caption
from sdmobile.checkpoints.shapes64.scenes import render, sample_scene
from sdmobile.training.distribution import FEATURES_FILE, measure_distribution
from sdmobile.training.features import (
    HEADS,
    features_of,
    held_out_accuracy,
    labels_of,
    load_features,
    save_features,
    train_features,
)


def _rendered(prompt: str, seed: int) -> np.ndarray:
    """A scene that has what the caption says of background and place; other items, which no figure asks for."""
    claims = read_caption(prompt)
    assert isinstance(claims, Claims)
    rng = np.random.default_rng(seed)
    while True:
        scene = sample_scene(rng)
        fits = claims.background in (None, scene.background) and claims.place in (None, scene.place)
        if fits and len(scene.items) == len(claims.items):
            return render(scene)


def _all_rendered(prompts: Sequence[str], seeds: Sequence[int], _conditions: object) -> list[np.ndarray]:
    return [_rendered(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]


def test_a_renderer_is_as_good_as_the_floor() -> None:
    seen: list[tuple[int, int]] = []
    found = measure_distribution(_all_rendered, None, 200, lambda done, total: seen.append((done, total)), 16)
    floor = found["floors"]["renderer"]
    assert set(found["floors"]) == {"renderer"}
    assert abs(found["kid"][0] - floor["kid"][0]) < 3 * (found["kid"][1] + floor["kid"][1])
    assert min(found["precision"], found["recall"]) > 0.8 * min(floor["precision"], floor["recall"]) > 0.4
    assert found["bits"]["background"][0] > 1.6
    assert found["bits"]["place"][0] > 2.4
    assert seen[-1] == (200 + 8 * 16, 200 + 8 * 16)
    assert found["features_sha256"] == load_features(FEATURES_FILE)[1]


def test_the_same_picture_for_all_is_noticed() -> None:
    picture = render(sample_scene(np.random.default_rng(1)))
    found = measure_distribution(lambda prompts, *_: [picture] * len(prompts), None, 100, lambda *_: None, 4)
    assert found["recall"] < 0.1
    assert found["kid"][0] > 20 * found["floors"]["renderer"]["kid"][1]
    assert [drawn for drawn, _ in found["bits"].values()] == [0.0, 0.0]


def test_the_network_that_ships_reads_pictures() -> None:
    rng = np.random.default_rng(5)
    net, _ = load_features(FEATURES_FILE)
    assert held_out_accuracy(net, 200) > 0.97
    features = features_of(net, np.stack([render(sample_scene(rng)) for _ in range(1000)]))
    np.testing.assert_allclose(features.mean(0), 0, atol=0.2)
    np.testing.assert_allclose(features.std(0), 1, atol=0.2)


def test_labels_name_what_the_scene_has() -> None:
    rng = np.random.default_rng(0)
    for scene in (sample_scene(rng) for _ in range(50)):
        labels = labels_of(scene)
        assert labels.keys() == HEADS.keys()
        assert all(label < HEADS[name] for name, label in labels.items())
        assert (labels["shape 2"] < 0) == (len(scene.items) == 1)


def test_a_network_is_trained_saved_and_loaded(tmp_path: Path) -> None:
    losses: list[float] = []
    net = train_features(100, 8, 0, lambda _done, _all, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    save_features(net, tmp_path / "net.safetensors")
    loaded, digest = load_features(tmp_path / "net.safetensors")
    assert len(digest) == 64
    pictures = np.stack([render(sample_scene(np.random.default_rng(i))) for i in range(3)])
    np.testing.assert_array_equal(features_of(net, pictures), features_of(loaded, pictures))
    assert features_of(net, pictures).shape == (3, 64)
    again = train_features(100, 8, 0, lambda *_: None)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
