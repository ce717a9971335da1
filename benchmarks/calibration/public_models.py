"""Graphs of public models for the calibration: built with random weights, exported to TFLite, stored without weights.

    python benchmarks/calibration/public_models.py export --work DIR [--libraries DIR] [NAME ...]
    python benchmarks/calibration/public_models.py store --work DIR [--to DIR] [NAME ...]
    python benchmarks/calibration/public_models.py store-bundle BUNDLE --prefix sd15_512 [--to DIR]

`export` writes float16 `.tflite` files (minutes, up to 3 GiB of memory); `store` reads them and writes one small
`<name>.json.gz` each, which is all that a refit needs. timm and torchvision are no dependencies of sdmobile. Put them
into a folder of their own, without what they would pull in, and name it with --libraries:

    pip install --no-deps --target LIBRARIES timm==1.0.31 torchvision

The files hold plain operators: the published times are of files that others made with the converters of their time.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

GRAPHS = Path(__file__).resolve().parent / "data/graphs"


def stub_torchvision() -> None:
    """Declares the operators that torchvision's Python part expects of a compiled part that fits this PyTorch."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _keep.append(library)


_keep: list[Any] = []


class InvertedBottleneck(nn.Sequential):
    """Expansion, depthwise convolution and projection, with a residual where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: float) -> None:
        hidden = round_channels(inputs * expansion)
        super().__init__(
            conv_norm(inputs, hidden, 1, 1),
            conv_norm(hidden, hidden, kernel, stride, groups=hidden),
            conv_norm(hidden, outputs, 1, 1, activate=False),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, input: Tensor) -> Tensor:
        result = super().forward(input)
        return result + input if self.residual else result


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1, activate: bool = True) -> nn.Module:
    """Returns a convolution with BatchNorm and ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if activate else []))


def round_channels(value: float) -> int:
    """Returns the nearest multiple of 8 that is not below 90 % of the value (the MobileNets' rule)."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


# (kernel, stride, channels, expansion) of the blocks of "Discovering Multi-Hardware Mobile Models via Architecture
# Search" (arXiv 2008.08178); facts from tensorflow/models official/vision/modeling/backbones/mobilenet.py
MULTI_MAX = (
    *((3, 2, 32, 3), (5, 2, 64, 6), (3, 1, 64, 2), (3, 1, 64, 2), (5, 2, 128, 6), (3, 1, 128, 4), (3, 1, 128, 3)),
    *((3, 1, 128, 3), (3, 1, 128, 6), (3, 1, 128, 3), (3, 2, 160, 6), (5, 1, 160, 4), (3, 1, 160, 5), (5, 1, 160, 4)),
)
MULTI_AVG = (
    *((3, 2, 32, 3), (3, 1, 32, 2), (5, 2, 64, 5), (3, 1, 64, 3), (3, 1, 64, 2), (3, 1, 64, 3), (5, 2, 128, 6)),
    *((3, 1, 128, 3), (3, 1, 128, 3), (3, 1, 128, 3), (3, 1, 160, 6), (3, 1, 160, 4), (3, 2, 192, 6), (5, 1, 192, 4)),
    *((5, 1, 192, 4), (5, 1, 192, 4)),
)


def multi_hardware(blocks: tuple[tuple[int, int, int, int], ...], width: float) -> nn.Module:
    """Returns a MobileNet Multi-Hardware of a width multiplier (its last layer has 1280 channels at any width)."""
    channels = round_channels(32 * width)
    layers = [conv_norm(3, channels, 3, 2)]
    for kernel, stride, outputs, expansion in blocks:
        layers.append(InvertedBottleneck(channels, round_channels(outputs * width), kernel, stride, expansion))
        channels = round_channels(outputs * width)
    last = round_channels(960 * width)
    pool = nn.AdaptiveAvgPool2d(1)
    head = [conv_norm(channels, last, 1, 1), pool, conv_norm(last, 1280, 1, 1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers, *head)


def timm_model(name: str, deploy: bool = False, **options: Any) -> nn.Module:
    """Returns timm's model, in deploy form (branches merged) if asked."""
    import timm  # pyright: ignore[reportMissingImports]
    from timm.layers import set_fused_attn  # pyright: ignore[reportMissingImports]
    from timm.utils.model import reparameterize_model  # pyright: ignore[reportMissingImports]

    set_fused_attn(False)
    model = timm.create_model(name, pretrained=False, **options).eval()
    return reparameterize_model(model) if deploy else model


def mobilenet_v2(width: float) -> nn.Module:
    """Returns MobileNet-V2 of a width multiplier."""
    from timm.models.efficientnet import _gen_mobilenet_v2  # pyright: ignore[reportMissingImports]

    return _gen_mobilenet_v2("mobilenetv2_100", width, pretrained=False)


class Only(nn.Module):
    """A model whose result is one tensor of what another returns."""

    def __init__(self, model: nn.Module, key: str) -> None:
        super().__init__()
        self.model, self.key = model, key

    def forward(self, input: Tensor) -> Tensor:
        return self.model(input)[self.key]


def deeplab() -> nn.Module:
    """Returns DeepLabV3 on ResNet-50 as AI Hub takes it from torchvision."""
    from torchvision.models.segmentation import deeplabv3_resnet50  # pyright: ignore[reportMissingImports]

    return Only(deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21), "out")


def whisper() -> nn.Module:
    """Returns Whisper-tiny's encoder."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes: dict[str, Any] = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
    config: Any = WhisperConfig(num_mel_bins=80, max_source_positions=1500, **sizes)
    config._attn_implementation = "eager"
    return Only(WhisperEncoder(config), "last_hidden_state")


@dataclass(frozen=True)
class PublicModel:
    """How to build a model, and its input.

    Args:
        build: returns it with random weights.
        size: pixels of a side.
        shape: the input's shape if it is no image.
    """

    build: Callable[[], nn.Module]
    size: int = 224
    shape: tuple[int, ...] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the example input."""
        return self.shape or (1, 3, self.size, self.size)


MODELS = {
    "mobilenet_v2_050": PublicModel(partial(mobilenet_v2, 0.5)),
    "mobilenet_v2_100": PublicModel(partial(mobilenet_v2, 1.0)),
    "mobilenet_v2_200": PublicModel(partial(mobilenet_v2, 2.0)),
    "mobileone_s0": PublicModel(partial(timm_model, "mobileone_s0", deploy=True)),
    "multi_hardware_max_150": PublicModel(partial(multi_hardware, MULTI_MAX, 1.5)),
    "multi_hardware_avg_150": PublicModel(partial(multi_hardware, MULTI_AVG, 1.5)),
    "mobilenet_v4_conv_s": PublicModel(partial(timm_model, "mobilenetv4_conv_small")),
    "mobilenet_v4_conv_m": PublicModel(partial(timm_model, "mobilenetv4_conv_medium"), 256),
    "mobilenet_v4_conv_l": PublicModel(partial(timm_model, "mobilenetv4_conv_large"), 384),
    "mobilenet_v4_hybrid_m": PublicModel(partial(timm_model, "mobilenetv4_hybrid_medium"), 256),
    "efficientvit_b1": PublicModel(partial(timm_model, "efficientvit_b1")),
    "efficientvit_b3": PublicModel(partial(timm_model, "efficientvit_b3")),
    "fastvit_t8": PublicModel(partial(timm_model, "fastvit_t8", deploy=True), 256),
    "fastvit_sa12": PublicModel(partial(timm_model, "fastvit_sa12", deploy=True), 256),
    "fastvit_sa24": PublicModel(partial(timm_model, "fastvit_sa24", deploy=True), 256),
    "whisper_tiny_encoder": PublicModel(whisper, shape=(1, 80, 3000)),
    "deeplabv3_resnet50_224": PublicModel(deeplab, 224),
    "deeplabv3_resnet50_520": PublicModel(deeplab, 520),
    "swin_tiny": PublicModel(partial(timm_model, "swin_tiny_patch4_window7_224")),
    "convnext_tiny": PublicModel(partial(timm_model, "convnext_tiny")),
    "regnety_032": PublicModel(partial(timm_model, "regnety_032")),
    "resnext50": PublicModel(partial(timm_model, "resnext50_32x4d")),
    "efficientvit_b3_256": PublicModel(partial(timm_model, "efficientvit_b3"), 256),
}


def without_zeros(model: nn.Module) -> nn.Module:
    """Returns a model with no scale of a norm at zero, where some start: the converter would fold their branch away."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
                module.weight.fill_(1.0)
    return model


def export(name: str, work: Path) -> Path:
    """Writes `<work>/<name>.tflite` with float16 weights."""
    import litert_torch

    from sdmobile.quantize.tflite_float16 import cast_weights

    model = MODELS[name]
    out, plain = work / f"{name}.tflite", work / f"{name}.float32.tflite"
    with torch.no_grad():
        converted = litert_torch.convert(without_zeros(model.build().eval()), (torch.zeros(model.input_shape),))
    converted.export(str(plain))
    out.unlink(missing_ok=True)
    cast_weights(plain, out)
    plain.unlink()
    return out


def store(source: Path, out: Path) -> None:
    """Reads a `.tflite` and writes its graph without weights."""
    from benchmarks.calibration.stored import write_graph
    from sdmobile.formats.graph import read_graph

    write_graph(read_graph(source), out)
    print(f"{out.name}: {out.stat().st_size} bytes", file=sys.stderr)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("export", "store", "store-bundle"))
    parser.add_argument("names", nargs="*", help="models, all by default; for store-bundle the bundle")
    parser.add_argument("--work", type=Path, help="folder of the .tflite files")
    parser.add_argument("--libraries", type=Path, help="folder with timm and torchvision")
    parser.add_argument("--to", type=Path, default=GRAPHS)
    parser.add_argument("--prefix", default="", help="of the names of a bundle's graphs")
    arguments = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    if arguments.libraries is not None:
        sys.path.append(str(arguments.libraries))
    stub_torchvision()
    if arguments.action == "store-bundle":
        for file in sorted(Path(arguments.names[0]).rglob("*.tflite")):
            store(file, arguments.to / f"{arguments.prefix}_{file.stem}.json.gz")
        return
    for name in arguments.names or MODELS:
        if arguments.action == "export":
            print(export(name, arguments.work), file=sys.stderr)
        else:
            store(arguments.work / f"{name}.tflite", arguments.to / f"{name}.json.gz")
        gc.collect()


if __name__ == "__main__":
    main()
