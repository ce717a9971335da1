"""Compresses one Core ML package by a recipe and checks what was written."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import size_of
from sdmobile.basics.memory import peak_resident_bytes
from sdmobile.errors import OutputError, SdmobileError, UnsupportedError
from sdmobile.formats.errors import whole
from sdmobile.formats.mlprogram.constants import WeightConstant, weight_constants
from sdmobile.formats.mlprogram.opsets import ios_of_package
from sdmobile.quantize.coreml.check import check_weights, digest
from sdmobile.quantize.coreml.package import RewrittenPackage, rewrite_weights
from sdmobile.quantize.encodings import Encoding, encode, misfit, scaled
from sdmobile.quantize.recipes import Recipe
from sdmobile.quantize.records import CompressionRecord, TensorRecord
from sdmobile.quantize.schemes import W8A8, Float16, Linear, Scheme
from sdmobile.quantize.support import minimum_ios, require_supported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from sdmobile.quantize.correction import FittedScales


@dataclass
class _Encoder:
    """Encodes the weights that a recipe names; keeps what the record and the check need, not the encodings."""

    schemes: dict[str, Scheme]
    scales: dict[str, float] = field(default_factory=dict)
    records: dict[str, TensorRecord] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def __call__(self, constant: WeightConstant, weight: NDArray[Any]) -> Encoding | None:
        scheme = self.schemes[constant.name]
        kept = TensorRecord(
            constant.name, constant.module, "fp16", constant.elements, weight.nbytes, weight.nbytes, 0.0
        )
        if isinstance(scheme, Float16):
            return self._keep(kept)
        reason = misfit(constant.shape, scheme)
        if reason is not None:
            return self._keep(replace(kept, reason=f"{scheme.name}: {reason}"))
        encoding = encode(weight, scheme)
        if constant.module in self.scales:
            encoding = scaled(encoding, self.scales[constant.module], weight)
        if encoding.stored_bytes >= weight.nbytes:
            reason = f"{scheme.name}: {encoding.stored_bytes} bytes would be stored"
            return self._keep(replace(kept, reason=reason))
        hashed = digest(encoding.decode())
        with self.lock:
            self.digests[constant.name] = hashed
            self.records[constant.name] = replace(
                kept, scheme=scheme.name, bytes_after=encoding.stored_bytes, mse=float(encoding.mse)
            )
        return encoding

    def _keep(self, record: TensorRecord) -> None:
        with self.lock:
            self.records[record.name] = record


def compress_package(
    source: Path,
    out: Path,
    recipe: Recipe,
    component: str,
    deployment_target: str | None = None,
    edit: Callable[[Any], object] | None = None,
    fitted: FittedScales | None = None,
) -> CompressionRecord:
    """Writes a package whose weights are encoded as a recipe says, reads it back and compares every weight.

    Args:
        source: the `.mlpackage` folder.
        out: the folder to write.
        recipe: what each weight becomes.
        component: "unet" and the like, by which the recipe's overrides tell components apart.
        deployment_target: the oldest system that must load the file ("iOS17"); None to raise it where needed.
        edit: quantises activations in the Model message; without it a recipe must not name W8A8. The weights of such
            layers are stored as int8 per channel.
        fitted: factors on the decoded weights.

    Returns:
        What was done.

    Raises:
        UnsupportedError: a scheme needs a newer system than `deployment_target`, or is not for Core ML.
        OutputError: the package did not get smaller.
        ComponentError: a weight read back is another than the one encoded.
    """
    with whole(source):
        return _compressed(source, out, recipe, component, deployment_target, edit, fitted)


def _compressed(
    source: Path,
    out: Path,
    recipe: Recipe,
    component: str,
    deployment_target: str | None,
    edit: Callable[[Any], object] | None,
    fitted: FittedScales | None,
) -> CompressionRecord:
    started = time.perf_counter()
    constants = weight_constants(source)
    schemes = {c.name: recipe.scheme_for(component, c.module, c.elements, c.is_linear) for c in constants}
    used = dict.fromkeys(scheme for c in constants if not misfit(c.shape, scheme := schemes[c.name]))
    for scheme in used:
        require_supported(scheme, "ios", deployment_target=deployment_target)
        if isinstance(scheme, W8A8) and edit is None:
            raise UnsupportedError("w8a8 needs activations recorded from the checkpoint", scheme.name)
    stored: dict[str, Scheme] = {n: Linear(8) if isinstance(s, W8A8) else s for n, s in schemes.items()}
    ios = max([ios_of_package(source), *map(minimum_ios, used)])
    encoder = _Encoder(stored, fitted.flat if fitted else {})
    metadata = {"sdmobile.recipe": recipe.name, "sdmobile.recipe_key": recipe.key}
    written = rewrite_weights(source, out, encoder, ios, metadata, edit)
    sizes = size_of([source]), size_of([out])
    try:
        checked = check_weights(out, encoder.digests)
        wanted = any(scheme != Float16() for scheme in schemes.values())
        if wanted and (not encoder.digests or sizes[1] >= sizes[0]):
            raise OutputError("a compressed file must be smaller", f"{out.name}: {sizes[0]} to {sizes[1]} bytes")
    except SdmobileError:
        shutil.rmtree(out)
        raise
    return CompressionRecord(
        recipe=recipe.name,
        recipe_key=recipe.key,
        tensors=tuple(encoder.records[c.name] for c in constants),
        bytes_before=sizes[0],
        bytes_after=sizes[1],
        seconds=time.perf_counter() - started,
        peak_rss_bytes=peak_resident_bytes(),
        checked=checked,
        details={**_details(written), **({"correction": fitted.to_json()} if fitted else {})},
    )


def _details(written: RewrittenPackage) -> dict[str, Any]:
    raised = {} if written.raised_from is None else {"raised_from": f"iOS{written.raised_from}"}
    return {"deployment_target": f"iOS{written.ios}", **raised}


def modules(path: Path) -> tuple[str, ...]:
    """Returns the modules of a package that have weights, with underscores for dots."""
    return tuple(dict.fromkeys(constant.module for constant in weight_constants(path)))


def correctable(packages: Iterable[Path]) -> set[str]:
    """Returns the modules, with underscores for dots, that exactly one weight of the packages is known to belong to."""
    counts = Counter(constant.module for path in packages for constant in weight_constants(path))
    return {module for module, count in counts.items() if module and count == 1}
