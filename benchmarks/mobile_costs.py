"""MobileDiffusion's design rules one after the other at full size: what one UNet call costs on both phones, predicted.

    python -m benchmarks.mobile_costs WORK [NAME ...]

Each row is a checkpoint of random weights, written to WORK and exported (the UNet alone, one row, 512 × 512 pixels) for
iPhone 15 Pro's Neural Engine and Galaxy S23 Ultra's GPU as `sdmobile export` does it; the latency model reads the
files. Minutes and up to 12 GB of memory per export; a row that is in WORK/costs.json is not done again. NAMEs choose
rows by the start of their names. Prints a Markdown table.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.mobile_diffusion import steps
from sdmobile.basics.files import write_json
from sdmobile.cli.profile import unit_for
from sdmobile.exporters.bundle import export_bundle
from sdmobile.exporters.cache import ComponentCache
from sdmobile.exporters.request import ExportRequest, make_plan
from sdmobile.families import family_named
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.models.configurations import DECODER
from sdmobile.prediction.assess import assess
from tests.synthetic import write_checkpoint

DEVICES = {"ios": "iphone-15-pro", "android": "galaxy-s23-ultra"}
_TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
}
"""CLIP ViT-L/14, as Stable Diffusion 1.x has it."""
_BESIDE = {"thin decoder": "vae_decoder", "text encoder": "text_encoder"}
_VAE = {"block_out_channels": (16, 16, 16, 16), "norm_num_groups": 16, "sample_size": 512, "layers_per_block": 1}


def priced(checkpoint: Path, component: str, work: Path) -> dict[str, Any]:
    """Returns seconds, peak of memory and bytes of a component's files on both phones."""
    found: dict[str, Any] = {}
    for target, device in DEVICES.items():
        out = work / f"bundle-{target}"
        request = ExportRequest(
            checkpoint, target, out, device, (component,), guidance="separate", overwrite=True, structures=False
        )
        export_bundle(make_plan(request), ComponentCache(None), lambda *_: None, ignore_limits=True)
        bundle = open_bundle(out, verify=False)
        cost = next(one for one in assess(bundle, unit_for(bundle, device, None)).components if one.name == component)
        found[target] = {
            "seconds": cost.prediction.seconds,
            "peak": max(memory.peak for memory in cost.memory),
            "bytes": cost.file_bytes,
        }
        shutil.rmtree(out)
    return found


def write(folder: Path, unet: dict[str, Any]) -> Path:
    """Writes a checkpoint of a UNet's configuration, with CLIP's text encoder and as small an encoder as may be."""
    latent = unet["in_channels"]
    vae = {**_VAE, **DECODER, "latent_channels": latent}
    index = {
        "unet": ["sdmobile.models.unet", "MobileUNet2DConditionModel"],
        "vae": ["sdmobile.models.autoencoder", "MobileAutoencoderKL"],
    }
    instead = {"unet": dict(unet), "vae": vae, "text_encoder": dict(_TEXT)}
    return write_checkpoint(folder, changes={"index": index}, family=family_named("mobile-diffusion"), instead=instead)


def main(work: Path, names: list[str]) -> None:
    """Prices the rows that are missing and prints the table."""
    work.mkdir(parents=True, exist_ok=True)
    record = work / "costs.json"
    rows: dict[str, Any] = json.loads(record.read_text("utf-8")) if record.exists() else {}
    jobs = [(name, "unet", config) for name, config in steps()]
    jobs += [(name, component, jobs[-1][2]) for name, component in _BESIDE.items()]
    for name, component, config in jobs:
        if name in rows or not any(name.startswith(start) for start in names or [""]):
            continue
        checkpoint = write(work / "checkpoint", config)
        rows[name] = priced(checkpoint, component, work)
        shutil.rmtree(checkpoint)
        write_json(record, rows)
    print("| | iPhone 15 Pro, ms | memory, MB | file, MB | S23 Ultra, ms | memory, MB | file, MB |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        cells = [
            f"{1e3 * row[target]['seconds']:.0f} | {row[target]['peak'] / 1e6:.0f} | {row[target]['bytes'] / 1e6:.0f}"
            for target in DEVICES
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
