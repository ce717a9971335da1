"""Builds the page of the browser way from its lock file, and installs Chromium where that is possible."""

from __future__ import annotations

import os
import shutil

from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.errors import MissingDependencyError
from sdmobile.validate.gpu import places
from sdmobile.validate.gpu.commands import run_quietly

_NODE_FIX = "Install Node.js 18 or newer with npm, for example from your distribution"
_BROWSER_FIX = (
    f"As root: `apt-get install chromium`. Any Chromium or Chrome will do; set {places.BROWSER_VARIABLE} to its path "
    "if it is not on the PATH"
)


def install_browser() -> str:
    """Makes sure that there is a Chromium and returns a line about it.

    Raises:
        MissingDependencyError: there is none and it cannot be installed.
    """
    browser = places.find_browser()
    if browser is not None:
        return f"{browser} is there"
    if os.environ.get(places.BROWSER_VARIABLE):
        value = os.environ[places.BROWSER_VARIABLE]
        raise MissingDependencyError(f"{places.BROWSER_VARIABLE} must name a program", value, _BROWSER_FIX)
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        why = "this is not root" if shutil.which("apt-get") else "this machine has no apt-get"
        raise MissingDependencyError("the browser way needs Chromium", f"it cannot be installed: {why}", _BROWSER_FIX)
    run_quietly(["apt-get", "-q", "update"], "read the package lists", fix=_BROWSER_FIX)
    run_quietly(
        ["apt-get", "-q", "-y", "--no-install-recommends", "install", "chromium"],
        "install Chromium",
        fix=_BROWSER_FIX,
        environment={"DEBIAN_FRONTEND": "noninteractive"},
    )
    browser = places.find_browser()
    if browser is None:
        raise MissingDependencyError("the package chromium must bring the program chromium", None, _BROWSER_FIX)
    return f"{browser} installed"


def build_page() -> str:
    """Builds the page unless it is built from the present sources, and returns a line about it.

    Raises:
        MissingDependencyError: npm is missing or fails.
    """
    target = places.page_folder()
    if places.page_is_built():
        return f"{target} is up to date"
    home = places.gpu_home()
    home.mkdir(parents=True, exist_ok=True)
    with scratch_beside(target) as folder:
        work = folder / "web"
        shutil.copytree(places.page_sources(), work, ignore=shutil.ignore_patterns("node_modules"))
        run_quietly(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            "fetch LiteRT.js and esbuild",
            fix=_NODE_FIX,
            folder=work,
        )
        site = work / "site"
        runtime = work / "node_modules" / "@litertjs" / "core" / "wasm"
        shutil.copytree(runtime, site / "wasm")
        # The runtime looks for its WebAssembly beside the worker's own script.
        for script, into in (("build", site), ("build-worker", site / "wasm")):
            run_quietly(["npm", "run", "--silent", script, "--", f"--outdir={into}"], "bundle the pages", folder=work)
        for file in ("index.html", "style.css", "phone.html"):
            shutil.copy(work / file, site / file)
        (site / "sources.sha256").write_text(places.sources_hash() + "\n", "utf-8")
        put_in_place(site, target, overwrite=True)
    return f"{target} built"
