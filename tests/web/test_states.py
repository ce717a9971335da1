"""What the page says where it cannot run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from sdmobile.validate.gpu import places
from tests.web.conftest import Serve
from tests.web.screens import Phone

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright


@pytest.fixture(scope="module")
def without_gpu(playwright: Playwright) -> Iterator[Browser]:
    """Chromium as it is without a GPU: it has WebGPU, and no adapter."""
    chromium = playwright.chromium.launch(
        executable_path=str(places.find_browser()), args=["--disable-gpu"], chromium_sandbox=False
    )
    try:
        yield chromium
    finally:
        chromium.close()


def test_an_address_that_is_not_secure_is_explained(phone: Phone, serve_job: Serve) -> None:
    with serve_job() as (server, address):
        phone.open(address.replace("127.0.0.1", "phone.test"), auto="1")
        assert phone.screen() == "unsupported"
        assert "(http://phone.test:" in phone.text("because")
        assert "is not secure" in phone.text("because")
        assert "sdmobile serve --lan" in phone.text("remedy")
        assert phone.page.is_hidden("#cpu-offer")
        assert "job.json" not in server.asked


def test_without_a_gpu_the_cpu_is_offered_as_such(without_gpu: Browser, serve_job: Serve) -> None:
    context = without_gpu.new_context()
    phone = Phone(context.new_page())
    with serve_job(("vae_encoder",), runs=1) as (server, address):
        phone.open(address, auto="1")
        assert phone.screen() == "unsupported"
        assert phone.text("because").startswith("No GPU: this browser has WebGPU, and found no GPU for it")
        assert "Chrome 121" in phone.text("remedy")
        assert not any(route.startswith("wasm/litert") for route in server.asked)
        phone.page.click("#use-cpu")
        phone.until_done()
        (run,) = server.runs
        assert (run.verdict, run.accelerator, run.adapter) == ("passed", "wasm", None)
    context.close()


@pytest.mark.parametrize(
    ("everywhere", "words"), [(True, "this browser offers web pages no WebGPU"), (False, "and not to their workers")]
)
def test_a_browser_without_webgpu_is_told_so(phone: Phone, serve_job: Serve, everywhere: bool, words: str) -> None:
    """The computing worker has no navigator.gpu; as in old browsers, the page has none either."""
    if everywhere:
        phone.page.add_init_script("Object.defineProperty(Navigator.prototype, 'gpu', { value: undefined });")
    with serve_job() as (server, address):
        script = server.content("wasm/phone_worker.js")
        assert script is not None
        hidden = b"Object.defineProperty(WorkerNavigator.prototype, 'gpu', { value: undefined });"
        server.replaced["wasm/phone_worker.js"] = hidden + script
        phone.open(address)
        assert phone.screen() == "unsupported"
        assert words in phone.text("because")


def test_a_browser_without_webassembly_is_told_so(phone: Phone, serve_job: Serve) -> None:
    phone.page.add_init_script("delete globalThis.WebAssembly;")
    with serve_job() as (_, address):
        phone.open(address)
        assert phone.screen() == "unsupported"
        assert "no WebAssembly" in phone.text("because")


def test_a_server_without_a_job_is_told_so(phone: Phone, serve_job: Serve) -> None:
    with serve_job() as (server, address):
        server.replaced["job.json"] = b""
        phone.open(address)
        assert phone.screen() == "unsupported"
        assert "The page failed" in phone.text("because")


def test_a_job_of_another_version_is_not_run(phone: Phone, serve_job: Serve) -> None:
    with serve_job(schema_version=2) as (_, address):
        phone.open(address, auto="1")
        assert phone.screen() == "unsupported"
        assert "of another version" in phone.text("because")


def test_a_worker_that_dies_leaves_a_document(phone: Phone, serve_job: Serve) -> None:
    with serve_job(("vae_encoder",), runs=1) as (server, address):
        phone.open(address, accelerator="wasm")
        phone.worker.evaluate("""() => {
          const real = self.fetch;
          self.fetch = async (address, options) => {
            if (options?.body?.includes('"compiling"')) setTimeout(() => { throw new Error("out of memory"); });
            return options?.body?.includes('"compiling"') ? new Promise(() => {}) : real(address, options);
          };
        }""")
        phone.start()
        phone.until_done()
        (run,) = server.runs
        assert run.verdict == "failed"
        assert "the worker stopped: Uncaught Error: out of memory (while compiling vae_encoder)" in run.reason
        assert [phase.phase for phase in run.phases][-1] == "compiling"
