"""The local server: isolation headers, nothing outside the page, results where they belong."""

from __future__ import annotations

from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from sdmobile.validate.gpu.server import ISOLATION, serve


def _status(request: str | Request) -> int:
    try:
        with urlopen(request, timeout=10) as answer:
            return answer.status
    except HTTPError as error:
        return error.code


def test_page_job_and_results(tmp_path: Path) -> None:
    page, results = tmp_path / "page", tmp_path / "results"
    page.mkdir()
    results.mkdir()
    (page / "index.html").write_text("<title>x</title>")
    secret = tmp_path / "secret.txt"
    secret.write_text("s")
    with serve(page, {"/job/model.tflite": secret}, results) as address:
        with urlopen(address, timeout=10) as answer:
            assert answer.read() == b"<title>x</title>"
            assert {name: answer.headers[name] for name in ISOLATION} == ISOLATION
        assert urlopen(f"{address}job/model.tflite", timeout=10).read() == b"s"
        assert _status(f"{address}../secret.txt") == 404
        assert _status(f"{address}%2e%2e/secret.txt") == 404
        assert _status(Request(f"{address}results/0-1.bin", data=b"abc", method="PUT")) == 201
        assert _status(Request(f"{address}results/..%2fx", data=b"abc", method="PUT")) == 403
    assert (results / "0-1.bin").read_bytes() == b"abc"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "results", "secret.txt"]
    with pytest.raises(OSError, match="refused"):
        urlopen(address, timeout=10)
