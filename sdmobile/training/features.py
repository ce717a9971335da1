"""A small network that reads shapes-64 pictures; its last layer but one tells how far two pictures are apart."""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sdmobile.checkpoints.shapes64.scenes import BACKGROUNDS, COLOURS, RADII, SHAPES, render, sample_scene
from sdmobile.training.data import to_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from sdmobile.checkpoints.shapes64.scenes import Scene

FEATURES = 64
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
_ARRANGEMENTS = (*((column, row) for row in _ROWS for column in _COLUMNS), "x", "y")
_ITEM = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(RADII)}
HEADS: dict[str, int] = {
    "background": len(BACKGROUNDS),
    "arrangement": len(_ARRANGEMENTS),
    **{f"{name} {order}": len(values) for order in (1, 2) for name, values in _ITEM.items()},
}
"""What is read, and of how many classes; a second item that is not there counts for nothing."""
_ABSENT = -100  # what cross_entropy leaves out


class FeatureNet(nn.Module):
    """Four strided convolutions, the 64 features, and one linear layer per question.

    Pictures in [-1, 1], [N, 3, 64, 64] → features [N, 64], each with mean 0 and variance 1 over rendered scenes: a
    distance with a cubic kernel would else be that of the few that vary most.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU(), nn.GroupNorm(8, after)]
        self.convolutions = nn.Sequential(*layers)
        # 16 cells are kept apart: where an item is matters as much as what it is.
        self.features = nn.Linear(96 * 16, FEATURES)
        self.heads = nn.ModuleDict({_key(name): nn.Linear(FEATURES, count) for name, count in HEADS.items()})
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))

    def forward(self, pictures: Tensor) -> Tensor:
        """Returns the features."""
        return (self.features(self.convolutions(pictures).flatten(1)) - self.mean) / self.deviation

    def answers(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the logits of every question, [N, classes] each."""
        hidden = functional.silu(features * self.deviation + self.mean)
        return {name: self.heads[_key(name)](hidden) for name in HEADS}


def _key(name: str) -> str:
    return name.replace(" ", "_")


def labels_of(scene: Scene) -> dict[str, int]:
    """Returns the class of every question."""
    arrangement = scene.place if scene.place is not None else scene.axis
    found = {
        "background": list(BACKGROUNDS).index(scene.background),
        "arrangement": list[object](_ARRANGEMENTS).index(arrangement),
    }
    for order in (1, 2):
        item = scene.items[order - 1] if len(scene.items) >= order else None
        for name, values in _ITEM.items():
            found[f"{name} {order}"] = _ABSENT if item is None else values.index(getattr(item, name))
    return found


def reading_loss(net: FeatureNet, pictures: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Returns the mean cross-entropy over the questions."""
    labels = [labels_of(scene) for scene in scenes]
    answers = net.answers(net(pictures))
    losses = [
        functional.cross_entropy(answers[name], torch.tensor([row[name] for row in labels]), ignore_index=_ABSENT)
        for name in HEADS
    ]
    return torch.stack(losses).mean()


def train_features(steps: int, batch: int, seed: int, progress: Callable[[int, int, float], None]) -> FeatureNet:
    """Trains the network on rendered scenes, each seen once, with a little noise over them.

    Args:
        steps: of Adam, the learning rate falling linearly to zero.
        batch: scenes per step.
        seed: of weights, scenes and noise.
        progress: called with step, steps and loss.
    """
    torch.manual_seed(seed)
    net, rng = FeatureNet(), np.random.default_rng(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        scenes = [sample_scene(rng) for _ in range(batch)]
        pictures = rendered(scenes)
        loss = reading_loss(net, pictures + 0.05 * torch.randn(pictures.shape), scenes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            progress(step + 1, steps, float(loss.detach()))
    net.eval().requires_grad_(False)
    standardise(net, seed)
    return net


def standardise(net: FeatureNet, seed: int) -> None:
    """Gives every feature mean 0 and variance 1 over 4,096 scenes; the answers stay the same."""
    rng = np.random.default_rng([seed, 1])
    with torch.no_grad():
        found = torch.cat([net(rendered([sample_scene(rng) for _ in range(256)])) for _ in range(16)])
    net.mean, net.deviation = net.mean + net.deviation * found.mean(0), net.deviation * found.std(0)


def rendered(scenes: Sequence[Scene]) -> Tensor:
    """Returns pictures in [-1, 1], float32 [N, 3, 64, 64]."""
    return to_tensor([render(scene) for scene in scenes])


def held_out_accuracy(net: FeatureNet, count: int = 1000) -> float:
    """Returns the share of right answers on rendered scenes of held-out combinations."""
    rng = np.random.default_rng(9_000_000)
    scenes = [sample_scene(rng, held_out=True) for _ in range(count)]
    with torch.no_grad():
        answers = net.answers(net(rendered(scenes)))
    right = [
        int(answers[name][row].argmax()) == label
        for row, scene in enumerate(scenes)
        for name, label in labels_of(scene).items()
        if label != _ABSENT
    ]
    return sum(right) / len(right)


def save_features(net: FeatureNet, file: Path, overwrite: bool = False) -> None:
    """Writes the weights, whole or not at all; raises as `write_whole`."""
    from safetensors.torch import save

    from sdmobile.basics.files import write_whole

    write_whole(file, save({name: tensor.contiguous() for name, tensor in net.state_dict().items()}), overwrite)


@cache
def load_features(file: Path) -> tuple[FeatureNet, str]:
    """Returns the network and the SHA-256 of its file: figures of two networks must not be compared."""
    from safetensors.torch import load

    content = file.read_bytes()
    net = FeatureNet()
    net.load_state_dict(load(content))
    return net.eval().requires_grad_(False), hashlib.sha256(content).hexdigest()


def features_of(net: FeatureNet, pictures: np.ndarray) -> np.ndarray:
    """Returns the features of uint8 pictures [N, 64, 64, 3], float64 [N, 64]."""
    with torch.no_grad():
        parts = [net(to_tensor(list(pictures[start : start + 256]))) for start in range(0, len(pictures), 256)]
    return torch.cat(parts).double().numpy()
