"""Weights in files of their own: where the browser has JSPI and not everything fits otherwise, or where it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from sdmobile.formats.bundle.reading import Bundle
from sdmobile.formats.tflite.external import write_external
from sdmobile.validate.golden import Golden
from sdmobile.validate.serve.job import JobOptions, make_job, thresholds_of
from tests.web.conftest import exported
from tests.web.jobs import JobServer, entry_of, served
from tests.web.screens import Modules, Phone

NAME = "vae_encoder"
FILE = f"{NAME}.tflite"
WHOLE, MODEL, WEIGHTS = f"bundle/{FILE}", f"external/{NAME}.model", f"external/{NAME}.weights"

ServeSplit = Callable[[], AbstractContextManager[tuple[JobServer, str]]]


@contextmanager
def serving(page: Path, bundle: Bundle, golden: Golden, name: str, folder: Path) -> Iterator[tuple[JobServer, str]]:
    """Serves a component whole and in two, which are written into a folder."""
    file = bundle.components[name].path
    split = write_external(file, folder)
    assert split is not None
    job = make_job(bundle, golden, JobOptions((name,), runs=2), external={file.name: split})
    server = JobServer(page, bundle, golden, job)
    for written in (split.model, split.weights):
        server.replaced[f"external/{written.path.name}"] = written.path.read_bytes()
    with served(server) as address:
        yield server, address


@pytest.fixture
def serve_split(built_page: Path, bundle: Bundle, golden: Golden, tmp_path: Path) -> ServeSplit:
    """Serves a component of the shipped model: `with serve_split() as (server, address)`."""
    return lambda: serving(built_page, bundle, golden, NAME, tmp_path)


def without_jspi(server: JobServer) -> None:
    """Takes what JSPI begins with away from the worker, as Safari has none."""
    route = "wasm/phone_worker.js"
    server.replaced[route] = b"delete WebAssembly.Suspending;\n" + (server.content(route) or b"")


def test_weights_in_a_file_of_their_own_compute_the_same(phone: Phone, serve_split: ServeSplit) -> None:
    with serve_split() as (server, address):
        phone.open(address, external="1")
        assert "in files of their own" in phone.text("device")
        phone.start()
        phone.until_done()
        phone.open(address, external="1")
        assert "nothing: all files are kept" in phone.text("device")
    (run,) = server.runs
    assert (run.verdict, run.errors, run.faults(thresholds_of(server.job))) == ("passed", [], [])
    assert (run.external, run.jspi) == (True, True)
    (one,) = run.components
    assert (one.used, one.accepted) == ("webgpu", True)
    assert all(check.identical_to_first for check in run.checks)
    assert {MODEL, WEIGHTS, "wasm/litert_wasm_jspi_internal.wasm"} <= set(server.asked)
    assert WHOLE not in server.asked
    assert "in files of their own" in (run.unstorable() or "")


@pytest.mark.slow
def test_integer_weights_are_taken_too(
    phone: Phone, built_page: Path, recorded: Callable[[Bundle], Golden], tmp_path: Path
) -> None:
    """Those of a fully connected layer the runtime reads from a stream, and not from its file system."""
    bundle = exported(tmp_path / "shapes-64-mobile", "--quantize", "gpu-int8")
    with serving(built_page, bundle, recorded(bundle), "vae_decoder", tmp_path) as (server, address):
        phone.run(address, external="1")
    (run,) = server.runs
    assert (run.verdict, run.external, run.faults(thresholds_of(server.job))) == ("passed", True, [])


def test_the_weights_are_those_of_the_file(phone: Phone, serve_split: ServeSplit) -> None:
    with serve_split() as (server, address):
        wrong = bytes(len(server.replaced[WEIGHTS]))
        server.replaced[WEIGHTS] = wrong
        server.job["files"][FILE]["external"]["weights"] = entry_of(WEIGHTS, wrong)
        phone.run(address, external="1")
    (run,) = server.runs
    assert run.verdict == "failed"
    assert f"{NAME}: " in run.reason
    assert run.components[0].error is None
    assert not any(check.passed for check in run.checks)


def test_damaged_weights_are_named(phone: Phone, serve_split: ServeSplit) -> None:
    with serve_split() as (server, address):
        data = bytearray(server.replaced[WEIGHTS])
        data[100] ^= 1
        server.replaced[WEIGHTS] = bytes(data)
        phone.run(address, external="1")
    assert f"{FILE}, weights is damaged" in phone.text("reason")


@pytest.mark.parametrize("jspi", [True, False])
def test_what_fits_in_no_other_way_is_split_where_the_browser_can(
    phone: Phone, serve_split: ServeSplit, jspi: bool
) -> None:
    with serve_split() as (server, address):
        server.job["memory"]["limit_bytes"] = int(3.8 * server.job["files"][FILE]["size"])
        if not jspi:
            without_jspi(server)
        phone.open(address)
        assert ("in files of their own" in phone.text("device")) == jspi
        assert phone.page.is_enabled("#start") == jspi
        if jspi:
            phone.start()
            phone.until_done()
            (run,) = server.runs
            assert (run.verdict, run.external, run.way) == ("passed", True, "all resident")
        else:
            assert "Nothing is loaded, because nothing fits" in phone.text("refusal")


@pytest.mark.parametrize("case", ["no JSPI", "the CPU", "it is not asked for"])
def test_files_are_whole_everywhere_else(phone: Phone, serve_split: ServeSplit, case: str) -> None:
    asked = {
        "no JSPI": {"external": "1"},
        "the CPU": {"external": "1", "accelerator": "wasm"},
        "it is not asked for": {},
    }
    with serve_split() as (server, address):
        if case == "no JSPI":
            without_jspi(server)
        phone.run(address, **asked[case])
    (run,) = server.runs
    assert (run.verdict, run.external, run.jspi) == ("passed", False, case != "no JSPI")
    assert WHOLE in server.asked
    assert not any(route.startswith(("external/", "wasm/litert_wasm_jspi")) for route in server.asked)


def test_less_memory_is_reckoned_with_and_the_pieces_are_loaded(modules: Modules) -> None:
    pieces = {"name": "a.weights", "model": {"size": 3, "sha256": "m"}, "weights": {"size": 98, "sha256": "w"}}
    job = {
        "memory": {"plain_factor": 4.0, "external_factor": 2.5, "limit_bytes": 300, "ios_limit_bytes": 100},
        "files": {"a": {"size": 100, "external": pieces}, "metadata.json": {"size": 7}},
        "components": [{"name": "unet", "parts": [{"file": "a"}]}],
        "stages": [],
    }
    script = """
      const plan = m.memoryPlan(given[0], { ios: false, external: given[1] });
      return [plan.whole, plan.wholeFits, m.bytesToLoad(given[0], plan, new Set(given[2]))];
    """
    assert modules.call("memory.js", script, job, False, []) == [400, False, 7]  # it is not loaded
    assert modules.call("memory.js", script, job, True, []) == [4 * 3 + 2.5 * 98, True, 108]
    assert modules.call("memory.js", script, job, True, ["a, weights"]) == [4 * 3 + 2.5 * 98, True, 10]
    job["files"]["a"]["widened"] = 90  # weights of 8 bits, which grow
    assert modules.call("memory.js", script, job, False, []) == [4 * 190, False, 7]
    assert modules.call("memory.js", script, job, True, [])[:2] == [4 * 3 + 2.5 * 188, False]
