"""A bundle on paper, recorded calls, a page of a few bytes, and a server of all that; nothing is exported or run."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdmobile.families import family_named
from sdmobile.families.contracts import contract_for
from sdmobile.formats.bundle.contracts import Geometry
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.formats.bundle.writing import seal
from sdmobile.reference.recording import RecordedSample
from sdmobile.reference.sampling import SampleRequest
from sdmobile.validate.golden import Golden, make_golden, write_golden
from sdmobile.validate.golden_recording import PictureOrder
from sdmobile.validate.gpu import places
from sdmobile.validate.serve.job import JobOptions
from sdmobile.validate.serve.server import Limits
from sdmobile.validate.serve.session import Network, Prepared, Session, Source, phone_session, prepare

GEOMETRY = Geometry(2, 4, 4, 4, 16, 12, 8, 6)
FAMILY = family_named("stable-diffusion")
COMPONENTS = ("text_encoder", "unet", "vae_decoder")
REQUEST = SampleRequest("a circle", "", 2, 7, 3.0)
_SMALL: dict[str, Any] = {
    "scheduler.json": {
        "default_solver": "dpm++",
        "solvers": {"dpm++": {"diffusers_class": "DPMSolverMultistepScheduler", "steps": {"2": [], "20": []}}},
    },
    "noise_golden.json": {},
    "metadata.json": {},
    "tokenizer/vocab.json": {},
}


def paper_bundle(folder: Path, components: tuple[str, ...] = COMPONENTS, **changes: Any) -> Path:
    """Writes an Android bundle whose model files hold no model, as an export would seal it."""
    records: dict[str, Any] = {}
    for name in components:
        contract = contract_for(FAMILY, "android", name, GEOMETRY)
        (folder / contract.file_name).parent.mkdir(parents=True, exist_ok=True)
        (folder / contract.file_name).write_bytes(f"no model of {name}".encode() * 100)
        records[name] = {"file": contract.file_name, "contract": contract.to_json()}
    (folder / "tokenizer").mkdir()
    for name, document in _SMALL.items():
        (folder / name).write_text(json.dumps(document))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    manifest = {
        "schema_version": 1,
        "kind": "sdmobile-bundle",
        "family": FAMILY.name,
        "target": "android",
        "device": "galaxy-s23-ultra",
        "source": {"name": "paper", "content_hash": "abc", "license": None},
        "geometry": GEOMETRY.to_json(),
        "guidance": "batch2",
        "pipeline": {"scaling_factor": 0.18215, "scheduler": {"_class_name": "DPMSolverMultistepScheduler"}},
        "components": records,
        **changes,
    }
    seal(manifest, folder, "# paper\n")
    return folder


def samples_of(components: tuple[str, ...] = COMPONENTS, calls: int = 2) -> dict[str, list[RecordedSample]]:
    """Returns made-up calls in canonical layout."""
    random = np.random.default_rng(0)
    samples: dict[str, list[RecordedSample]] = {}
    for name in components:
        contract = contract_for(FAMILY, "android", name, GEOMETRY)

        def arrays(specs: Any) -> dict[str, Any]:
            return {spec.canonical: random.standard_normal(spec.canonical_shape).astype(np.float32) for spec in specs}

        samples[name] = [
            RecordedSample(name, f"call {index + 1}", arrays(contract.inputs), arrays(contract.outputs))
            for index in range(calls)
        ]
    return samples


def pixels_of(seed: int = 1) -> np.ndarray:
    """Returns a made-up picture, [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (GEOMETRY.image_height, GEOMETRY.image_width, 3), np.uint8)


def with_golden(folder: Path, drawn: bool = True) -> Golden:
    """Puts recorded calls into a bundle on paper."""
    bundle = open_bundle(folder)
    golden = make_golden(
        bundle, samples_of(tuple(bundle.components)), {"a": [1, 2]}, (REQUEST, pixels_of()) if drawn else None
    )
    assert write_golden(bundle, golden)
    return golden


def built_page(home: Path) -> Path:
    """Writes a page of today's sources that does nothing; `$SDMOBILE_GPU_HOME` must be `home`."""
    page = home / "page"
    (page / "wasm").mkdir(parents=True)
    for name in (*places.PAGE_FILES, "phone.html", "phone.js", "phone.css", "wasm/phone_worker.js", "wasm/litert.wasm"):
        (page / name).write_text(f"this is {name}")
    (page / "sources.sha256").write_text(places.sources_hash())
    return page


def prepared(bundle: Path, options: JobOptions | None = None) -> Prepared:
    """Returns what is served of a bundle that has recorded calls."""
    return prepare(bundle, options or JobOptions(runs=2), PictureOrder(), Source(), "served", lambda _: None)


@dataclass
class Served:
    """A running server.

    Args:
        session: its address and inbox.
        prepared: what it serves.
        lines: what it told people.
    """

    session: Session
    prepared: Prepared
    lines: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.session.address.split(":")[2].split("/")[0])

    @property
    def base(self) -> str:
        """The path of the page, with the token."""
        return "/" + self.session.address.split("/", 3)[3]

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers by lower-case name, and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def post(self, name: str, document: Any) -> tuple[int, Any]:
        """Sends a document as the page does; returns the status and the answer's JSON, None for no body."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        status, _, answer = self.ask("POST", self.base + name, body, {"Content-Type": "application/json"})
        return status, json.loads(answer) if answer else None


@contextlib.contextmanager
def served(
    prepared_: Prepared, results: Path, network: Network | None = None, limits: Limits | None = None
) -> Iterator[Served]:
    """Serves on a free port until the block ends."""
    lines: list[str] = []
    with phone_session(prepared_, network or Network(port=0), results, lines.append, limits) as session:
        yield Served(session, prepared_, lines)


def png_of(pixels: np.ndarray) -> bytes:
    """Returns a picture as a browser would send it."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def run_of(site: Prepared, **changes: Any) -> dict[str, Any]:
    """Returns the document of a run on which all is well."""
    import hashlib

    job = site.job
    runs = job["runs"]
    components = [
        {"name": one["name"], "accepted": True, "used": "webgpu", "dispatches": 5, "seconds": [0.01] * runs}
        for one in job["components"]
    ]
    checks = [
        {
            "component": call["component"],
            "label": call["label"],
            "run": run,
            "output": name,
            "psnr_db": 120.0,
            "identical_to_first": True,
            "passed": True,
        }
        for call in site.golden.document["calls"]
        if call["component"] in {one["name"] for one in components}
        for name in call["outputs"]
        for run in range(runs)
    ]
    picture = None
    if job["picture"] is not None:
        pixels = site.golden.pixels()
        picture = {
            "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
            "psnr_db": 999.0,
            "passed": True,
            "png_base64": base64.b64encode(png_of(pixels)).decode(),
            "step_seconds": [0.1, 0.1],
            "total_seconds": 0.5,
        }
    return {
        "schema_version": 1,
        "kind": "sdmobile-phone-run",
        "job": job["id"],
        "bundle_sha256": job["bundle"]["sha256"],
        "bundle_name": job["bundle"]["name"],
        "device_profile": job["bundle"]["device"],
        "started": "2026-11-30T12:00:00Z",
        "sdmobile": job["sdmobile"],
        "runtime": job["runtime"],
        "page": "0" * 64,
        "accelerator": "webgpu",
        "precision": job["precision"],
        "adapter": {"vendor": "qualcomm", "architecture": "adreno-7xx", "fallback": False},
        "way": "all resident",
        "components": components,
        "checks": checks,
        "picture": picture,
        "verdict": "passed",
        **changes,
    }
