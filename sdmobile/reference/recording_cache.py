"""Recordings of the reference, kept under a key of everything that decides them: sampling is done once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from sdmobile.basics.files import cache_folder, hash_file, write_json
from sdmobile.basics.fingerprint import code_hash, library_closure
from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.errors import CheckpointError, OutputError
from sdmobile.families.control import controls_to_json
from sdmobile.reference.recording import Recording, load_recording, save_arrays
from sdmobile.reference.sampling import SampleResult

if TYPE_CHECKING:
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.sampling import SampleRequest

_LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "numpy")
# The float32 reference knows no phone: these rooms have no part in it.
LEFT_OUT = ("device_profiles/*", "quantize/*", "exporters/*", "validate/*", "lint/*")
_HASHES = "sha256.json"
_log = logging.getLogger("sdmobile.cache")


def default_recordings_dir() -> Path:
    """Returns where recordings are kept."""
    return cache_folder("recordings")


def recording_key(
    source_hash: str,
    spec: PipelineSpec,
    requests: Sequence[SampleRequest],
    components: Sequence[str],
    max_samples: int,
    whole_runs: bool,
) -> str:
    """Returns the SHA-256 over checkpoint, prompts, steps, seeds, guidance, scheduler, geometry, code and versions.

    Args:
        source_hash: content hash of the checkpoint, tokenizer included.
        spec: the pipeline.
        requests: the pictures.
        components: what is recorded.
        max_samples: most samples per component.
        whole_runs: whether the runs are kept to the end.
    """
    facts = {
        "source": source_hash,
        "geometry": spec.geometry.to_json(),
        "family": spec.family.name,
        "control": controls_to_json(spec.family.controls),
        "guidance": spec.guidance.name,
        "scaling_factor": spec.scaling_factor,
        "shift_factor": spec.shift_factor,
        "scheduler": dict(spec.scheduler_config),
        "requests": [request.to_json() for request in requests],
        "components": sorted(components),
        "max_samples": max_samples,
        "whole_runs": whole_runs,
        "code": code_hash(LEFT_OUT),
        "libraries": library_closure(_LIBRARIES),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class RecordingCache:
    """A folder with one sub-folder per key.

    Args:
        root: the folder; None switches the cache off.
    """

    root: Path | None

    def recorded(
        self, key: str, requests: Sequence[SampleRequest], make: Callable[[], Recording]
    ) -> tuple[Recording, bool]:
        """Returns the recording of a key, made and kept if there is none.

        Args:
            key: what `recording_key` returned.
            requests: the pictures, which the key covers.
            make: samples with the reference.

        Returns:
            The recording, and whether it was found.
        """
        kept = self.find(key, requests)
        if kept is not None:
            return kept, True
        recording = make()
        self.store(key, recording)
        return recording, False

    def find(self, key: str, requests: Sequence[SampleRequest]) -> Recording | None:
        """Returns a recording, or None if it is missing or was damaged."""
        if self.root is None:
            return None
        folder = self.root / key
        try:
            hashes = json.loads((folder / _HASHES).read_text("utf-8"))
            if any(hash_file(folder / name) != digest for name, digest in hashes.items()):
                return None
            recording = load_recording(folder)
            recording.runs = [_load_run(file, requests[i]) for i, file in enumerate(_runs(folder))]
        except (
            OSError,
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            EOFError,
            BadZipFile,
            CheckpointError,
        ):
            return None
        return recording

    def store(self, key: str, recording: Recording) -> None:
        """Keeps a recording, which appears whole; where that fails, a note says so and nothing else happens."""
        if self.root is None:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with scratch_beside(self.root / key) as scratch:
                part = scratch / "recording"
                recording.save(part)
                for index, run in enumerate(recording.runs):
                    _save_run(part / f"run-{index:03d}.npz", run)
                write_json(part / _HASHES, {file.name: hash_file(file) for file in sorted(part.iterdir())})
                put_in_place(part, self.root / key, overwrite=True)
        except (OSError, OutputError) as error:
            _log.warning("note: the recording was not kept in the cache: %s", error)


def _runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("run-*.npz"))


def _save_run(file: Path, run: SampleResult) -> None:
    save_arrays(
        file,
        {
            "latents": np.stack(run.latents),
            "timesteps": np.array(run.timesteps),
            "image": run.image,
            "components": np.array(list(run.seconds)),
            "seconds": np.array(list(run.seconds.values())),
        },
    )


def _load_run(file: Path, request: SampleRequest) -> SampleResult:
    with np.load(file, allow_pickle=False) as arrays:
        seconds = zip(arrays["components"].tolist(), arrays["seconds"].tolist(), strict=True)
        latents, timesteps = list(arrays["latents"]), arrays["timesteps"].tolist()
        return SampleResult(request, latents, timesteps, arrays["image"], dict(seconds))
