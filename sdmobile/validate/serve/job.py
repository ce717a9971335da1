"""`job.json`: what the page shall load, run, compare and draw."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from sdmobile import __version__
from sdmobile.basics.files import hash_json
from sdmobile.families.component import Role
from sdmobile.formats.bundle.file_list import FILE_LIST
from sdmobile.validate.check import is_compressed
from sdmobile.validate.golden import DATA, DOCUMENT
from sdmobile.validate.page_picture import why_no_picture
from sdmobile.validate.serve.memory import memory_figures, widened_bytes
from sdmobile.validate.thresholds import Thresholds

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.formats.tflite.external import External, Written
    from sdmobile.validate.golden import Golden

KIND = "sdmobile-phone-job"
SCHEMA_VERSION = 1
RUNTIME = "LiteRT.js 2.5.3"
"""What `web/package.json` asks for."""
_SMALL = (FILE_LIST, "metadata.json", "scheduler.json", "noise_golden.json")
_TOKENIZER = "tokenizer/"
Mode = Literal["served", "static"]
Precision = Literal["float32", "float16"]


@dataclass(frozen=True)
class JobOptions:
    """How the page shall work.

    Args:
        components: which to run, None for all of which calls were recorded.
        runs: timed runs of each component.
        precision: of the GPU.
        external: weights in files of their own, also where the bundle fits without.
    """

    components: tuple[str, ...] | None = None
    runs: int = 5
    precision: Precision = "float32"
    external: bool = False


def make_job(
    bundle: Bundle,
    golden: Golden,
    options: JobOptions,
    mode: Mode = "served",
    external: Mapping[str, External] | None = None,
) -> dict[str, Any]:
    """Returns the document.

    Args:
        bundle: for Android, opened and compared with its manifest.
        golden: recorded calls; a component without any is left out.
        options: how the page shall work.
        mode: whether a server takes the results.
        external: models without weights and their weights, by the model's file name; None for none.
    """
    asked = bundle.components if options.components is None else options.components
    chosen = {name: file for name, file in bundle.components.items() if name in asked and golden.calls(name)}
    reason = _no_picture(bundle, chosen, golden)
    job: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "id": "",
        "mode": mode,
        "sdmobile": __version__,
        "runtime": RUNTIME,
        "bundle": {
            "name": str(bundle.source.get("name") or bundle.path.name),
            "sha256": bundle.sha256,
            "target": bundle.target,
            "device": str(bundle.manifest.get("device") or "unknown").removesuffix(".toml"),
        },
        "files": _files(bundle, chosen, golden, external or {}),
        "components": [_component(file, golden, options) for file in chosen.values()],
        "picture": golden.picture if reason is None else None,
        "no_picture": reason,
        "stages": [] if reason is not None else _stages(bundle),
        "runs": options.runs,
        "precision": options.precision,
        "memory": memory_figures(),
    }
    return {**job, "id": secrets.token_hex(8) if mode == "served" else hash_json(job)[:16]}


def model_bytes(bundle: Bundle, job: Mapping[str, Any]) -> dict[str, list[int]]:
    """Returns the bytes of each file of a job's components, with those by which 8-bit weights grow."""
    grown = {name: entry.get("widened", 0) for name, entry in job["files"].items()}
    sizes = {name: file.stat().st_size + grown.get(name, 0) for name, file in bundle.files.items()}
    return {one["name"]: [sizes[part["file"]] for part in one["parts"]] for one in job["components"]}


def thresholds_of(job: Mapping[str, Any]) -> dict[str, float]:
    """Returns the least decibels of every component of a job."""
    return {one["name"]: one["threshold_db"] for one in job["components"]}


def _stages(bundle: Bundle) -> list[str]:
    """Returns the names of the components that draw a picture, in the order in which they are needed."""
    from sdmobile.families import family_of

    family = family_of(bundle.manifest)
    roles = (Role.TEXT_ENCODER, Role.DENOISER, Role.DECODER)
    return [part.name for role in roles for part in family.of_role(role)]


def _no_picture(bundle: Bundle, chosen: Mapping[str, Any], golden: Golden) -> str | None:
    """Returns why the page draws nothing, None if it does."""
    from sdmobile.families import family_of

    if (reason := why_no_picture(bundle)) is not None:
        return reason
    if missing := [name for name in family_of(bundle.manifest).sampling if name not in chosen]:
        return f"{', '.join(missing)} shall not run"
    if golden.picture is None:
        return "the reference drew no picture that the page can draw too; `sdmobile serve` with PyTorch records one"
    return None


def _component(file: BundleComponent, golden: Golden, options: JobOptions) -> dict[str, Any]:
    limits = Thresholds().limits(file.name, "webgpu", is_compressed(file.record))
    return {
        "name": file.name,
        "parts": [
            {
                "file": part.path.name,
                "signature": part.contract.signature,
                **{
                    side: [
                        {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}
                        for spec in getattr(part.contract, side)
                    ]
                    for side in ("inputs", "outputs")
                },
            }
            for part in file.chain or (file,)
        ],
        "calls": len(golden.calls(file.name)),
        "threshold_db": limits.component_db,
    }


def _files(
    bundle: Bundle, chosen: Mapping[str, BundleComponent], golden: Golden, external: Mapping[str, External]
) -> dict[str, Any]:
    """Returns address, size and hash of every file that the page may load."""
    entries = bundle.manifest["files"]
    models = {part.path.name for file in chosen.values() for part in file.chain or (file,)}
    small = {p.path.name for file in chosen.values() if is_compressed(file.record) for p in file.chain or (file,)}
    names = [name for name in bundle.files if name in models or name in _SMALL or name.startswith(_TOKENIZER)]
    listed = {
        name: {
            "url": f"bundle/{quote(name)}",
            "size": entries[name]["bytes"],
            "sha256": entries[name]["sha256"],
            **({"widened": grown} if name in small and (grown := widened_bytes(bundle.files[name])) else {}),
            **(_split(external[name]) if name in external else {}),
        }
        for name in names
    }
    return {**listed, DOCUMENT: _described(DOCUMENT, golden.text), DATA: _described(DATA, golden.data)}


def _split(external: External) -> dict[str, Any]:
    """Returns what else a job says of a file that can be had in two; the model knows its weights by `name`."""

    def entry(file: Written) -> dict[str, Any]:
        return {"url": f"external/{quote(file.path.name)}", "size": file.size, "sha256": file.sha256}

    weights = external.weights
    return {"external": {"name": weights.path.name, "model": entry(external.model), "weights": entry(weights)}}


def _described(name: str, data: bytes) -> dict[str, Any]:
    return {"url": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def chosen_components(bundle: Bundle, names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Checks names of components that a user gave, and returns them.

    Raises:
        UnsupportedError: the bundle has no such component.
    """
    from sdmobile.basics.words import nearest
    from sdmobile.errors import UnsupportedError

    if names is None:
        return None
    if unknown := [name for name in names if name not in bundle.components]:
        rule = f"--components names components of the bundle, which has {', '.join(bundle.components)}"
        raise UnsupportedError(rule, ", ".join(unknown), nearest(unknown[0], bundle.components))
    return tuple(names)
