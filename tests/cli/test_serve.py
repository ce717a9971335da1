"""`sdmobile serve`: how it begins and ends, and with which number."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdmobile.cli.app import run
from sdmobile.validate.serve import session
from tests.fuzz.bundles import small_bundle
from tests.validate.serve.site import built_page, paper_bundle, prepared, run_of, with_golden


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDMOBILE_GPU_HOME", str(tmp_path / "gpu"))
    monkeypatch.setenv("SDMOBILE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SDMOBILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    built_page(tmp_path / "gpu")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = paper_bundle(tmp_path / "bundle")
    with_golden(folder)
    return folder


def _post(address: str, name: str, document: Any) -> int:
    host, _, path = address.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("POST", f"/{path}{name}", json.dumps(document), {"Content-Type": "application/json"})
    return connection.getresponse().status


def _sends(monkeypatch: pytest.MonkeyPatch, *documents: dict[str, Any], bundle: Path) -> None:
    """Lets a phone send results as soon as the server waits for it."""
    wait = session.wait_for_phone

    def waits(served: session.Session, minutes: float, once: bool) -> None:
        job = json.loads(_get(f"{served.address}job.json"))
        for changes in documents:
            document = {**run_of(prepared(bundle)), **changes, "job": job["id"]}
            document["components"] = [{**one, "seconds": [0.01] * job["runs"]} for one in document["components"]]
            document["checks"] = [{**one, "run": run} for one in document["checks"] for run in range(job["runs"])]
            assert _post(served.address, "results", document) == 201
        wait(served, minutes, once)

    monkeypatch.setattr(session, "wait_for_phone", waits)


def _get(address: str) -> bytes:
    host, _, path = address.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("GET", f"/{path}")
    return connection.getresponse().read()


def test_it_ends_by_itself(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", str(bundle), "--port", "0", "--for", "0.001"]) == 8
    captured = capsys.readouterr()
    assert captured.out.startswith("open on the phone: http://127.0.0.1:")
    assert "adb reverse tcp:" in captured.err
    assert "memory, predicted (4.8 × the files), iPhone" in captured.err
    assert "no result came: 0.001 minutes are over" in captured.err
    assert "▀" not in captured.err  # no terminal, no code


def test_weights_apart_are_asked_of_the_page_by_its_address(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "split_models", lambda *_: {})  # the bundle's files hold no model
    assert run(["serve", str(bundle), "--port", "0", "--for", "0", "--external"]) == 8
    assert capsys.readouterr().out.strip().endswith("/?external=1")
    assert run(["serve", str(bundle), "--port", "0", "--for", "0"]) == 8
    assert capsys.readouterr().out.strip().endswith("/")


def test_quietly_it_says_the_address_and_the_end(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", str(bundle), "--port", "0", "--for", "0", "-q"]) == 8
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert captured.err == "error: no result came: 0 minutes are over\n"


def test_a_result_that_passes(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _sends(monkeypatch, {}, bundle=bundle)
    arguments = ("--port", "0", "--once", "--json", "--runs", "3", "--results", str(tmp_path / "kept"))
    assert run(["serve", str(bundle), *arguments]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["passed"], document["ended"]) == (True, "a result came")
    assert Path(document["results"][0]["file"]).parent == tmp_path / "kept"
    assert sorted(file.suffix for file in (tmp_path / "kept").iterdir()) == [".json", ".png"]
    assert "open on the phone: http://" in captured.err


_WRONG = {"verdict": "failed", "reason": "the device was lost"}


@pytest.mark.parametrize(("sent", "code"), [(({}, _WRONG), 3), ((_WRONG, {}), 0)])
def test_the_last_result_counts(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, sent: tuple[dict[str, Any], ...], code: int
) -> None:
    _sends(monkeypatch, *sent, bundle=bundle)
    assert run(["serve", str(bundle), "--port", "0", "--for", "0"]) == code


def _started(bundle: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "sdmobile.cli.app", "serve", str(bundle), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("open on the phone: "), process.communicate()
    return process, line.removeprefix("open on the phone: ").strip()


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (
            signal.SIGINT,
            8,
            "no result came: Ctrl-C\nwarning: no result came after the page's last word: compiling unet.",
        ),
        (signal.SIGTERM, 143, "interrupted"),
    ],
)
def test_signals_end_it(bundle: Path, number: int, code: int, words: str) -> None:
    process, address = _started(bundle)
    try:
        assert _post(address, "progress", {"sequence": 1, "phase": "compiling", "component": "unet"}) == 204
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == code
    assert words in told
    assert "Traceback" not in told


def test_a_port_that_is_taken(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["serve", str(bundle), "--port", str(port)]) == 7
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: the port must be free: 127.0.0.1:{port}: ")
    assert told.endswith("Choose another --port")


def test_what_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    cases: list[tuple[tuple[str, ...], int, str]] = [
        ((str(tmp_path / "nowhere"),), 4, "a bundle is a folder"),
        ((str(small_bundle(tmp_path / "ios")),), 5, "is for ios"),
        ((str(bundle), "--components", "unte"), 5, "Did you mean unet?"),
        ((str(bundle), "--steps", "3"), 2, "has a table for"),
        ((str(bundle), "--key", "key.pem"), 2, "a key belongs to a certificate"),
        ((str(bundle), "--cert", "cert.pem"), 2, "a certificate is for --lan"),
        ((str(bundle), "--static", str(tmp_path / "full")), 6, "--static writes a new folder"),
        ((str(bundle), "--precision", "int8"), 2, "float16"),
        ((str(bundle), "--port", "70000"), 2, "--port"),
    ]
    for arguments, code, words in cases:
        assert run(["serve", *arguments]) == code, arguments
        told = capsys.readouterr()
        assert words in told.err, told.err
        assert told.out == ""
    (bundle / "unet.tflite").write_bytes(b"damaged")
    assert run(["serve", str(bundle)]) == 4
    assert "unet.tflite was changed or damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "arguments", "code"),
    [("cryptography", ("--lan",), 8), ("segno", ("--qr",), 8)],
)
def test_a_missing_library_names_its_extra(
    bundle: Path,
    module: str,
    arguments: tuple[str, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without(module), *sys.meta_path])
    monkeypatch.setattr(session, "lan_address", lambda: "127.0.0.1")
    assert run(["serve", str(bundle), "--port", "0", "--for", "0", *arguments]) == code
    assert "pip install 'sdmobile[phone]'" in capsys.readouterr().err


class _Without:
    """Finds no module of one name."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == self._module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_code_for_the_camera(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", str(bundle), "--port", "0", "--for", "0", "--qr"]) == 8
    assert "▀" in capsys.readouterr().err


def test_a_folder_for_any_host(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", str(bundle), "--static", str(tmp_path / "site"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "site/job.json").read_text())["id"] == document["job"]
    assert run(["serve", str(bundle), "--static", str(tmp_path / "site")]) == 6
