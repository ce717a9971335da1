"""Checkpoints whose values do not fit float16 though their weights do."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdmobile.checkpoints import open_checkpoint
from sdmobile.exporters.component import export_component
from sdmobile.exporters.job import ExportJob
from sdmobile.families.streams import rescale
from sdmobile.formats.bundle.contracts import Contract
from sdmobile.formats.bundle.reading import BundleComponent
from sdmobile.reference.drawn_pictures import drawn_input
from sdmobile.reference.geometry import geometry_for
from sdmobile.reference.subject import wrapped_component
from sdmobile.rewrites.options import RewriteOptions

DECODER = "vae_decoder"


def scaled_checkpoint(source: Path, folder: Path, prefixes: Sequence[str], factor: float) -> Path:
    """Copies a checkpoint and multiplies those tensors of its autoencoder whose names begin so."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    file = next((folder / "vae").glob("*.safetensors"))
    tensors = load_file(file)
    scaled = [name for name in tensors if name.startswith(tuple(prefixes))]
    assert scaled
    for name in scaled:
        tensors[name] = tensors[name] * factor
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def planted_checkpoint(source: Path, folder: Path, exponent: int) -> Path:
    """Copies a checkpoint and makes the values in all streams of its autoencoder 2^exponent as large.

    The autoencoder computes what it did, but for the share of the norms' epsilons.
    """
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    checkpoint = open_checkpoint(source)
    file = next((folder / "vae").glob("*.safetensors"))
    tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
    for name in ("vae_decoder", "vae_encoder"):
        module = wrapped_component(checkpoint, "onnx", name)
        streams = checkpoint.family.component(name).streams(module)
        rescale(module, streams, dict.fromkeys(streams.names, -exponent))
        tensors |= {name: value.detach().contiguous() for name, value in module.named_parameters()}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def exported_decoder(checkpoint: Path, target: str, out: Path, without: tuple[str, ...] = ()) -> BundleComponent:
    """Exports a checkpoint's image decoder, without composites: the wheel's GPU engine runs none."""
    rewrites = RewriteOptions(plain_ops=True, without=without)
    record = export_component(ExportJob(checkpoint, DECODER, target, None, "batch2", None, out, rewrites))
    contract = Contract.from_json(record["contract"])
    return BundleComponent(DECODER, out / contract.file_name, contract, record)


def drawn_case(checkpoint: Path, contract: Contract) -> tuple[dict[str, Any], np.ndarray]:
    """Returns inputs of the decoder's file, and what the checkpoint as it is makes of them in float32, NCHW."""
    opened = open_checkpoint(checkpoint)
    latent = drawn_input(opened, DECODER, geometry_for(opened, None, None), 256)
    module = wrapped_component(opened, "onnx", DECODER)
    with torch.no_grad():
        expected = module(torch.from_numpy(latent)).numpy()
    return contract.to_target({"latent": latent}), expected
