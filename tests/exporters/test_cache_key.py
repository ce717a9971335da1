"""The key of a finished component: all that decides its files, nothing that does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from sdmobile.basics.fingerprint import DECIDES_NO_BYTE
from sdmobile.device_profiles import list_profiles, load_profile, profile_hash, profile_path
from sdmobile.exporters.cache import component_key, compressed_key
from sdmobile.exporters.request import ExportPlan, ExportRequest, make_plan
from sdmobile.quantize.recipes import named_recipe
from sdmobile.reference.recording_cache import LEFT_OUT
from sdmobile.rewrites.options import RewriteOptions
from sdmobile.rewrites.registry import rules_for

# Text of the S23 Ultra's profile, what takes its place, and whether that decides bytes.
_CHANGES = {
    "a fitted number": ("[latency.gpu.bandwidth]\nvalue = ", "[latency.gpu.bandwidth]\nvalue = 1", False),
    "a peak": ("[units.gpu.peak_macs]\nvalue = ", "[units.gpu.peak_macs]\nvalue = 1", False),
    "the memory": ("[hardware.ram]\nvalue = ", "[hardware.ram]\nvalue = 1", False),
    "the title": ('title = "', 'title = "My ', False),
    "a comment": ("schema_version", "# my phone\nschema_version", False),
    "a limit": ("[limits.buffer_bytes]\nvalue = ", "[limits.buffer_bytes]\nvalue = 1", True),
    "a form": ('[forms.geglu]\nvalue = "split"', '[forms.geglu]\nvalue = "as_captured"', True),
    "the name": ('name = "galaxy-s23-ultra"', 'name = "my-phone"', True),
}


def _plan(checkpoint: Path, target: str, device: Path | None = None, **options: Any) -> ExportPlan:
    name = None if device is None else str(device)
    return make_plan(ExportRequest(checkpoint, target, Path("out"), name, **options))


@pytest.mark.parametrize("change", _CHANGES)
def test_only_what_decides_of_a_device_is_in_the_key(change: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    old, new, decides = _CHANGES[change]
    text = profile_path("galaxy-s23-ultra").read_text("utf-8")
    assert text.count(old) == 1
    mine = tmp_path / "mine.toml"
    mine.write_text(text.replace(old, new), "utf-8")
    before = component_key(_plan(tiny_checkpoint, "android"), "unet")
    assert (component_key(_plan(tiny_checkpoint, "android", mine), "unet") != before) == decides


@pytest.mark.parametrize("name", list_profiles())
def test_the_deciding_part_has_all_rules_and_limits(name: str) -> None:
    profile = load_profile(name)
    deciding = profile.deciding()
    assert (deciding.units, deciding.latency, deciding.hardware) == ({}, {}, {})
    for plain_ops in (False, True):
        options = RewriteOptions(plain_ops=plain_ops)
        described = [[vars(rule) for rule in rules_for(each, options)] for each in (profile, deciding)]
        assert repr(described[0]) == repr(described[1])
    assert deciding.limits == profile.limits


def test_every_device_has_a_hash_of_its_own() -> None:
    assert len({profile_hash(name) for name in list_profiles()}) == len(list_profiles())


def test_guidance_is_in_the_key_where_inputs_are_recorded(tiny_checkpoint: Path) -> None:
    recording: list[dict[str, Any]] = [{"float32_islands": True}, {"rewrites": RewriteOptions(check=True)}]
    for options in recording:
        keys = {
            component_key(_plan(tiny_checkpoint, "ios", guidance=guidance, **options), "vae_decoder")
            for guidance in ("batch2", "separate")
        }
        assert len(keys) == 2, options
    recipe = named_recipe("w8a8")
    assert compressed_key("key", recipe, "batch2") != compressed_key("key", recipe, "separate")


# Exports and compresses one component and prints the modules of the package that took part.
_WORK = """
import json, sys
from pathlib import Path
from sdmobile.checkpoints import open_checkpoint
from sdmobile.quantize.activations.recorded import RecordedInputs
from sdmobile.reference.geometry import geometry_for

checkpoint, out, target, device = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
opened = open_checkpoint(checkpoint)
inputs = RecordedInputs(opened, geometry_for(opened, "batch2", None), "batch2")
inputs.judging("text_encoder")
sampling = [name for name in sys.modules if name.startswith("sdmobile")]

from sdmobile.exporters.component import export_component
from sdmobile.exporters.job import ExportJob
from sdmobile.formats.bundle.writing import Part
from sdmobile.quantize.apply import Destination, compress_part
from sdmobile.quantize.recipes import Recipe, named_recipe
from sdmobile.quantize.schemes import W8A8

job = ExportJob(checkpoint, "text_encoder", target, device, "batch2", None, out, float32_islands=True)
part = Part(out, export_component(job))
recipe = Recipe("w8a8", W8A8(-99.0, -99.0, -99.0), min_elements=64) if target == "ios" else named_recipe("int8c")
(out / "small").mkdir()
compress_part(part, recipe, Destination(target, device), out / "small", inputs=inputs)
print(json.dumps([sampling, [name for name in sys.modules if name.startswith("sdmobile")]]))
"""


@pytest.mark.parametrize(
    ("target", "device"), [("ios", "iphone-15-pro"), pytest.param("android", "android-cpu", marks=pytest.mark.slow)]
)
def test_what_is_left_out_takes_no_part_in_an_export(
    target: str, device: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Islands, calibration and compression included: a room that is not even loaded decides no byte."""
    command = [sys.executable, "-c", _WORK, str(tiny_checkpoint), str(tmp_path), target, device]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    sampling, everything = json.loads(done.stdout.splitlines()[-1])
    assert "sdmobile.exporters.component" in everything
    assert "sdmobile.reference.sampling" in sampling
    assert _left_out(everything, tuple(DECIDES_NO_BYTE)) == []
    assert [name for name in _left_out(sampling, LEFT_OUT) if not name.startswith("quantize/")] == []


def _left_out(modules: list[str], patterns: tuple[str, ...]) -> list[str]:
    names = [name.removeprefix("sdmobile.").replace(".", "/") + "/" for name in modules]
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
