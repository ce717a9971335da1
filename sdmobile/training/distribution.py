"""Drawn pictures beside rendered ones: how far the two sets are apart, and how much a caption leaves open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.checkpoints.shapes64.captions import caption
from sdmobile.checkpoints.shapes64.checker import cell_of, read_picture
from sdmobile.checkpoints.shapes64.held_out import held_out_captions
from sdmobile.checkpoints.shapes64.scenes import render, sample_scene
from sdmobile.training.evaluate import draw_all
from sdmobile.training.features import features_of, load_features
from sdmobile.training.quality import entropy_bits, kernel_distance, precision_recall

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdmobile.checkpoints.shapes64.captions import Caption
    from sdmobile.checkpoints.shapes64.scenes import Scene
    from sdmobile.training.evaluate import Draw
    from sdmobile.training.features import FeatureNet

FEATURES_FILE = Path(__file__).resolve().parent.parent / "data" / "shapes-64-features.safetensors"
SEEDS = 64
FEWEST = 8
"""Pictures of each set: halves of four have a third neighbour."""
CAPTIONS = 4
"""Captions that are silent on the background, and as many that are silent on the place; each is drawn `SEEDS` times."""
_REAL, _DRAWN, _OTHER = 8_000_000, 8_100_000, 8_200_000  # seeds of scenes


def measure_distribution(
    draw: Draw, autoencoder: Any | None, pictures: int, progress: Callable[[int, int], None], seeds: int = SEEDS
) -> dict[str, Any]:
    """Compares drawn pictures with rendered ones, in features of a network that was trained on renderings.

    Args:
        draw: makes the pictures.
        autoencoder: of the checkpoint, for its floor; None to leave that out.
        pictures: N, of each set.
        progress: called with pictures done and all.
        seeds: pictures of one caption, whose entropy is taken.

    Returns:
        `kid` (mean, standard deviation), `precision` and `recall` of N drawn pictures against N rendered ones; the same
        under `floors` for other renderings and for those through the autoencoder; `bits`, the entropy of what a caption
        leaves open, and of as many even choices; `features_sha256`.
    """
    net, digest = load_features(FEATURES_FILE)
    scenes = _scenes(_DRAWN, pictures)
    total = pictures + 2 * CAPTIONS * seeds
    drawn: list[np.ndarray] = []
    prompts = [caption(np.random.default_rng([_DRAWN, seed]), scene).text for seed, scene in enumerate(scenes)]
    for picture in draw_all(draw, prompts, range(pictures)):
        drawn.append(picture)
        progress(len(drawn), total)
    real = _features(net, [render(scene) for scene in _scenes(_REAL, pictures)])
    other = [render(scene) for scene in _scenes(_OTHER, pictures)]
    floors = {"renderer": _against(real, _features(net, other))}
    if autoencoder is not None:
        floors["autoencoder"] = _against(real, _features(net, decoded(autoencoder, other)))
    bits = _bits(draw, seeds, lambda done: progress(pictures + done, total))
    found = _against(real, _features(net, drawn))
    return {"pictures": pictures, **found, "floors": floors, "bits": bits, "features_sha256": digest}


def _scenes(seed: int, count: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


def _features(net: FeatureNet, pictures: list[np.ndarray]) -> np.ndarray:
    return features_of(net, np.stack(pictures))


def _against(real: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    precision, recall = precision_recall(real, drawn)
    return {"kid": list(kernel_distance(real, drawn)), "precision": precision, "recall": recall}


def decoded(autoencoder: Any, pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Returns pictures after the autoencoder, by the mean of each latent."""
    import torch

    from sdmobile.basics.metrics import to_pixels
    from sdmobile.training.data import to_tensor

    found: list[np.ndarray] = []
    with torch.no_grad():
        for start in range(0, len(pictures), 64):
            latent = autoencoder.encode(to_tensor(pictures[start : start + 64])).latent_dist.mean
            found += [to_pixels(row[None].numpy()) for row in autoencoder.decode(latent).sample]
    return found


def _bits(draw: Draw, seeds: int, progress: Callable[[int], None]) -> dict[str, list[float]]:
    """Returns mean entropies of what captions leave open: of the pictures, and of even choices (the renderer's)."""
    rng, done, found = np.random.default_rng(_OTHER), 0, {}
    for name, prior, silent in (
        ("background", 4, lambda claims: claims.background is None),
        ("place", 9, lambda claims: len(claims.items) == 1 and claims.place is None),
    ):
        drawn, ideal = [], []
        for one in _captions(silent):
            values = []
            for picture in draw_all(draw, [one.text] * seeds, range(seeds)):
                values.append(_read(name, picture))
                done += 1
                progress(done)
            drawn.append(entropy_bits(values))
            ideal.append(entropy_bits(rng.integers(prior, size=seeds).tolist()))
        found[name] = [float(np.mean(drawn)), float(np.mean(ideal))]
    return found


def _captions(silent: Callable[[Any], bool]) -> list[Caption]:
    return [one for one in held_out_captions(1000) if silent(one.claims)][:CAPTIONS]


def _read(name: str, image: np.ndarray) -> object:
    """Returns what a picture shows; one with no object, or several, is at no place."""
    reading = read_picture(image)
    if name == "background":
        return reading.background
    return cell_of(reading.items[0]) if len(reading.items) == 1 else None
