"""Stage "relu": ReLU in the place of softmax, in every attention of the mobile UNet.

    O = c·relu(q kᵀ/√d) v,  c = 1/N
    γ_h = ⟨O_soft, O_relu⟩ / ⟨O_relu, O_relu⟩            per head, folded into the columns of W_O that read the head

Zhao et al., arXiv 2311.16567; c by Wortsman et al., arXiv 2309.08586.
Folding γ into W_V is the same function where keys and values have projections of their own; where they share one, only
W_O has room for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sdmobile.models.attention import AttnProcessor
from sdmobile.models.unet import MobileUNet2DConditionModel, attention_layers, set_relu_attention
from sdmobile.training.mobile.structure import train_structure
from sdmobile.training.mobile.student import copy_of, finished, keep, student_trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from sdmobile.training.loop import Progress
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.world import World

NAME = "relu"
NORMALISERS = {"self": "length", "cross": "length"}
FEATURES = 0.02
"""Weight of the error of the attention layers' outputs, beside that of the prediction."""


@torch.no_grad()
def fold_gains(unet: MobileUNet2DConditionModel, run: Callable[[], object]) -> dict[str, list[float]]:
    """Multiplies the ReLU outputs of every head by the gain that brings them nearest to the softmax outputs.

    Args:
        unet: with softmax attention; its output projections are changed in place, for ReLU attention.
        run: calls the UNet once on an ordinary batch.

    Returns:
        The gains per head by layer.
    """
    layers = attention_layers(unet)
    gains: dict[str, list[float]] = {}
    relu, softmax = AttnProcessor("length"), AttnProcessor("softmax")

    def listen(name: str) -> Callable[..., None]:
        def measure(layer: Any, inputs: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            context = kwargs.get("encoder_hidden_states")
            context = inputs[0] if context is None else context
            wanted, given = (how.mixed(layer, inputs[0], context) for how in (softmax, relu))
            gain = (wanted * given).sum(dim=(0, 2, 3)) / given.square().sum(dim=(0, 2, 3)).clamp(min=1e-12)
            gains[name] = [float(value) for value in gain]

        return measure

    hooks = [layer.register_forward_pre_hook(listen(name), with_kwargs=True) for name, layer in layers.items()]
    run()
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        columns = torch.tensor(gains[name]).repeat_interleave(layer.to_q.out_features // layer.heads)
        layer.to_out[0].weight *= columns.to(layer.to_out[0].weight)
    return gains


class _Heard:
    """Outputs of the attention layers in the last call of a UNet, in the order of the layers."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.outputs: list[Tensor] = []
        unet.register_forward_pre_hook(lambda *_: self.outputs.clear())
        for layer in attention_layers(unet).values():
            layer.register_forward_hook(lambda _layer, _inputs, output: self.outputs.append(output))


def feature_loss(given: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Returns Σ ‖O_S − O_T‖² / ‖O_T‖² over layers."""
    terms = [(a.float() - b).square().sum() / b.square().sum() for a, b in zip(given, wanted, strict=True)]
    return torch.stack(terms).sum()


def train_relu(config: MobileConfig, world: World, progress: Progress) -> Any:
    """Fine-tunes the mobile UNet to its own softmax predictions with ReLU attention, or returns the finished one.

        L = mean w(t)·‖ε_S − ε_T‖² + 0.02·Σ_layers ‖O_S − O_T‖² / ‖O_T‖²

    Args:
        config: the run.
        world: data.
        progress: called with step, steps and loss.
    """
    if (unet := finished(config, NAME)) is not None:
        return unet
    teacher = train_structure(config, world, progress)
    student = copy_of(teacher)
    first = world.batch((config.seed, 33), config.relu.batch, config.dropout)
    fold_gains(student, lambda: student(first.noisy, first.timesteps, first.states))
    set_relu_attention(student, NORMALISERS)
    heard, wanted = _Heard(student), _Heard(teacher)
    trainer = student_trainer(config, NAME, student, config.relu)
    teacher.to(trainer.accelerator.device)

    def loss_at(step: int) -> Tensor:
        batch = world.batch((config.seed, 34, step), config.relu.batch, config.dropout)
        noisy, timesteps, states = (trainer.share(x) for x in (batch.noisy, batch.timesteps, batch.states))
        with torch.no_grad():
            target = teacher(noisy, timesteps, states, return_dict=False)[0]
        predicted = trainer.module(noisy, timesteps, states)
        return world.loss(predicted, target, timesteps) + FEATURES * feature_loss(heard.outputs, wanted.outputs)

    trainer.run(loss_at, config.output / f"log-{NAME}.jsonl", config.save_every, progress)
    return keep(config, NAME, trainer)
