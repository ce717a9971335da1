"""Graphs of public models as Core ML packages, for the calibration of the iPhones.

    python benchmarks/calibration/public_models_coreml.py --work DIR [--libraries DIR] [NAME ...]
    python benchmarks/calibration/public_models_coreml.py --store PACKAGE NAME

Builds the models of `public_models.py` with random weights, converts them as coremltools does by itself (iOS 16,
float16, the target of the published times), reads the saved package and writes one `<name>.json.gz` each.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from public_models import MODELS, PublicModel, stub_torchvision
from torch import Tensor, nn

GRAPHS = Path(__file__).resolve().parent / "data/iphone/graphs"
_TABLE = ("mobilenet_v2_050", "mobilenet_v2_100", "mobilenet_v2_200", "mobileone_s0", "mobilenet_v4_conv_s")
_TABLE += ("mobilenet_v4_conv_l", "efficientvit_b1", "efficientvit_b3", "fastvit_t8", "fastvit_sa12", "fastvit_sa24")


class Depth(nn.Module):
    """Depth-Anything-Small with its depth as the only result."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

        backbone = Dinov2Config(
            hidden_size=384,
            num_attention_heads=6,
            num_hidden_layers=12,
            image_size=518,
            patch_size=14,
            out_indices=[3, 6, 9, 12],  # pyright: ignore[reportCallIssue]
            apply_layernorm=True,
            reshape_hidden_states=False,
        )
        backbone._attn_implementation = "eager"
        config = DepthAnythingConfig(
            backbone_config=backbone, neck_hidden_sizes=[48, 96, 192, 384], fusion_hidden_size=64, patch_size=14
        )
        self.model = DepthAnythingForDepthEstimation(config)
        # The position embeddings are resized once, as an exporter would fold them, and not in every run.
        positions = nn.Parameter(torch.zeros(1, 1 + 28 * 37, 384))
        self.model.backbone.embeddings.interpolate_pos_encoding = lambda embeddings, height, width: positions

    def forward(self, input: Tensor) -> Tensor:
        return self.model(input).predicted_depth


_OWN = {"depth_anything_small": PublicModel(Depth, shape=(1, 3, 392, 518))}


def export(name: str, work: Path) -> Path:
    """Writes `<work>/<name>.mlpackage`."""
    import coremltools as ct

    model = {**MODELS, **_OWN}[name]
    out = work / f"{name}.mlpackage"
    shutil.rmtree(out, ignore_errors=True)
    with torch.no_grad():
        program = torch.export.export(model.build().eval(), (torch.zeros(model.input_shape),)).run_decompositions({})
    converted: Any = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    converted.save(str(out))
    return out


def store(source: Path, name: str) -> None:
    """Reads a package and writes its graph without weights."""
    from benchmarks.calibration.stored import write_graph
    from sdmobile.formats.graph import read_graph

    GRAPHS.mkdir(parents=True, exist_ok=True)
    out = GRAPHS / f"{name}.json.gz"
    write_graph(read_graph(source), out)
    print(f"{out.name}: {out.stat().st_size} bytes", file=sys.stderr)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models; with --store the name of the graph")
    parser.add_argument("--work", type=Path, help="folder of the packages")
    parser.add_argument("--libraries", type=Path, help="folder with timm and torchvision")
    parser.add_argument("--store", type=Path, help="only store the graph of this package")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.store is not None:
        store(arguments.store, arguments.names[0])
        return
    if arguments.libraries is not None:
        sys.path.append(str(arguments.libraries))
    stub_torchvision()
    for name in arguments.names or (*_TABLE, *_OWN):
        try:
            store(export(name, arguments.work), name)
        except Exception as error:  # one model that does not convert shall not stop the others
            print(f"{name}: {error!r}", file=sys.stderr)
        gc.collect()


if __name__ == "__main__":
    main()
