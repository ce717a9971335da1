from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.checkpoints.shapes64.captions import caption
from sdmobile.checkpoints.shapes64.obedience import has_captions, judge, read_caption
from sdmobile.checkpoints.shapes64.scenes import IMAGE_SIZE, Scene, render, sample_scene
from sdmobile.formats.bundle.contracts import Geometry
from sdmobile.reference.recording import DEFAULT_PROMPTS


def drawn(scene: Scene) -> np.ndarray:
    """A scene as a decoder would return it."""
    return (render(scene).astype(np.float32) / 127.5 - 1.0).transpose(2, 0, 1)[None]


@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 2**32 - 1))
def test_reads_every_caption_that_the_checkpoint_was_trained_on(seed: int) -> None:
    random = np.random.default_rng(seed)
    one = caption(random, sample_scene(random))
    assert read_caption(one.text) == one.claims


@pytest.mark.parametrize("text", ["", "a photo of a cat", "a red circle and a blue square", "red circle"])
def test_other_prompts_are_not_judged(text: str) -> None:
    assert read_caption(text) is None
    picture = np.zeros((1, 3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    assert judge(text, picture, picture) is None


def test_default_prompts_can_be_read() -> None:
    assert all(read_caption(prompt) is not None for prompt in DEFAULT_PROMPTS)


def test_what_the_conversion_lost_is_told_from_what_was_wrong_before() -> None:
    random = np.random.default_rng(3)
    scene, other = sample_scene(random), sample_scene(random)
    text = caption(random, scene).text
    right, wrong = drawn(scene), drawn(other)
    verdicts = {}
    for name, pair in {"same": (right, right), "lost": (right, wrong), "never": (wrong, wrong)}.items():
        verdict = judge(text, *pair)
        assert verdict is not None
        verdicts[name] = (verdict.kept, bool(verdict.wrong), bool(verdict.reference_wrong))
    assert verdicts == {"same": (True, False, False), "lost": (False, True, False), "never": (True, True, True)}


def test_only_the_checkpoint_that_declares_it_is_judged() -> None:
    native = Geometry(2, 4, 16, 16, 64, 64, 77, 32)
    assert has_captions("shapes-64", native)
    assert not has_captions("tiny", native)
    assert not has_captions("shapes-64", Geometry(2, 4, 32, 32, 128, 128, 77, 32))
