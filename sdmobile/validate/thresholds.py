"""The one place that says what counts as parity.

| what | default | why |
|---|---|---|
| component | 35 dB PSNR | the gate of Apple's converter (`ABSOLUTE_MIN_PSNR` in apple/ml-stable-diffusion) |
| component in float32 arithmetic, weights not compressed | 60 dB PSNR | see below |
| image | 35 dB PSNR | the same figure for the picture that a whole sampling run ends in |
| SSIM of the image | not judged | reported; a thresholds file may set it |
| non-finite values | 0 | one NaN or infinity in a latent blackens the picture |

35 dB leaves room for quantised weights and for float16. A runtime that computes in float32 on weights that are at most
rounded to float16 reaches 70 dB and more on Stable Diffusion's components, while a wrong epsilon or a norm over the
wrong axis can stay above 35 dB. So such a runtime is held to 60 dB. The latents along a trajectory are reported and
plotted but not judged: the picture is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sdmobile.basics.untrusted import parse_toml, read_bounded
from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.basics.metrics import Metrics

COMPONENT_DB = 35.0
FLOAT32_DB = 60.0
IMAGE_DB = 35.0
NON_FINITE = 0
FLOAT32_RUNTIMES = ("evaluator", "litert", "ort")
_MAX_FILE = 1 << 20
_SECTIONS = ("default", "runtime", "component")


@dataclass(frozen=True)
class Limits:
    """What one check must reach.

    Args:
        component_db: least PSNR in dB of every recorded sample.
        image_db: least PSNR in dB of a final image.
        image_ssim: least SSIM of a final image; −1, the least there is, judges nothing.
        non_finite: most non-finite values in any output.
    """

    component_db: float = COMPONENT_DB
    image_db: float = IMAGE_DB
    image_ssim: float = -1.0
    non_finite: int = NON_FINITE

    def component_passes(self, metrics: Metrics) -> bool:
        """Whether a component's worst figures are good enough; NaN never is."""
        return metrics.non_finite <= self.non_finite and metrics.psnr_db >= self.component_db

    def image_passes(self, psnr_db: float, ssim: float, non_finite: int) -> bool:
        """Whether a final image is good enough; NaN never is."""
        if non_finite > self.non_finite or math.isnan(psnr_db) or math.isnan(ssim):
            return False
        return psnr_db >= self.image_db and ssim >= self.image_ssim


@dataclass(frozen=True)
class Override:
    """Limits that hold for one component, one runtime, or one component on one runtime.

    Args:
        component: canonical name, None for all.
        runtime: name of the runtime, None for all.
        values: field of `Limits` to its value.
    """

    component: str | None
    runtime: str | None
    values: Mapping[str, float]

    def covers(self, component: str | None, runtime: str) -> bool:
        """Whether it holds for a check."""
        return self.component in (None, component) and self.runtime in (None, runtime)


@dataclass(frozen=True)
class Thresholds:
    """What a bundle must reach.

    Args:
        component_db: see `Limits`.
        image_db: see `Limits`.
        non_finite: see `Limits`.
        image_ssim: see `Limits`.
        float32_db: least PSNR of a component whose weights were not compressed, on a runtime that computes in float32.
        overrides: the more general first; later ones win.
    """

    component_db: float = COMPONENT_DB
    image_db: float = IMAGE_DB
    non_finite: int = NON_FINITE
    image_ssim: float = -1.0
    float32_db: float = FLOAT32_DB
    overrides: tuple[Override, ...] = ()

    @classmethod
    def flat(cls, decibels: float) -> Thresholds:
        """Returns one level for everything that is measured in dB."""
        return cls(decibels, decibels, float32_db=decibels)

    def limits(self, component: str | None, runtime: str, compressed: bool = False) -> Limits:
        """Returns what a check must reach.

        Args:
            component: canonical name, None for a final image.
            runtime: what runs it.
            compressed: whether its weights have fewer bits than float16.
        """
        exact = runtime in FLOAT32_RUNTIMES and not compressed
        level = max(self.component_db, self.float32_db) if exact else self.component_db
        limits = Limits(level, self.image_db, self.image_ssim, self.non_finite)
        for override in self.overrides:
            if override.covers(component, runtime):
                limits = replace(limits, **override.values)  # pyright: ignore[reportArgumentType]
        return limits

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers."""
        return {**asdict(self), "overrides": [asdict(override) for override in self.overrides]}


def read_thresholds(file: Path) -> Thresholds:
    """Reads a thresholds file.

        [default]                             # component_db, float32_db, image_db, image_ssim, non_finite
        component_db = 35
        [runtime.evaluator-fp16]              # for one runtime
        component_db = 50
        [component.unet]                      # for one component; wins over the runtime's
        component_db = 40
        [component.unet.runtime.evaluator]    # for both; wins over either
        component_db = 90

    Raises:
        UnsupportedError: no TOML, an unknown section or key, or a value that is no number.
    """
    data = _toml(file)
    _only(data, _SECTIONS, "sections", file)
    default = _numbers(data.get("default", {}), {item.name for item in fields(Thresholds)} - {"overrides"}, file)
    overrides = [Override(None, name, _limits(table, file)) for name, table in _tables(data, "runtime", file)]
    for component, table in _tables(data, "component", file):
        pairs = _tables(table, "runtime", file)
        own = {key: value for key, value in table.items() if key != "runtime"}
        overrides.append(Override(component, None, _limits(own, file)))
        overrides += [Override(component, runtime, _limits(values, file)) for runtime, values in pairs]
    overrides.sort(key=lambda o: (o.component is not None) + (o.component is not None and o.runtime is not None))
    return replace(Thresholds(), **default, overrides=tuple(overrides))  # pyright: ignore[reportArgumentType]


def _toml(file: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_bounded(file, _MAX_FILE))
    except (OSError, ValueError) as error:
        raise UnsupportedError("a thresholds file must be readable TOML", f"{file}: {error}") from error


def _tables(data: Mapping[str, Any], key: str, file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns the sub-tables of a section by name."""
    section = data.get(key, {})
    if not isinstance(section, dict) or not all(isinstance(table, dict) for table in section.values()):
        raise UnsupportedError(f"[{key}.NAME] of a thresholds file is a table", file, f"Write [{key}.NAME].")
    return list(section.items())


def _limits(table: Mapping[str, Any], file: Path) -> dict[str, float]:
    return _numbers(table, {item.name for item in fields(Limits)}, file)


def _numbers(table: Any, known: set[str], file: Path) -> dict[str, float]:
    if not isinstance(table, Mapping):
        raise UnsupportedError("a section of a thresholds file is a table", file)
    _only(table, known, "keys", file)
    wrong = [key for key, value in table.items() if isinstance(value, bool) or not isinstance(value, (int, float))]
    if wrong:
        raise UnsupportedError("a threshold is a number", f"{wrong[0]} = {table[wrong[0]]!r} in {file}")
    return dict(table)


def _only(table: Mapping[str, Any], known: Any, what: str, file: Path) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise UnsupportedError(
            f"the {what} of a thresholds file are {', '.join(sorted(known))}", f"{unknown} in {file}"
        )
