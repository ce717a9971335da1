"""One browser per file, bundles with recorded calls, and what happens where the browser is not set up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdmobile.formats.bundle.reading import Bundle, open_bundle
from sdmobile.validate.golden import Golden
from sdmobile.validate.gpu import places
from sdmobile.validate.gpu.browser import FLAGS
from sdmobile.validate.gpu.check import prepare
from tests.web.jobs import JobServer, job_of, served
from tests.web.screens import Modules, Phone

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

REQUIRED = "SDMOBILE_GPU_REQUIRED"

Serve = Callable[..., AbstractContextManager[tuple[JobServer, str]]]


@pytest.fixture(scope="session")
def built_page() -> Path:
    """The built page; skips where it or the browser is missing, fails where continuous integration demands them."""
    ready = prepare("browser")
    if ready.missing is not None:
        words = f"the browser is not set up: {ready.missing}. {ready.fix}"
        if os.environ.get(REQUIRED):
            pytest.fail(words)
        pytest.skip(words)
    return places.page_folder()


@pytest.fixture(scope="module")
def playwright(built_page: Path) -> Iterator[Playwright]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Chromium with WebGPU on a software GPU."""
    flags = [*FLAGS, "--host-resolver-rules=MAP phone.test 127.0.0.1"]
    chromium = playwright.chromium.launch(
        executable_path=str(places.find_browser()), args=flags, chromium_sandbox=False
    )
    try:
        yield chromium
    finally:
        chromium.close()


@pytest.fixture
def phone(browser: Browser, playwright: Playwright) -> Iterator[Phone]:
    """A page in a browser that plays a phone."""
    context = browser.new_context(**playwright.devices["Galaxy S9+"])
    try:
        yield Phone(context.new_page())
    finally:
        context.close()


@pytest.fixture(scope="module")
def modules(browser: Browser) -> Iterator[Modules]:
    """The page's modules, as they lie in the sources, in a page without anything else."""
    context = browser.new_context()
    with served_sources() as address:
        page = context.new_page()
        page.goto(address)
        yield Modules(page)
    context.close()


@contextmanager
def served_sources() -> Iterator[str]:
    """Serves the sources of the page."""
    from sdmobile.validate.gpu.server import serve

    folder = places.page_sources()
    with serve(folder, {}, folder) as address:
        yield f"{address}package.json"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped model of one step."""
    return exported(tmp_path_factory.mktemp("phone") / "shapes-64-mobile")


@pytest.fixture(scope="session")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same with a UNet in three files."""
    return exported(tmp_path_factory.mktemp("phone-chunks") / "shapes-64-mobile", "--chunks", "3")


def exported(folder: Path, *options: str) -> Bundle:
    """Exports a shipped model, the one that the folder is called after, for Android."""
    from typer.testing import CliRunner

    from sdmobile.cli.app import app

    result = CliRunner().invoke(app, ["export", folder.name, "--target", "android", "-o", str(folder), *options])
    assert result.exit_code == 0, result.output
    return open_bundle(folder)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Bundle], Golden]:
    """Records the calls of a bundle; PyTorch samples once for all of them."""
    from sdmobile.validate.golden_recording import PictureOrder, record_golden

    cache = tmp_path_factory.mktemp("recordings")
    return lambda bundle: record_golden(bundle, PictureOrder(), cache_dir=cache)


@pytest.fixture(scope="session")
def golden(bundle: Bundle, recorded: Callable[[Bundle], Golden]) -> Golden:
    return recorded(bundle)


@pytest.fixture
def serve_job(bundle: Bundle, golden: Golden, built_page: Path) -> Serve:
    """Serves the job of the shipped model: `with serve_job(runs=1) as (server, address)`.

    With `only`, names of components, it has no others and draws no picture.
    """

    @contextmanager
    def serving(only: Sequence[str] = (), **changes: Any) -> Iterator[tuple[JobServer, str]]:
        server = JobServer(built_page, bundle, golden, job_of(bundle, golden, only, **changes))
        with served(server) as address:
            yield server, address

    return serving
