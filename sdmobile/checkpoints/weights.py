"""Find and read the weight files of a component, whatever their format."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdmobile.checkpoints.headers import TensorInfo, check_readable, read_header
from sdmobile.checkpoints.pickles import load_pickle, read_pickle_header
from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader
    from pathlib import Path

    import torch

    from sdmobile.checkpoints.types import Checkpoint

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
# Names of older Diffusers releases for the VAE's attention.
_RENAMED = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))
# Parts of a full CLIP model, and buffers that can be computed.
_IGNORED_PREFIXES = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")


def find_weights(folder: Path) -> tuple[Path, ...]:
    """Returns the weight files of a component folder: safetensors first, full precision first.

    Raises:
        CheckpointError: there are none, or a shard is missing.
    """
    for suffix in ("safetensors", "fp16.safetensors", "bin", "fp16.bin"):
        for stem in _STEMS:
            if (path := folder / f"{stem}.{suffix}").is_file():
                return (path,)
            if (index := folder / _index_name(stem, suffix)).is_file():
                return _shards(index)
    raise CheckpointError(
        "a component folder must hold weights", f"{folder} has no .safetensors or .bin", "Download it completely."
    )


def _index_name(stem: str, suffix: str) -> str:
    variant, _, extension = suffix.rpartition(".")
    return f"{stem}.{extension}.index.{variant}.json" if variant else f"{stem}.{extension}.index.json"


def _shards(index: Path) -> tuple[Path, ...]:
    check_readable(index)
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        paths = tuple(sorted(index.parent / name for name in names))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("a shard index must be JSON with a weight_map", f"{index}: {error}") from error
    for path in paths:
        if path.parent != index.parent or not path.is_file():
            raise CheckpointError("every shard of the index must be present", path, "Download it completely.")
    return paths


def read_headers(files: tuple[Path, ...]) -> dict[str, TensorInfo]:
    """Returns the tensors of several weight files by their normalised name."""
    tensors: dict[str, TensorInfo] = {}
    for path in files:
        found = read_pickle_header(path) if path.suffix in PICKLE_SUFFIXES else read_header(path)[0]
        for name, info in found.items():
            if (key := normalise(name)) is not None:
                tensors[key] = info
    return tensors


def normalise(name: str) -> str | None:
    """Returns today's name of a stored tensor, None for one that no exported model needs."""
    name = name.removeprefix("text_model.")
    if name.endswith("position_ids") or name.startswith(_IGNORED_PREFIXES):
        return None
    if ".attentions." in name:
        for old, new in _RENAMED:
            name = name.replace(old, new)
    return name


def component_tensors(checkpoint: Checkpoint, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields a model's stored tensors under the names that its module uses.

    Raises:
        CheckpointError: a file cannot be read.
    """
    files = checkpoint.components[name].weight_files
    if checkpoint.format == "single_file":
        model = checkpoint.family.model(name)
        renamed = model.convert(dict(stored_tensors(files, lambda stored: stored.startswith(model.prefixes))))
        # Each tensor is let go as soon as it was used: the stored copy shrinks while the loaded one grows.
        tensors = ((renewed, renamed.pop(renewed)) for renewed in list(renamed))
    else:
        tensors = stored_tensors(files)
    for stored, tensor in tensors:
        key = normalise(stored)
        if key is None:
            continue
        # The old VAE stored its attention's matrices as 1×1 convolutions.
        if ".attentions." in key and ".to_" in key and tensor.dim() == 4:
            tensor = tensor[:, :, 0, 0]
        yield key, tensor


def stored_tensors(
    files: tuple[Path, ...], wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields name and tensor of each stored tensor that is wanted, reading one at a time from safetensors.

    Mapping the file would be as fast, but its pages count as memory of the process.
    """
    for path in files:
        if path.suffix in PICKLE_SUFFIXES:
            # Copied, because the file is mapped.
            yield from ((name, tensor.clone()) for name, tensor in load_pickle(path).items() if wanted(name))
            continue
        header, _ = read_header(path)
        with path.open("rb") as stream:
            for name, info in sorted(header.items(), key=lambda item: item[1].offset):
                if wanted(name):
                    yield name, _read_tensor(stream, info)


def _read_tensor(stream: BufferedReader, info: TensorInfo) -> torch.Tensor:
    import torch

    dtype = getattr(torch, info.dtype)
    if not info.elements:
        return torch.empty(info.shape, dtype=dtype)
    buffer = bytearray(info.bytes)
    stream.seek(info.offset)
    if stream.readinto(buffer) != info.bytes:
        raise CheckpointError("a weight file must not change while it is read", info.file)
    return torch.frombuffer(buffer, dtype=dtype).reshape(info.shape)
