"""Runs on WebGPU: proof that the GPU computed, silent fallback, a lost device."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.formats.bundle.reading import Bundle
from sdmobile.validate.golden import Golden
from sdmobile.validate.serve.job import thresholds_of
from tests.validate.gpu.models import WithNorm, write_case
from tests.web.conftest import Serve
from tests.web.jobs import entry_of
from tests.web.screens import Phone
from tests.web.test_run import COMPONENTS, furthest, picture_of, pixels_of

SMALL = ("vae_encoder",)


@pytest.mark.slow
def test_the_whole_pipeline_draws_the_same_picture_on_the_gpu(
    phone: Phone, serve_job: Serve, bundle: Bundle, golden: Golden
) -> None:
    with serve_job(runs=2) as (server, address):
        phone.run(address)
    (run,), (document,) = server.runs, server.documents
    assert (run.verdict, run.errors, run.faults(thresholds_of(server.job))) == ("passed", [], [])
    assert [(one.name, one.used, one.accepted) for one in run.components] == [
        (name, "webgpu", True) for name in COMPONENTS
    ]
    assert furthest(pixels_of(document), picture_of(bundle, golden)) <= 1


def test_a_component_on_the_gpu_is_proved_by_its_kernels(phone: Phone, serve_job: Serve) -> None:
    with serve_job(SMALL, runs=2) as (server, address):
        phone.open(address)
        device = phone.text("device")
        assert "swiftshader" in device
        assert "GPU (WebGPU)" in device
        phone.start()
        phone.until_done()
    (run,) = server.runs
    assert (run.verdict, run.faults(thresholds_of(server.job))) == ("passed", [])
    (one,) = run.components
    assert (one.used, one.accepted) == ("webgpu", True)
    assert one.dispatches > 10
    assert one.largest_buffer > 0
    assert run.adapter is not None
    assert run.adapter.is_software
    assert "made of software" in (run.unstorable() or "")
    assert run.limits["maxStorageBufferBindingSize"] >= 128 << 20


def test_what_the_gpu_does_not_take_is_no_silent_run_on_the_cpu(phone: Phone, serve_job: Serve, tmp_path: Path) -> None:
    data = write_case(tmp_path, "refused", WithNorm(), (1, 4, 16, 16)).path.read_bytes()
    with serve_job(SMALL, runs=1) as (server, address):
        server.replaced["bundle/vae_encoder.tflite"] = data
        server.job["files"]["vae_encoder.tflite"] = entry_of("bundle/vae_encoder.tflite", data)
        phone.run(address)
    (run,) = server.runs
    (one,) = run.components
    assert (run.verdict, one.accepted, one.seconds) == ("failed", False, [])
    assert "the GPU does not take all of vae_encoder.tflite" in phone.text("reason")


def test_a_gpu_that_is_given_nothing_is_noticed(phone: Phone, serve_job: Serve) -> None:
    """Whatever the runtime says of itself: without kernels the GPU computed nothing."""
    with serve_job(SMALL, runs=1) as (server, address):
        phone.open(address)
        # The counter wraps this method when the run starts; what passes it by is not counted.
        phone.worker.evaluate("""() => {
          const passes = GPUComputePassEncoder.prototype;
          const real = passes.dispatchWorkgroups;
          Object.defineProperty(passes, "dispatchWorkgroups", { get: () => real, set: () => {} });
        }""")
        phone.start()
        phone.until_done()
    assert "vae_encoder: the GPU was given nothing to compute" in phone.text("reason")
    assert server.runs[0].verdict == "failed"


@pytest.mark.parametrize("phase", ["timing", "compiling"])
def test_a_lost_device_ends_the_run_and_is_named(phone: Phone, serve_job: Serve, phase: str) -> None:
    with serve_job(("vae_decoder", "vae_encoder"), runs=2) as (server, address):
        phone.open(address)
        # Lost while the server is being told of the phase.
        phone.worker.evaluate(
            """(phase) => {
              const real = self.fetch;
              self.fetch = async (address, options) => {
                if (options?.body && JSON.parse(options.body).phase === phase) sdmobile.device().destroy();
                return real(address, options);
              };
            }""",
            phase,
        )
        phone.start()
        posted = phone.until_done()
    assert "The computer has the results" in posted
    (run,) = server.runs
    assert run.verdict == "failed"
    assert "the GPU device was lost (destroyed)" in run.reason
    assert [one.name for one in run.components] == ["vae_decoder"]
    assert run.phases[-1].phase == phase


def test_what_webgpu_complains_of_is_a_fault(phone: Phone, serve_job: Serve) -> None:
    with serve_job(("vae_decoder", "vae_encoder"), runs=1) as (server, address):
        phone.open(address)
        phone.worker.evaluate("""() => {
          const real = self.fetch;
          self.fetch = async (address, options) => {
            if (options?.body?.includes('"timing","component":"vae_decoder"')) {
              sdmobile.device().createBuffer({ size: 16, usage: 0 });
            }
            return real(address, options);
          };
        }""")
        phone.start()
        phone.until_done()
    (run,) = server.runs
    decoder, encoder = run.components
    assert "GPUValidationError" in (decoder.error or "")
    assert encoder.error is None
    assert run.verdict == "failed"


def test_float16_is_not_claimed_where_there_is_none(phone: Phone, serve_job: Serve) -> None:
    with serve_job(SMALL, runs=1, precision="float16") as (server, address):
        phone.run(address)
    assert "this GPU computes no float16 in the browser" in phone.text("reason")
    assert server.runs[0].verdict == "failed"
