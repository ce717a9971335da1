"""Which number format each phone runtime takes, from which system on, and how that is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sdmobile.errors import UnsupportedError
from sdmobile.formats.mlprogram.opsets import (
    FLOAT16_IOS,
    INTEGER_ACTIVATIONS_IOS,
    ios_of_integers,
    ios_of_tables,
)
from sdmobile.quantize.recipes import Recipe
from sdmobile.quantize.schemes import W8A8, Float16, Linear, Palette, Scheme

Verdict = Literal["yes", "no", "unmeasured"]

_DEFINITION = (
    "Apple, Guide to Core ML Tools, Optimization: What is new; operation definitions of coremltools 9; "
    "written and read back here, never run on a phone"
)
_ENGINE = "ML Drift on a software GPU, own check with ai-edge-quantizer 0.10 and litert-torch 0.10"
_CPU = "LiteRT 2.3 on x86-64, own run"


@dataclass(frozen=True)
class Support:
    """One row of the table.

    Args:
        scheme: names of schemes that it is about, with `N` for a number.
        runtime: "Core ML", "LiteRT CPU", "LiteRT GPU (ML Drift)" or "LiteRT GPU (classic delegate)".
        verdict: "yes", "no", or "unmeasured" where nobody has shown it either way.
        since: oldest system, "" where the runtime ships with the app.
        note: what to know.
        source: how it is known.
    """

    scheme: str
    runtime: str
    verdict: Verdict
    since: str
    note: str
    source: str

    def to_json(self) -> dict[str, Any]:
        """Returns the row as a JSON object."""
        return asdict(self)


TABLE: tuple[Support, ...] = (
    Support("fp16", "Core ML", "yes", "iOS 15", "the exporter's default", _DEFINITION),
    Support(
        "palette1, 2, 4, 6, 8", "Core ML", "yes", "iOS 16", "one table per tensor (constexpr_lut_to_dense)", _DEFINITION
    ),
    Support("palette3", "Core ML", "yes", "iOS 18", "3 bits exist from iOS 18 on", _DEFINITION),
    Support(
        "paletteNgG", "Core ML", "yes", "iOS 18", "tables for groups of channels exist from iOS 18 on", _DEFINITION
    ),
    Support(
        "palette with a scale per channel",
        "Core ML",
        "no",
        "",
        "not offered: coremltools writes wrong weights, and packages crash when the Neural Engine loads them",
        "apple/coremltools issues 2777 and 2688",
    ),
    Support("int8c, uint8c", "Core ML", "yes", "iOS 16", "constexpr_affine_dequantize", _DEFINITION),
    Support("int4c, int4bN, int8bN", "Core ML", "yes", "iOS 18", "constexpr_blockwise_shift_scale", _DEFINITION),
    Support("int8d", "Core ML", "no", "", "Core ML does not quantise activations at run time", _DEFINITION),
    Support(
        "w8a8",
        "Core ML",
        "yes",
        "iOS 17",
        "faster than float16 on A17 Pro and newer only, by Apple's account",
        _DEFINITION,
    ),
    Support("fp16", "LiteRT CPU", "yes", "", "unpacked to float32 when the file is loaded", _CPU),
    Support("int8c, int8d", "LiteRT CPU", "yes", "", "weights only, or with activations at run time", _CPU),
    Support("int4c, int4bN", "LiteRT CPU", "yes", "", "blocks for fully connected layers only", _CPU),
    Support("palettes", "LiteRT CPU", "no", "", "TFLite has no look-up tables for weights", "TFLite schema"),
    Support("w8a8", "LiteRT CPU", "no", "", "not implemented here", ""),
    Support("fp16", "LiteRT GPU (ML Drift)", "yes", "", "accepted whole", _ENGINE),
    Support(
        "int8c, int4c",
        "LiteRT GPU (ML Drift)",
        "no",
        "",
        "convolutions are accepted, a fully connected layer fails at start: Shape mismatch",
        _ENGINE,
    ),
    Support(
        "int8d",
        "LiteRT GPU (ML Drift)",
        "yes",
        "",
        "linear layers must keep their rank, as sdmobile writes them; convolutions are accepted, too",
        _ENGINE,
    ),
    Support("int4bN", "LiteRT GPU (ML Drift)", "no", "", "the whole UNet aborts: heap corruption", _ENGINE),
    Support("fp16", "LiteRT GPU (classic delegate)", "yes", "", "with --plain-ops", "TFLite GPU delegate sources"),
    Support("int8c, int8d, int4", "LiteRT GPU (classic delegate)", "unmeasured", "", "refused", ""),
)
"""Every row with its source; `require_supported` decides by the same facts."""

_INTEGERS = "xnnpack"  # the runtime, by the name that device profiles use, that is known to take integers
_DYNAMIC = "ml-drift"  # the one that takes int8 weights if it may quantise activations itself


def minimum_ios(scheme: Scheme) -> int:
    """Returns the iOS version whose operations can express a scheme."""
    if isinstance(scheme, Palette):
        return ios_of_tables(scheme.bits, one_table=not scheme.group_size)
    if isinstance(scheme, Linear):
        return ios_of_integers(scheme.bits, per_channel=not scheme.block_size)
    return INTEGER_ACTIVATIONS_IOS if isinstance(scheme, W8A8) else FLOAT16_IOS


def require_supported(
    scheme: Scheme, target: str, device: str | None = None, deployment_target: str | None = None
) -> None:
    """Refuses a scheme that the target's runtime is known not to take.

    Args:
        scheme: of some weights.
        target: "ios", "android" or "onnx".
        device: name of the device profile, or the path of its TOML file; None for the target's default.
        deployment_target: the oldest system that must load the file ("iOS17"), None if it may be raised.

    Raises:
        UnsupportedError: with the reason and what to use instead.
    """
    if isinstance(scheme, Float16):
        return
    if target == "ios":
        _require_coreml(scheme, deployment_target)
    elif target == "android":
        _require_litert(scheme, device)
    else:
        raise UnsupportedError("the onnx target keeps float32 weights, as the witness for the others", scheme.name)


def require_recipe(
    recipe: Recipe, target: str, device: str | None = None, deployment_target: str | None = None
) -> None:
    """Refuses a recipe with a scheme that the target's runtime is known not to take; raises as `require_supported`."""
    for scheme in recipe.schemes():
        require_supported(scheme, target, device, deployment_target)


def require_components(recipe: Recipe, present: Iterable[str]) -> None:
    """Raises UnsupportedError if a recipe is for components that are not there."""
    here = tuple(present)
    missing = [name for name in recipe.components or () if name not in here]
    if missing:
        raise UnsupportedError(
            f"the recipe `{recipe.name}` is for {', '.join(recipe.components or ())}",
            f"{', '.join(missing)} not among {', '.join(here)}",
        )


def _require_coreml(scheme: Scheme, deployment_target: str | None) -> None:
    if isinstance(scheme, Linear) and scheme.dynamic:
        raise UnsupportedError(
            "Core ML does not quantise activations at run time", scheme.name, "Use int8c, or w8a8 for activations too"
        )
    needed = minimum_ios(scheme)
    if deployment_target is not None and needed > _version(deployment_target):
        raise UnsupportedError(
            f"{scheme.name} needs iOS {needed}",
            f"the deployment target is {deployment_target}",
            f"Use a palette of 1, 2, 4, 6 or 8 bits per tensor or int8c, or raise it to iOS{needed}",
        )


def _require_litert(scheme: Scheme, device: str | None) -> None:
    if not isinstance(scheme, Linear):
        raise UnsupportedError(
            "a .tflite file holds fp16 or integer weights", scheme.name, "Use fp16, int8c, int8d or int4c"
        )
    from sdmobile.device_profiles import default_profile, load_profile

    profile = default_profile("android") if device is None else load_profile(device)
    if profile.runtime == _INTEGERS or (profile.runtime == _DYNAMIC and _is_int8d(scheme)):
        return
    if profile.runtime is None:
        raise UnsupportedError(
            "integer weights are for a device whose profile names a unit with its runtime",
            f"{scheme.name} for {profile.name}, which has no table [units.NAME]",
            f'Add a table [units.cpu] with runtime = "{_INTEGERS}" if its CPU runs the files, or use fp16',
        )
    raise UnsupportedError(
        "on the LiteRT GPU only fp16 and int8d are known to work: the engine fails when it loads other integers",
        f"{scheme.name} for {profile.name}, whose runtime is {profile.runtime}",
        f"Use fp16, gpu-int8 or int8d, or --device {' or '.join(_integer_devices())}",
    )


def _is_int8d(scheme: Linear) -> bool:
    return scheme.dynamic and scheme.bits == 8 and not scheme.block_size


def _integer_devices() -> list[str]:
    """Returns the packaged devices whose files may hold integers."""
    from sdmobile.device_profiles import list_profiles, load_profile

    profiles = [load_profile(name) for name in list_profiles()]
    return [profile.name for profile in profiles if (profile.target, profile.runtime) == ("android", _INTEGERS)]


def _version(deployment_target: str) -> int:
    digits = deployment_target.removeprefix("iOS")
    if not digits.isdigit():
        raise UnsupportedError("a deployment target is iOS and a number", deployment_target, "Use iOS17 or iOS18")
    return int(digits)
