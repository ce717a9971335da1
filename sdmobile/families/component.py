"""The parts that a family is composed of: models, components, and how sampling is guided.

A *model* is a network of the checkpoint; a *component* is what becomes a file on the phone. Several components may be
cut from one model: the two halves of an autoencoder are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from sdmobile.families.streams import ArrayNetwork, Streams

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from sdmobile.families.original_names import Source
    from sdmobile.formats.bundle.contracts import Geometry

    Arrays = Mapping[str, NDArray[Any]]
    Run = Callable[[str, Arrays], Arrays]
    """Computes a component: its name and canonical inputs to its canonical outputs."""
    Encode = Callable[[NDArray[Any]], NDArray[Any]]
    """Computes the latent of a picture, [1, C, h, w] from [1, 3, H, W], not scaled."""

Shapes = Mapping[str, "tuple[int, ...]"]
Config = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """One network of a checkpoint.

    Args:
        name: its folder in a Diffusers checkpoint.
        classes: Diffusers' or Transformers' classes that it may be of; a single file is read as the first.
        build: makes the module of a configuration; called under torch's meta device.
        derive: configuration keys that the shapes of its tensors determine; what is missing determines nothing.
        check: raises UnsupportedError where class name and configuration ask for what is not supported.
        prefixes: what the names of its tensors begin with in a single file of the original layout; empty where it is
            read from folders alone.
        sources: where each weight by Diffusers' name lies in a single file, by the shapes of the tensors under the
            prefixes; raises LookupError or ValueError for names that are not those of the layout.
        base_config: what the layout of a single file implies beyond shapes, from shapes by Diffusers' names and from
            the names that are stored.
        spare: tensors of a single file under the model's prefixes that are no part of it, each with the reason.
        unused: what the names of stored tensors begin with that its module has no place for.
        unused_by: further ones, by the configuration.
        within: what names of its tensors may begin with: the module's name in a larger one that was saved.
    """

    name: str
    classes: tuple[str, ...]
    build: Callable[[Config], nn.Module]
    derive: Callable[[Shapes], Config]
    check: Callable[[str, Config], None]
    prefixes: tuple[str, ...] = ()
    sources: Callable[[Shapes], Mapping[str, Source]] = lambda shapes: {}
    base_config: Callable[[Shapes, Sequence[str]], Config] = lambda shapes, names: {}
    spare: Callable[[Sequence[str]], Mapping[str, str]] = lambda names: {}
    unused: tuple[str, ...] = ()
    unused_by: Callable[[Config], tuple[str, ...]] = lambda config: ()
    within: str = ""


class Role(str, Enum):
    """What a component is for."""

    TEXT_ENCODER = "text encoder"
    DENOISER = "denoiser"
    DECODER = "decoder"
    IMAGE_ENCODER = "image encoder"
    CONTROL = "control network"  # called with the denoiser, whose inputs it takes
    PLUGIN = "control plugin"  # called once per picture


class Kind(str, Enum):
    """What the axes of a canonical array mean, from which its layout and type in a target's file follow."""

    PIXELS = "pixels"  # (batch, channels, height, width)
    TOKEN_IDS = "token ids"  # (batch, tokens), integers
    FEATURES = "features"  # (batch, tokens, width), as a text encoder returns them
    CONTEXT = "context"  # (batch, tokens, width), as a denoiser takes them
    TIMESTEPS = "timesteps"  # (batch,)
    VECTOR = "vector"  # (batch, width)
    COLUMN = "column"  # (batch, width), with two unit axes more in an iPhone's file


@dataclass(frozen=True)
class Value:
    """One canonical array that a component takes or returns.

    Args:
        name: canonical name.
        kind: what its axes mean.
        shape: from the sizes of an export.
        description: one sentence for metadata; "{rows}" stands for which guidance rows it has.
    """

    name: str
    kind: Kind
    shape: Callable[[Geometry], tuple[int, ...]]
    description: str


@dataclass(frozen=True)
class FileNames:
    """What a target calls a component's file, its signature, its inputs in order and its outputs."""

    file: str
    signature: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Component:
    """What becomes one file (or a chain of files) on the phone.

    Args:
        name: canonical name.
        role: what it is for.
        model: name of the model that holds it.
        summary: one sentence for the file's metadata.
        inputs, outputs: canonical arrays in order.
        files: names by target.
        wrap: gives a model the interface of a target's file; the flag says whether pixels lie channels-last.
        reference: runs the model as its library does, unwrapped, on canonical inputs; a tuple where there are several
            outputs.
        streams: quantities of a wrapped model whose scale is free; see `families.streams`.
        arrays: what observes those streams without PyTorch, from the model's configuration and the names of its
            weights; None where it has no streams.
    """

    name: str
    role: Role
    model: str
    summary: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    files: Mapping[str, FileNames]
    wrap: Callable[[nn.Module, bool], nn.Module]
    reference: Callable[[Any, Mapping[str, Tensor]], Tensor | tuple[Tensor, ...]]
    streams: Callable[[nn.Module], Streams] = lambda module: Streams()
    arrays: Callable[[Config, Collection[str]], ArrayNetwork | None] = lambda config, names: None


@dataclass(frozen=True)
class Row:
    """What one prediction of a guided step is given beside the noisy latent.

    Args:
        name: in formulas.
        prompt: the prompt; else the negative text.
        picture: the channels of a picture, where the denoiser takes any; else zeros.
    """

    name: str
    prompt: bool
    picture: bool = True


UNCONDITIONAL, TEXT = Row("uncond", prompt=False), Row("text", prompt=True)


@dataclass(frozen=True)
class Guidance:
    """How the rows of a guided step are computed.

    Args:
        name: what `--guidance` and the manifest call it.
        rows: batch of one call of the denoiser: all of the family's rows, or one.
        calls: of the denoiser in one step.
        texts: encoded for one picture.
        sentence: says it in a model card.
    """

    name: str
    rows: int
    calls: int
    texts: int
    sentence: str

    def calls_of(self, role: Role, steps: int) -> int:
        """Returns how often a component is called for one picture of so many steps."""
        predicting = dict.fromkeys((Role.DENOISER, Role.CONTROL), steps * self.calls)
        return {Role.TEXT_ENCODER: self.texts, **predicting, Role.DECODER: 1, Role.PLUGIN: 1}.get(role, 0)


BATCH2 = Guidance("batch2", rows=2, calls=1, texts=2, sentence="both guidance rows in one UNet call")
SEPARATE = Guidance("separate", rows=1, calls=2, texts=2, sentence="one UNet call per row")
UNGUIDED = Guidance("none", rows=1, calls=1, texts=1, sentence="no guidance")
EMBEDDED = Guidance("embedded", rows=1, calls=1, texts=1, sentence="the guidance scale is an input of the denoiser")
