"""Modules that give a component the interface that its target's contract asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sdmobile.families.tiny_autoencoder import moments


class _Wrapper(nn.Module):
    """Holds the component; layout changes are explicit permutes, which the converters cancel or fold."""

    def __init__(self, component: nn.Module, channels_last: bool) -> None:
        super().__init__()
        self.component = component
        self.channels_last = channels_last

    def enter(self, x: Tensor) -> Tensor:
        """Returns the file's layout as (N, C, H, W)."""
        return x.permute(0, 3, 1, 2) if self.channels_last else x

    def leave(self, x: Tensor) -> Tensor:
        """Returns (N, C, H, W) as the file's layout."""
        return x.permute(0, 2, 3, 1) if self.channels_last else x


class TextEncoder(_Wrapper):
    """Token ids (1, S), int32 or float32 -> last hidden state (1, S, D)."""

    def forward(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point():
            ids = ids.to(torch.int32)
        return self.component(input_ids=ids).last_hidden_state


class UNet(_Wrapper):
    """Latents, timestep (B,) and context -> prediction in the latents' layout."""

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        if encoder_hidden_states.ndim == 4:  # (B, D, 1, S) of the Neural Engine
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        prediction = self.component(self.enter(sample), timestep, encoder_hidden_states, return_dict=False)[0]
        return self.leave(prediction)


class UNetWithVector(_Wrapper):
    """As `UNet`, with one more input per row, (B, D), which the network takes under a name.

    Args:
        component: a UNet2DConditionModel.
        channels_last: whether latents lie so in the file.
        argument: name of the vector in the network's forward.
    """

    def __init__(self, component: nn.Module, channels_last: bool, argument: str) -> None:
        super().__init__(component, channels_last)
        self.argument = argument

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, vector: Tensor) -> Tensor:
        if encoder_hidden_states.ndim == 4:
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        further = {self.argument: vector}
        latent = self.enter(sample)
        return self.leave(self.component(latent, timestep, encoder_hidden_states, return_dict=False, **further)[0])


class ControlledUNet(_Wrapper):
    """As `UNet`, with the feature maps of a control network as further inputs, each in the latents' layout.

    Args:
        component: a UNet that takes them.
        channels_last: whether latents and feature maps lie so in the file.
        arguments: of the network's forward, from the feature maps.
    """

    def __init__(
        self,
        component: nn.Module,
        channels_last: bool,
        arguments: Callable[[tuple[Tensor, ...]], dict[str, Any]],
    ) -> None:
        super().__init__(component, channels_last)
        self.arguments = arguments

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, *residuals: Tensor) -> Tensor:
        if encoder_hidden_states.ndim == 4:
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        further = self.arguments(tuple(self.enter(one) for one in residuals))
        latent = self.enter(sample)
        return self.leave(self.component(latent, timestep, encoder_hidden_states, return_dict=False, **further)[0])


class ControlNet(_Wrapper):
    """What the UNet takes, and a picture -> a residual for every kept feature map and for the middle."""

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, picture: Tensor
    ) -> tuple[Tensor, ...]:
        if encoder_hidden_states.ndim == 4:
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        latent, condition = self.enter(sample), self.enter(picture)
        down, mid = self.component(latent, timestep, encoder_hidden_states, condition, return_dict=False)
        return tuple(self.leave(one) for one in (*down, mid))


class ControlPlugin(_Wrapper):
    """A picture -> a feature map for every level of the UNet."""

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.leave(one) for one in self.component(self.enter(picture)))


class VaeDecoder(_Wrapper):
    """Latents divided by the scaling factor -> image in [-1, 1]."""

    def __init__(self, component: Any, channels_last: bool) -> None:
        nn.Module.__init__(self)
        self.channels_last = channels_last
        # Only the decoding half is held, so that the other half's weights are not captured.
        self.post_quant_conv = component.post_quant_conv or nn.Identity()
        self.decoder = component.decoder

    def forward(self, latent: Tensor) -> Tensor:
        return self.leave(self.decoder(self.post_quant_conv(self.enter(latent))))


class TinyDecoder(_Wrapper):
    """Latents -> image in [-1, 1], by an AutoencoderTiny.

    `folded` has factor and offset that converters may put into the convolutions beside 3·tanh(z/3) and 2·y − 1.
    """

    def __init__(self, component: Any, channels_last: bool) -> None:
        nn.Module.__init__(self)
        self.channels_last = channels_last
        self.decoder = component.decoder
        last = f"decoder.layers.{len(component.decoder.layers) - 1}"
        self.folded = {
            "decoder.layers.0.weight": (3.0, 0.0),
            f"{last}.weight": (2.0, 0.0),
            f"{last}.bias": (2.0, -1.0),
        }

    def forward(self, latent: Tensor) -> Tensor:
        return self.leave(self.decoder(self.enter(latent)))


class TinyEncoder(_Wrapper):
    """Image in [-1, 1] -> latents of an AutoencoderTiny as a distribution without spread; see `moments`."""

    def __init__(self, component: Any, channels_last: bool) -> None:
        nn.Module.__init__(self)
        self.channels_last = channels_last
        self.encoder = component.encoder
        self.folded = {"encoder.layers.0.weight": (0.5, 0.0)}  # of (x + 1)/2, see `TinyDecoder`

    def forward(self, image: Tensor) -> Tensor:
        return self.leave(moments(self.encoder(self.enter(image))))


class VaeEncoder(_Wrapper):
    """Image in [-1, 1] -> mean and log-variance, stacked along the channels."""

    def __init__(self, component: Any, channels_last: bool) -> None:
        nn.Module.__init__(self)
        self.channels_last = channels_last
        self.encoder = component.encoder
        self.quant_conv = component.quant_conv or nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        return self.leave(self.quant_conv(self.encoder(self.enter(image))))
