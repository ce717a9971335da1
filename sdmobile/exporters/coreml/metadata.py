"""What a Core ML package says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdmobile.exporters.lowering import Provenance
    from sdmobile.formats.bundle.contracts import Contract

_SUMMARY = {
    "text_encoder": "Text encoder: token ids to text features",
    "unet": "Denoiser: noisy latents, timestep and text features to a prediction",
    "vae_decoder": "Image decoder: latents to a picture",
    "vae_encoder": "Image encoder: a picture to the distribution of its latents",
}


def describe(model: Any, contract: Contract, provenance: Provenance) -> None:
    """Fills author, licence, version, descriptions and sdmobile's own keys of a coremltools model."""
    model.author = f"{provenance.name}; converted by sdmobile"
    model.license = provenance.license or "unknown; see the source of the checkpoint"
    model.version = provenance.version
    model.short_description = f"{_SUMMARY[contract.component]}. From {provenance.name}."
    for spec in contract.inputs:
        model.input_description[spec.name] = spec.description
    for spec in contract.outputs:
        model.output_description[spec.name] = spec.description
    model.user_defined_metadata.update(provenance.entries(contract.component))
