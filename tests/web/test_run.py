"""Whole runs on the CPU of the browser: the picture, the document, and everything that can go wrong on the way."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sdmobile.basics.metrics import to_pixels
from sdmobile.formats.bundle.reading import Bundle
from sdmobile.prediction.phone_run import parse_run
from sdmobile.validate.golden import Golden
from sdmobile.validate.golden_recording import PictureOrder, record_golden
from sdmobile.validate.serve.job import thresholds_of
from tests.web.conftest import Serve, exported
from tests.web.jobs import JobServer, entry_of, job_of, served
from tests.web.screens import Phone

SMALL = ("vae_decoder", "vae_encoder")
COMPONENTS = ["text_encoder", "unet", "vae_decoder", "vae_encoder"]


def furthest(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """Returns the largest difference of two pictures: 0 on some processors, a rounding of one level on others."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def picture_of(bundle: Bundle, golden: Golden) -> NDArray[np.uint8]:
    """Returns what `sdmobile generate BUNDLE` draws of the picture that was recorded: LiteRT on this CPU."""
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.sampling import SampleRequest, sample
    from sdmobile.runtimes.litert import LiteRTRunner

    asked = golden.picture
    assert asked is not None
    request = SampleRequest(
        asked["prompt"], asked["negative_prompt"], asked["steps"], asked["seed"], asked["guidance_scale"], None
    )
    spec = PipelineSpec.from_bundle(bundle)
    return to_pixels(sample(LiteRTRunner(bundle.components), spec, request).image)


def pixels_of(document: dict[str, Any]) -> NDArray[np.uint8]:
    """Returns the pixels of the PNG in a document."""
    with Image.open(io.BytesIO(base64.b64decode(document["picture"]["png_base64"]))) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def test_the_whole_pipeline_draws_the_picture_of_generate(
    phone: Phone, serve_job: Serve, bundle: Bundle, golden: Golden
) -> None:
    with serve_job() as (server, address):
        assert "The computer has the results" in phone.run(address, accelerator="wasm")
    (run,), (document,) = server.runs, server.documents
    assert (run.verdict, run.errors, run.faults(thresholds_of(server.job))) == ("passed", [], [])
    assert phone.text("verdict") == "Passed"
    assert furthest(pixels_of(document), picture_of(bundle, golden)) <= 1
    assert run.way == "all resident"
    assert [one.name for one in run.components] == COMPONENTS
    for one in run.components:
        assert (one.accepted, one.used, len(one.seconds)) == (True, "wasm", 3)
        checks = [check for check in run.checks if check.component == one.name]
        assert {check.run for check in checks} == {0, 1, 2, 3}
        assert all(check.identical_to_first for check in checks)
    assert run.isolated
    assert not run.hidden
    assert "Android" in run.user_agent
    assert run.unstorable() == "it ran on the browser's CPU, which no profile knows"
    phases = [(phase.phase, phase.component) for phase in run.phases]
    for name in COMPONENTS:
        own = [
            phase
            for phase, component in phases
            if component == name and phase not in ("encoding", "sampling", "decoding")
        ]
        assert own == ["loading", "verifying", "compiling", "checking", "timing"]
    assert phases[-3:] == [("encoding", "text_encoder"), ("sampling", "unet"), ("decoding", "vae_decoder")]
    # Every phase was posted, in order, before it began.
    assert [(line["phase"], line["component"]) for line in server.lines] == phases
    assert [line["sequence"] for line in server.lines] == list(range(len(phases)))


def test_a_second_visit_loads_no_file(phone: Phone, serve_job: Serve) -> None:
    with serve_job(SMALL, runs=1) as (server, address):
        phone.run(address, accelerator="wasm")
        first, server.asked[:] = list(server.asked), []
        assert any(route.startswith("bundle/") for route in first)
        phone.open(address, accelerator="wasm")
        assert "nothing: all files are kept" in phone.text("device")
        phone.start()
        phone.until_done()
        assert not [route for route in server.asked if route.startswith(("bundle/", "golden"))]
        assert [run.verdict for run in server.runs] == ["passed", "passed"]
        # The files can be deleted, and come again.
        phone.page.click("#forget")
        phone.page.wait_for_selector("#kept", state="hidden")
        server.asked.clear()
        phone.open(address, accelerator="wasm")
        assert "nothing: all files are kept" not in phone.text("device")


def test_a_kept_file_that_was_damaged_comes_again(phone: Phone, serve_job: Serve) -> None:
    with serve_job(SMALL, runs=1) as (server, address):
        phone.run(address, accelerator="wasm")
        phone.page.evaluate("""async () => {
          const cache = await caches.open("sdmobile-files");
          for (const request of await cache.keys()) {
            const bytes = new Uint8Array(await (await cache.match(request)).arrayBuffer());
            bytes[bytes.length >> 1] ^= 1;
            await cache.put(request, new Response(bytes));
          }
        }""")
        server.asked.clear()
        phone.run(address, accelerator="wasm")
        assert "bundle/vae_decoder.tflite" in server.asked
        assert server.runs[-1].verdict == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("guidance", ["batch2", "separate"])
def test_several_steps_with_guidance(phone: Phone, built_page: Path, tmp_path: Path, guidance: str) -> None:
    """Two texts, a solver with memory, both rows in one call or in two; a preview after every step."""
    made = exported(tmp_path / "shapes-64", "--guidance", guidance)
    golden = record_golden(made, PictureOrder(steps=5, seed=7))
    server = JobServer(built_page, made, golden, job_of(made, golden, runs=4))
    with served(server) as address:
        phone.run(address, accelerator="wasm")
        shown = phone.page.get_attribute("#canvas", "aria-label")
    (run,), (document,) = server.runs, server.documents
    assert (run.verdict, run.faults(thresholds_of(server.job))) == ("passed", [])
    assert furthest(pixels_of(document), picture_of(made, golden)) <= 1
    assert run.picture is not None
    assert len(run.picture.step_seconds) == 5
    assert shown == "Preview of the latent after step 5 of 5"
    # The timed runs take turns over the recorded calls.
    labels = {check.label for check in run.checks if check.component == "unet" and check.run > 0}
    assert len(labels) == 3


@pytest.mark.slow
@pytest.mark.parametrize("draws", [True, False])
def test_one_component_after_the_other(
    phone: Phone, chunked: Bundle, built_page: Any, recorded: Callable[[Bundle], Golden], bundle: Bundle, draws: bool
) -> None:
    """A UNet in three files; where the three together do not fit, it is checked file by file and draws nothing."""
    golden = recorded(chunked)
    job = job_of(chunked, golden, runs=2)
    if not draws:
        parts = [job["files"][f"unet_{number}.tflite"]["size"] for number in (1, 2, 3)]
        job["memory"]["limit_bytes"] = int(4.8 * max(parts)) + 1
    server = JobServer(built_page, chunked, golden, job)
    with served(server) as address:
        phone.run(address, accelerator="wasm", way="each")
    (run,), (document,) = server.runs, server.documents
    assert (run.verdict, run.way, run.faults(thresholds_of(server.job))) == ("passed", "one at a time", [])
    assert len(run.components[1].seconds) == 2
    compiled = [line["detail"] for line in server.lines if line["phase"] == "compiling" and line["component"] == "unet"]
    assert compiled == ["unet_1.tflite", "unet_2.tflite", "unet_3.tflite"]
    if draws:
        assert furthest(pixels_of(document), picture_of(chunked, golden)) <= 1
    else:
        assert run.picture is None
        assert "does not fit into the runtime's memory as a whole" in run.reason


def test_a_damaged_weight_is_named(phone: Phone, serve_job: Serve, bundle: Bundle) -> None:
    data = bytearray((bundle.path / "vae_decoder.tflite").read_bytes())
    data[len(data) // 2] ^= 1
    with serve_job(SMALL, runs=1) as (server, address):
        server.replaced["bundle/vae_decoder.tflite"] = bytes(data)
        phone.run(address, accelerator="wasm")
        (run,) = server.runs
        assert run.verdict == "failed"
        assert "vae_decoder.tflite is damaged: its SHA-256 is" in phone.text("reason")
        by_name = {one.name: one for one in run.components}
        assert "vae_decoder.tflite is damaged" in (by_name["vae_decoder"].error or "")
        assert by_name["vae_encoder"].error is None  # the others are checked all the same
        assert not any(line["phase"] == "compiling" and line["component"] == "vae_decoder" for line in server.lines)


@pytest.mark.parametrize("change", [b"", b"\0" * 100])
def test_a_file_of_another_size_is_named(phone: Phone, serve_job: Serve, bundle: Bundle, change: bytes) -> None:
    data = (bundle.path / "metadata.json").read_bytes()
    with serve_job(runs=1) as (server, address):
        server.replaced["bundle/metadata.json"] = data + change if change else data[:-1]
        phone.run(address, accelerator="wasm")
        assert "metadata.json" in phone.text("reason")
        assert server.runs[0].components == []
        assert not any(route.endswith(".tflite") for route in server.asked)


_WRONG_FROM = """([first, damage]) => {
  const original = sdmobile.Tensor.prototype.data;
  let calls = 0;
  sdmobile.Tensor.prototype.data = async function () {
    const values = await original.call(this);
    if (calls++ < first) return values;
    const wrong = values.slice();
    wrong[0] = damage === "nan" ? NaN : wrong[0] + 1000;
    return wrong;
  };
}"""


@pytest.mark.parametrize(
    ("damage", "figure"), [("more", " dB, at least 35 dB is asked"), ("nan", "not finite, at least 35")]
)
def test_a_runtime_whose_second_run_is_wrong_is_noticed(
    phone: Phone, serve_job: Serve, damage: str, figure: str
) -> None:
    """As LiteRT issue 8065 has it: the first inference is right and no other."""
    with serve_job(SMALL[1:], runs=2) as (server, address):
        phone.open(address, accelerator="wasm")
        phone.worker.evaluate(_WRONG_FROM, [1, damage])
        phone.start()
        phone.until_done()
        (run,) = server.runs
        assert phone.text("verdict") == "Failed"
        reason = phone.text("reason")
        assert "vae_encoder: only the first run is right (LiteRT issue 8065): " in reason
        assert figure in reason
        assert [check.passed for check in run.checks] == [True, False, False]
        assert [check.identical_to_first for check in run.checks] == [True, False, False]
        (fault, *_) = run.faults(thresholds_of(server.job))
        assert "only the first run is right" in fault


@pytest.mark.slow
def test_a_part_whose_second_run_is_another_is_noticed(
    phone: Phone, chunked: Bundle, built_page: Any, recorded: Callable[[Bundle], Golden]
) -> None:
    golden = recorded(chunked)
    server = JobServer(built_page, chunked, golden, job_of(chunked, golden, ["unet"], runs=2))
    with served(server) as address:
        phone.open(address, accelerator="wasm")
        outputs = len(chunked.components["unet"].chain[0].contract.outputs)
        phone.worker.evaluate(_WRONG_FROM, [outputs, "more"])
        phone.start()
        phone.until_done()
    assert "unet: unet_1.tflite: run 2 gives another permute than run 1" in phone.text("reason")
    assert server.runs[0].verdict == "failed"


def test_wrong_tokens_are_noticed(phone: Phone, serve_job: Serve, golden: Golden) -> None:
    tokens = [{**golden.document["tokens"][1], "ids": golden.document["tokens"][0]["ids"]}]
    wrong = dataclasses.replace(golden, document={**golden.document, "tokens": tokens})
    with serve_job(SMALL[1:], runs=1) as (server, address):
        server.golden = wrong
        server.job["files"] |= {"golden.json": entry_of("golden.json", wrong.text)}
        phone.run(address, accelerator="wasm")
        assert 'gives other identifiers for "a photo of a cat"' in phone.text("reason")
        assert server.runs[0].verdict == "failed"


def test_a_wrong_picture_is_noticed(phone: Phone, serve_job: Serve, golden: Golden) -> None:
    place = golden.document["picture"]["expected"]["pixels"]
    data = bytearray(golden.data)
    data[place["offset"] : place["offset"] + place["bytes"]] = bytes(place["bytes"])
    wrong = dataclasses.replace(golden, data=bytes(data))
    with serve_job(runs=1) as (server, address):
        server.golden, server.job = wrong, job_of(server.bundle, wrong, runs=1)
        phone.run(address, accelerator="wasm")
        assert "the picture is not PyTorch's" in phone.text("reason")
        assert server.runs[0].verdict == "failed"


def test_a_server_that_goes_away_leaves_the_document(phone: Phone, serve_job: Serve) -> None:
    with serve_job(SMALL, runs=1) as (server, address):
        server.dies_at = "timing"
        posted = phone.run(address, accelerator="wasm")
        assert "The results were not taken (the server does not answer). Save them" in posted
        run = parse_run(phone.saved())
        assert run.verdict == "failed"
        assert "vae_encoder.tflite did not come" in run.reason
        assert len(run.components[0].seconds) == 1  # what ran already went on to its end
        assert server.runs == []


def test_results_that_are_refused_can_be_saved(phone: Phone, serve_job: Serve) -> None:
    with serve_job(SMALL, runs=1) as (server, address):
        server.refuse_results = 422
        posted = phone.run(address, accelerator="wasm")
        assert "The results were not taken (the test refuses it). Save them" in posted
        assert parse_run(phone.saved()).verdict == "passed"


def test_a_server_that_takes_no_progress_does_not_stop_the_run(phone: Phone, serve_job: Serve) -> None:
    with serve_job(SMALL[1:], runs=1) as (server, address):
        server.refuse_progress = 500
        assert "The computer has the results" in phone.run(address, accelerator="wasm")
        assert server.runs[0].verdict == "passed"
        assert len(server.lines) == 2  # it is not asked for ever


def test_a_folder_of_files_takes_no_results(phone: Phone, serve_job: Serve) -> None:
    with serve_job(SMALL, runs=1, mode="static") as (server, address):
        assert "save them" in phone.run(address, accelerator="wasm")
        assert (server.lines, server.documents) == ([], [])
        assert parse_run(phone.saved()).verdict == "passed"


def test_a_hidden_page_voids_its_times(phone: Phone, serve_job: Serve) -> None:
    phone.page.add_init_script("""
      navigator.wakeLock.request = async (kind) => {
        (globalThis.locks ??= []).push(kind);
        return { release: async () => globalThis.locks.push("released") };
      };
    """)
    with serve_job(SMALL, runs=1) as (server, address):
        phone.open(address, accelerator="wasm")
        phone.start()
        phone.page.evaluate("""() => {
          Object.defineProperty(document, "visibilityState", { get: () => "hidden", configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
          delete document.visibilityState;
          document.dispatchEvent(new Event("visibilitychange"));
        }""")
        phone.until_done()
        (run,) = server.runs
        assert (run.verdict, run.hidden) == ("passed", True)
        assert "was hidden" in phone.text("times-void")
        assert phone.page.evaluate("locks") == ["screen", "screen", "released"]


def test_what_does_not_fit_is_not_loaded(phone: Phone, serve_job: Serve) -> None:
    with serve_job() as (server, address):
        server.job["memory"]["limit_bytes"] = 1000
        phone.open(address, accelerator="wasm", auto="1")
        assert phone.screen() == "ready"
        refusal = phone.text("refusal")
        assert "Nothing is loaded, because nothing fits" in refusal
        assert re.search(r"unet: unet.tflite would need 5\d MiB of 0.0 MiB", refusal)
        assert "--chunks" in refusal
        assert phone.page.is_disabled("#start")
        assert not any(route.startswith(("bundle/", "golden", "wasm/litert")) for route in server.asked)


def test_what_fits_is_offered_where_not_everything_does(phone: Phone, serve_job: Serve) -> None:
    with serve_job(runs=1) as (server, address):
        server.job["memory"]["limit_bytes"] = 20 << 20
        phone.open(address, accelerator="wasm")
        assert phone.page.is_disabled("[value='all resident']")
        assert phone.page.is_checked("[value='one at a time']")
        assert "Not loaded, because it does not fit:\nunet: unet.tflite" in phone.text("refusal")
        phone.start()
        phone.until_done()
        (run,) = server.runs
        assert "bundle/unet.tflite" not in server.asked
        by_name = {one.name: one for one in run.components}
        assert "export with more --chunks" in (by_name["unet"].error or "")
        assert all(by_name[name].error is None for name in COMPONENTS if name != "unet")
        assert (run.verdict, run.picture) == ("failed", None)
