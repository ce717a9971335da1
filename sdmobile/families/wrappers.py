"""Modules that give a component the interface that its target's contract asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sdmobile.families.tiny_autoencoder import moments


class Wrapper(nn.Module):
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


class TextEncoder(Wrapper):
    """Token ids (1, S), int32 or float32 -> last hidden state (1, S, D)."""

    def forward(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point():
            ids = ids.to(torch.int32)
        return self.component(input_ids=ids).last_hidden_state


class PooledTextEncoder(Wrapper):
    """Token ids (1, S), int32 or float32 -> hidden state before the last layer (1, S, D), pooled features (1, P).

    The row that is pooled is that of the first token that ends a text. It is found by looking the tokens up in a table
    that is 1 in that token's row alone, since an Android GPU neither searches integers nor takes a row by a number:

        e_i = table[id_i],  first_i = e_i · max(0, 1 − Σ_{j<i} e_j),  pooled = P · Σ_i first_i · h_i

    Args:
        component: CLIP's text model, with `text_projection` where P is not the identity.
        channels_last: has no effect.
        end: identifier of the token that ends a text.
    """

    ends: Tensor
    later: Tensor

    def __init__(self, component: Any, channels_last: bool, end: int) -> None:
        super().__init__(component, channels_last)
        rows, length = (getattr(component.config, key) for key in ("vocab_size", "max_position_embeddings"))
        self.register_buffer("ends", torch.eye(rows, 1).roll(end, 0), persistent=False)
        self.register_buffer("later", torch.ones(length, length).triu(1), persistent=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        if ids.is_floating_point():
            ids = ids.to(torch.int32)
        output = self.component(input_ids=ids, output_hidden_states=True)
        ends = nn.functional.embedding(ids, self.ends).transpose(1, 2)
        first = ends * torch.relu(1 - ends @ self.later)
        pooled = (first @ output.last_hidden_state).squeeze(1)
        projection = getattr(self.component, "text_projection", nn.Identity())
        return output.hidden_states[-2], projection(pooled)


class UNet(Wrapper):
    """Latents, timestep (B,) and context -> prediction in the latents' layout."""

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        if encoder_hidden_states.ndim == 4:  # (B, D, 1, S) of the Neural Engine
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        prediction = self.component(self.enter(sample), timestep, encoder_hidden_states, return_dict=False)[0]
        return self.leave(prediction)


class UNetWithVector(Wrapper):
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


class UNetXL(Wrapper):
    """As `UNet`, with sizes of the picture (B, 6) and pooled text features (B, P) as further inputs."""

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, time_ids: Tensor, text_embeds: Tensor
    ) -> Tensor:
        if encoder_hidden_states.ndim == 4:
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        added = {"time_ids": time_ids, "text_embeds": text_embeds}
        arguments = (self.enter(sample), timestep, encoder_hidden_states)
        return self.leave(self.component(*arguments, added_cond_kwargs=added, return_dict=False)[0])


class MultiModalTransformer(Wrapper):
    """Latents, timestep (B,), text features (B, S, D) and pooled text (B, P) -> velocity in the latents' layout.

    Args:
        component: an SD3Transformer2DModel.
        channels_last: whether latents lie so in the file.
        fill: adds the rows of text that the file is not given.
    """

    def __init__(self, component: nn.Module, channels_last: bool, fill: Callable[[Tensor], Tensor]) -> None:
        super().__init__(component, channels_last)
        self.fill = fill

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, pooled: Tensor) -> Tensor:
        if encoder_hidden_states.ndim == 4:  # (B, D, 1, S), with (B, P, 1, 1), as Apple's package gives them
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
            pooled = pooled.flatten(1)
        text = self.fill(encoder_hidden_states)
        return self.leave(self.component(self.enter(sample), text, pooled, timestep, return_dict=False)[0])


class ControlledUNet(Wrapper):
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


class _Scaled(Wrapper):
    """A network whose outputs are multiplied by a number, which changes no file where it is 1.

    `folded` has the factor that converters may put into the convolutions before it, see `TinyDecoder`; `last` is what
    their names begin with.
    """

    last: tuple[str, ...]

    def __init__(self, component: nn.Module, channels_last: bool, scale: float = 1.0) -> None:
        super().__init__(component, channels_last)
        self.scale = scale
        names = [name for name, _ in component.named_parameters() if name.startswith(self.last)]
        self.folded = {} if scale == 1 else {f"component.{name}": (scale, 0.0) for name in names}

    def leave_all(self, outputs: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Returns feature maps, scaled, in the file's layout."""
        return tuple(self.leave(one if self.scale == 1 else one * self.scale) for one in outputs)


class ControlNet(_Scaled):
    """What the UNet takes, and a picture -> a residual for every kept feature map and for the middle."""

    last = ("controlnet_down_blocks.", "controlnet_mid_block.")

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, picture: Tensor
    ) -> tuple[Tensor, ...]:
        if encoder_hidden_states.ndim == 4:
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        latent, condition = self.enter(sample), self.enter(picture)
        down, mid = self.component(latent, timestep, encoder_hidden_states, condition, return_dict=False)
        return self.leave_all((*down, mid))


class ControlPlugin(_Scaled):
    """A picture -> a feature map for every level of the UNet."""

    last = ("conv_out.",)

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        return self.leave_all(self.component(self.enter(picture)))


class VaeDecoder(Wrapper):
    """Latents divided by the scaling factor -> image in [-1, 1]."""

    def __init__(self, component: Any, channels_last: bool) -> None:
        nn.Module.__init__(self)
        self.channels_last = channels_last
        # Only the decoding half is held, so that the other half's weights are not captured.
        self.post_quant_conv = component.post_quant_conv or nn.Identity()
        self.decoder = component.decoder

    def forward(self, latent: Tensor) -> Tensor:
        return self.leave(self.decoder(self.post_quant_conv(self.enter(latent))))


class TinyDecoder(Wrapper):
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


class TinyEncoder(Wrapper):
    """Image in [-1, 1] -> latents of an AutoencoderTiny as a distribution without spread; see `moments`."""

    def __init__(self, component: Any, channels_last: bool) -> None:
        nn.Module.__init__(self)
        self.channels_last = channels_last
        self.encoder = component.encoder
        self.folded = {"encoder.layers.0.weight": (0.5, 0.0)}  # of (x + 1)/2, see `TinyDecoder`

    def forward(self, image: Tensor) -> Tensor:
        return self.leave(moments(self.encoder(self.enter(image))))


class VaeEncoder(Wrapper):
    """Image in [-1, 1] -> mean and log-variance, stacked along the channels."""

    def __init__(self, component: Any, channels_last: bool) -> None:
        nn.Module.__init__(self)
        self.channels_last = channels_last
        self.encoder = component.encoder
        self.quant_conv = component.quant_conv or nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        return self.leave(self.quant_conv(self.encoder(self.enter(image))))
