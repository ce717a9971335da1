"""`golden.json` and `golden.bin`: recorded calls of the float32 reference, in the form that a bundle's files take.

    golden.json   whose bundle; calls by component, each with its arrays' types, shapes and places; tokens; a picture
    golden.bin    the arrays: little-endian, C order, with the file's own names, layouts and types

A page in a browser gives these bytes to the runtime as they are, and compares what comes back with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.files import write_whole
from sdmobile.basics.untrusted import UntrustedError, parse_json, read_bounded
from sdmobile.formats.bundle.file_list import GOLDEN
from sdmobile.validate.golden_checking import check_content
from sdmobile.validate.thresholds import IMAGE_DB

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.formats.bundle.contracts import TensorSpec
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.reference.recording import RecordedSample
    from sdmobile.reference.sampling import SampleRequest

KIND = "sdmobile-golden"
SCHEMA_VERSION = 1
DOCUMENT, DATA = GOLDEN
_ALIGNED = 64  # bytes: any typed array may begin there
_MAX_DOCUMENT, _MAX_DATA = 1 << 24, 1 << 29


@dataclass(frozen=True)
class Golden:
    """Recorded calls, as they are written.

    Args:
        document: of golden.json.
        data: golden.bin.
    """

    document: dict[str, Any]
    data: bytes

    @property
    def text(self) -> bytes:
        """The bytes of golden.json."""
        return (json.dumps(self.document, indent=1, allow_nan=False) + "\n").encode()

    @property
    def picture(self) -> dict[str, Any] | None:
        """What the reference drew, and of which request; None if nothing was drawn that the page can draw."""
        return self.document["picture"]

    def calls(self, component: str) -> list[dict[str, Any]]:
        """Returns the recorded calls of a component."""
        return [call for call in self.document["calls"] if call["component"] == component]

    def pixels(self) -> NDArray[np.uint8]:
        """Returns the expected picture, [H, W, 3]; there is one."""
        assert self.picture is not None
        expected = self.picture["expected"]
        place = expected["pixels"]
        slice_ = self.data[place["offset"] : place["offset"] + place["bytes"]]
        return np.frombuffer(slice_, np.uint8).reshape(expected["height"], expected["width"], 3)

    def drew(self, prompt: str | None, seed: int | None, steps: int | None) -> bool:
        """Whether the picture is of a request; None stands for whatever it has."""
        if self.picture is None:
            return False
        asked = {"prompt": prompt, "seed": seed, "steps": steps}
        return all(value is None or self.picture[key] == value for key, value in asked.items())


class _Store:
    """Puts arrays one after the other."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, array: NDArray[Any]) -> dict[str, int]:
        """Returns where an array lies."""
        self.data += bytes(-len(self.data) % _ALIGNED)
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        place = {"offset": len(self.data), "bytes": little.nbytes}
        self.data += little.tobytes()
        return place


def make_golden(
    bundle: Bundle,
    samples: Mapping[str, Sequence[RecordedSample]],
    tokens: Mapping[str, Sequence[int]],
    drawn: tuple[SampleRequest, NDArray[np.uint8]] | None,
) -> Golden:
    """Returns recorded calls in the form of a bundle's files.

    Args:
        bundle: whose files' names, layouts and types.
        samples: recorded calls by component.
        tokens: identifiers by text.
        drawn: a request and the pixels [H, W, 3] that the reference drew; None for none.
    """
    store = _Store()
    calls = [
        _call(bundle.components[name], sample, store)
        for name, recorded in samples.items()
        if name in bundle.components
        for sample in recorded
    ]
    picture = None if drawn is None else _picture(*drawn, store)
    data = bytes(store.data)
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "bundle_sha256": bundle.sha256,
        "bin": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "calls": calls,
        "tokens": [{"text": text, "ids": [int(token) for token in ids]} for text, ids in tokens.items()],
        "picture": picture,
    }
    return Golden(document, data)


def _call(file: BundleComponent, sample: RecordedSample, store: _Store) -> dict[str, Any]:
    """Returns one call; of a component in parts, the inputs of all of them that no part makes, and the last outputs."""
    parts = file.chain or (file,)
    taken = {spec.name: spec for part in parts for spec in part.contract.inputs if spec.canonical in sample.inputs}
    made = {spec.name: spec for spec in parts[-1].contract.outputs if spec.canonical in sample.outputs}

    def stored(specs: Mapping[str, TensorSpec], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {
            name: {"dtype": spec.dtype, "shape": list(spec.shape), **store.add(spec.to_file(arrays[spec.canonical]))}
            for name, spec in specs.items()
        }

    return {
        "component": file.name,
        "label": sample.label,
        "inputs": stored(taken, sample.inputs),
        "outputs": stored(made, sample.outputs),
    }


def _picture(request: SampleRequest, pixels: NDArray[np.uint8], store: _Store) -> dict[str, Any]:
    height, width, _ = pixels.shape
    expected = {
        "width": width,
        "height": height,
        "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "psnr_db": IMAGE_DB,
        "pixels": store.add(pixels),
    }
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative,
        "seed": request.seed,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "expected": expected,
    }


def write_golden(bundle: Bundle, golden: Golden) -> bool:
    """Puts recorded calls into a bundle, unless those that are there cover more; returns whether it did.

    The bytes come first, so that a document never names bytes that are not there yet.

    Raises:
        OutputError: the bundle cannot be written.
        ResourceError: the disk is full.
    """
    present, _ = read_golden(bundle)
    if present is not None and _covers(present, golden):
        return False
    write_whole(bundle.path / DATA, golden.data)
    write_whole(bundle.path / DOCUMENT, golden.text)
    return True


def _covers(present: Golden, other: Golden) -> bool:
    """Whether all components of the other are in the present one, and a picture if the other has one."""
    if present == other:
        return True
    known, wanted = ({call["component"] for call in golden.document["calls"]} for golden in (present, other))
    if other.picture is not None and present.picture is None:
        return False
    return wanted < known or (wanted == known and present.picture is not None and other.picture is None)


def read_golden(bundle: Bundle) -> tuple[Golden | None, str | None]:
    """Returns the recorded calls of a bundle, or None and why they are of no use (None, too, where there are none)."""
    try:
        document = parse_json(read_bounded(bundle.path / DOCUMENT, _MAX_DOCUMENT))
        data = read_bounded(bundle.path / DATA, _MAX_DATA)
    except FileNotFoundError:
        return None, None
    except (OSError, UntrustedError) as error:
        return None, f"{DOCUMENT} or {DATA} cannot be read: {error}"
    try:
        return _checked(bundle, document, data)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None, f"{DOCUMENT} is not as sdmobile writes it"


def _checked(bundle: Bundle, document: Any, data: bytes) -> tuple[Golden | None, str | None]:
    if (document["kind"], document["schema_version"]) != (KIND, SCHEMA_VERSION):
        return None, f"{DOCUMENT} is of another kind or version"
    if document["bundle_sha256"] != bundle.sha256:
        return None, f"{DOCUMENT} belongs to another bundle"
    if document["bin"] != {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}:
        return None, f"{DATA} is not what {DOCUMENT} says"
    check_content(bundle, document, data)
    return Golden(document, data), None
