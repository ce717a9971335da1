"""What a user reads when the Hub, or what answers in its place, does not do as it should."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sdmobile.checkpoints import hub_download, open_checkpoint
from sdmobile.errors import CheckpointError
from tests.hub_server import Fault, Hub, read_files

NAME = Path("someone/tiny-sd")
LIST, FILE = "/api/models/", "/resolve/"
PAGE = b"<!doctype html><html>\x1b[31mlog in to the hotel's network</html>"
FAULTS = {
    "400": (Fault(LIST, 400, b'{"error": "odd"}'), r"must take the request: .*status 400, odd"),
    "401": (
        Fault(LIST, 401, b'{"error": "Invalid token"}'),
        r"who you are: .*status 401, Invalid token\. .*log in with",
    ),
    "403": (Fault(LIST, 403), r"must allow it: someone/tiny-sd: status 403\. Use a token"),
    "404": (
        Fault(LIST, 404),
        r"must have what is asked for: someone/tiny-sd: status 404\. Correct the name, and HF_ENDP",
    ),
    "404 as a page": (Fault(LIST, 404, PAGE), r"status 404, a web page\. Correct"),
    "416": (Fault(FILE, 416), r"the part of a file.*status 416\. Remove \*\.incomplete"),
    "429": (Fault(LIST, 429, b'{"error": "Too many"}'), r"more requests than these: .*Too many\. Wait some minutes"),
    "500": (Fault(LIST, 500), r"must be in order: someone/tiny-sd: status 500\. Try again later"),
    "503 as a page": (Fault(LIST, 503, PAGE), r"must be in order: someone/tiny-sd: status 503, a web page"),
    "a page": (Fault(LIST, 200, PAGE), r"must be readable: .*something else \(JSON.*log-in page of a network"),
    "nothing": (Fault(LIST, 200), r"must be readable: .*something else"),
    "a list": (Fault(LIST, 200, b"[]"), r"must be readable: .*something else"),
    "too late": (Fault(LIST, 200, b"{}", seconds=1.5), r"does not answer \(timed out\)\. Check the network"),
    "a page for a file": (Fault(FILE, 200, PAGE), r"must be readable: .*no Hub"),
    "nothing for a file": (Fault(FILE, 200), r"must be readable: .*no Hub"),
    "a file that went": (Fault(FILE, 404, b"", (("X-Error-Code", "EntryNotFound"),)), r"every file that it lists"),
    "no access to files": (Fault(FILE, 403), r"must allow it: someone/tiny-sd: status 403\. Use"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_an_answer_is_told_by_what_it_is(
    kind: str, hub: Hub, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault, told = FAULTS[kind]
    hub.add(str(NAME), read_files(tiny_checkpoint))
    monkeypatch.setattr(hub_download, "_SECONDS", 0.5)
    with pytest.raises(CheckpointError, match=told) as caught:
        open_checkpoint(NAME)
    message = caught.value.message()
    assert message.isprintable()
    assert "None" not in message
    assert "HF_HUB_OFFLINE" not in message or kind == "too late"


def test_nobody_answers_or_nobody_that_is_known(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        free = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for endpoint, told in (
        (free, r"does not answer \(.*refused\)"),
        (hub.endpoint.replace("http:", "https:"), r"by a certificate.*SSL_CERT_FILE"),
    ):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(CheckpointError, match=told):
            open_checkpoint(NAME)


def test_files_come_through_the_client_that_is_bounded(
    hub: Hub, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Xet's own client asks no hook how much it may write, so it is not used where the Hub offers it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.add(str(NAME), read_files(tiny_checkpoint), xet=True)
    assert open_checkpoint(NAME).components["unet"].parameters > 0
    assert not any("xet" in line for line in hub.requests)
    assert any(
        line.startswith("GET ") and line.endswith("unet/diffusion_pytorch_model.safetensors") for line in hub.requests
    )
