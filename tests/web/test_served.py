"""The page and the real server together, and the static folder on any host."""

from __future__ import annotations

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from sdmobile.formats.bundle.reading import Bundle
from sdmobile.prediction.phone_run import parse_run
from sdmobile.validate.golden import Golden, write_golden
from sdmobile.validate.golden_recording import PictureOrder
from sdmobile.validate.serve import session
from sdmobile.validate.serve.job import JobOptions, Mode
from sdmobile.validate.serve.session import Network, Prepared, Source, prepare
from sdmobile.validate.serve.static import write_static
from tests.validate.serve.site import served
from tests.web.screens import Phone
from tests.web.test_run import COMPONENTS, furthest, picture_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built_page: Path) -> None:
    monkeypatch.setenv("SDMOBILE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))  # no phone on a cable


def _prepared(bundle: Bundle, golden: Golden, mode: Mode, components: tuple[str, ...] | None = None) -> Prepared:
    write_golden(bundle, golden)
    options = JobOptions(components, runs=1)
    return prepare(bundle.path, options, PictureOrder(), Source(), mode, lambda _: None)


def test_a_run_by_the_real_server(phone: Phone, bundle: Bundle, golden: Golden, tmp_path: Path) -> None:
    with served(_prepared(bundle, golden, "served"), tmp_path / "runs") as site:
        posted = phone.run(site.session.address, accelerator="wasm")
        (receipt,) = site.session.inbox.receipts
        assert (receipt.verdict, receipt.faults) == ("passed", ())
        assert receipt.file.name in posted
        assert [one.name for one in receipt.run.components] == COMPONENTS
        assert receipt.picture is not None
        with Image.open(receipt.picture) as image:
            assert furthest(np.asarray(image), picture_of(bundle, golden)) <= 1
    told = [line.split(" (")[0] for line in site.lines]
    assert "phone: compiling unet" in told
    assert "phone: decoding vae_decoder" in told


def test_a_run_by_tls_after_the_warning_was_passed_over(
    browser: Browser, bundle: Bundle, golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Playwright's override stands for the click on "proceed"; files are kept for the next visit all the same."""
    pytest.importorskip("cryptography")
    monkeypatch.setattr(session, "lan_address", lambda: "127.0.0.1")
    context = browser.new_context(ignore_https_errors=True)
    phone = Phone(context.new_page())
    ready = _prepared(bundle, golden, "served", ("vae_encoder",))
    with served(ready, tmp_path / "runs", Network(lan=True, port=0)) as site:
        assert site.session.address.startswith("https://")
        assert "The computer has the results" in phone.run(site.session.address, accelerator="wasm")
        (receipt,) = site.session.inbox.receipts
        assert receipt.verdict == "passed"
        phone.open(site.session.address, accelerator="wasm")
        assert "nothing: all files are kept" in phone.text("device")
    context.close()


def test_a_static_folder_on_any_host(phone: Phone, bundle: Bundle, golden: Golden, tmp_path: Path) -> None:
    """A host that sends no header of its own: no shared memory, and none is needed."""
    folder = tmp_path / "site"
    write_static(folder, _prepared(bundle, golden, "static", ("vae_encoder",)).routes)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            return

    host = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        posted = phone.run(f"http://127.0.0.1:{host.server_port}/", accelerator="wasm")
        assert posted.startswith("Nobody takes results here: save them")
        run = parse_run(phone.saved())
        assert (run.verdict, run.isolated, [one.name for one in run.components]) == ("passed", False, ["vae_encoder"])
    finally:
        host.shutdown()
        host.server_close()
        thread.join()
