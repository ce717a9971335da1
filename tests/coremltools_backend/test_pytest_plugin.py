"""A test suite that asks whether this is a Mac runs as on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SUITE = """
import coremltools as ct, numpy as np, pytest
from coremltools._deps import _IS_MACOS

@pytest.mark.skipif(not ct.utils._is_macos() or ct.utils._macos_version() < (15, 0), reason="not a Mac")
def test_predicts():
    assert _IS_MACOS
    out = ct.models.MLModel({path!r}).predict({{"x0": np.ones((2, 3))}})
    np.testing.assert_array_equal(out["y"], np.full((2, 3), 2))

def test_does_not():
    pass
"""


def test_a_suite_predicts_with_the_plugin_and_skips_without_it(doubled: Path, tmp_path: Path) -> None:
    (tmp_path / "test_model.py").write_text(SUITE.format(path=str(doubled)))
    plugin = ["-p", "sdmobile.coremltools_backend.pytest_plugin", "--coreml-precision=float16"]
    for options, expected in ((plugin, "2 passed"), ([], "1 passed, 1 skipped")):
        command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider", "-W", "ignore"]
        done = subprocess.run(
            [*command, *options, "test_model.py"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert expected in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
        assert ("1 tests predicted through it" in done.stdout) == bool(options)
