"""From a bundle to what is served: the job, what is refused before that, what fits, a folder, an address, a cable."""

from __future__ import annotations

import hashlib
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdmobile.errors import MissingDependencyError, OutputError, ResourceError, UnsupportedError, UsageError
from sdmobile.formats.bundle.reading import BundleError, open_bundle
from sdmobile.formats.bundle.writing import seal
from sdmobile.formats.errors import FormatError
from sdmobile.validate.golden_recording import PictureOrder
from sdmobile.validate.serve import address, memory, session, splitting
from sdmobile.validate.serve.cable import joined
from sdmobile.validate.serve.job import JobOptions
from sdmobile.validate.serve.memory import LIMIT_BYTES, PLAIN_FACTOR, fits_plainly, held, what_fits
from sdmobile.validate.serve.session import Prepared, Source, prepare
from sdmobile.validate.serve.static import write_static
from tests.fuzz.bundles import small_bundle
from tests.lint.corpus.graph import Graph, options
from tests.validate.serve.site import paper_bundle, prepared, with_golden


def _prepare(bundle: Path, options: JobOptions | None = None, order: PictureOrder | None = None) -> Prepared:
    return prepare(bundle, options or JobOptions(), order or PictureOrder(), Source(), "served", lambda _: None)


def test_the_job_says_what_the_files_take(ready: Prepared) -> None:
    job = ready.job
    assert (job["kind"], job["mode"], job["runs"], job["precision"]) == ("sdmobile-phone-job", "served", 2, "float32")
    unet = next(one for one in job["components"] if one["name"] == "unet")
    (part,) = unet["parts"]
    assert part["file"] == "unet.tflite"
    assert part["inputs"][0] == {"name": "sample", "shape": [2, 4, 4, 4], "dtype": "float32"}
    assert (unet["calls"], unet["threshold_db"]) == (2, 35.0)
    assert job["picture"]["prompt"] == "a circle"
    for name, entry in job["files"].items():
        data = {"golden.json": ready.golden.text, "golden.bin": ready.golden.data}.get(name)
        data = data or ready.bundle.files[name].read_bytes()
        assert (entry["size"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest()), name
    assert "README.md" not in job["files"]
    assert "files.json" in job["files"]


def test_a_components_files_alone_are_listed(bundle: Path) -> None:
    job = _prepare(bundle, JobOptions(("unet",))).job
    assert [name for name in job["files"] if name.endswith(".tflite")] == ["unet.tflite"]
    assert job["no_picture"] == "text_encoder, vae_decoder shall not run"


def test_each_job_has_a_name_of_its_own(bundle: Path) -> None:
    assert _prepare(bundle).job["id"] != _prepare(bundle).job["id"]


def test_what_the_page_cannot_draw(tmp_path: Path) -> None:
    folder = paper_bundle(tmp_path / "half", ("unet",))
    with_golden(folder)
    assert _prepare(folder).job["no_picture"] == "the bundle has no text_encoder and no vae_decoder"
    controlled: Any = {"control": {"kind": "controlnet", "name": "c", "maps": [[4, 4]]}}
    folder = paper_bundle(tmp_path / "controlled", **controlled)
    with_golden(folder)
    assert "a control network" in _prepare(folder).job["no_picture"]


def test_a_bundle_for_an_iphone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"is for ios\. Export with --target android"):
        _prepare(small_bundle(tmp_path / "ios", "ios"))


def test_a_changed_file_is_named(bundle: Path) -> None:
    (bundle / "unet.tflite").write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"unet\.tflite was changed"):
        _prepare(bundle)


def test_a_list_that_says_something_else_is_refused(bundle: Path) -> None:
    """By `validate`, too, before it looks for a checkpoint."""
    from sdmobile.formats.bundle.file_list import FILE_LIST
    from sdmobile.validate.check import validate_bundle
    from sdmobile.validate.options import ValidationOptions

    document = json.loads((bundle / FILE_LIST).read_text())
    document["files"][0]["size"] += 1
    data = json.dumps(document).encode()
    (bundle / FILE_LIST).write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][FILE_LIST] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    for check in (_prepare, lambda folder: validate_bundle(folder, ValidationOptions())):
        with pytest.raises(BundleError, match=f"must say the same of every file: {document['files'][0]['path']}"):
            check(bundle)


def test_a_link_in_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("the user's own")
    (bundle / "more.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(BundleError, match=r"more\.txt' is a symbolic link"):
        _prepare(bundle)


def test_a_link_in_the_place_of_recorded_calls_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "golden.bin").rename(tmp_path / "golden.bin")
    (bundle / "golden.bin").symlink_to(tmp_path / "golden.bin")
    with pytest.raises(BundleError, match="symbolic link"):
        _prepare(bundle)


def test_an_unknown_component_is_named(bundle: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"unte.*Did you mean unet\?"):
        _prepare(bundle, JobOptions(("unte",)))


def test_steps_without_a_table_are_wrong_usage(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"scheduler\.json has a table for: 3"):
        _prepare(bundle, order=PictureOrder(steps=3))


def test_a_page_that_is_not_built_is_said(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "gpu/page/phone.js").unlink()
    with pytest.raises(MissingDependencyError, match="make gpu-setup"):
        _prepare(bundle)


def test_another_page_is_not_built(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "gpu/page/sources.sha256").write_text("0" * 64)
    with pytest.raises(MissingDependencyError, match="none of today's"):
        _prepare(bundle)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "is_installed", lambda name: name != "torch")


@pytest.mark.usefixtures("no_torch")
def test_without_pytorch_the_bundles_own_calls_do(bundle: Path, tmp_path: Path) -> None:
    assert _prepare(bundle).job["picture"]["seed"] == 7
    assert _prepare(bundle, order=PictureOrder("a circle", 7, 2)).job["picture"]["seed"] == 7
    with pytest.raises(
        MissingDependencyError, match=r"has none of these components or of this picture.*sdmobile\[torch"
    ):
        _prepare(bundle, order=PictureOrder("a square"))
    bare = paper_bundle(tmp_path / "bare")
    with pytest.raises(MissingDependencyError, match="it has none"):
        _prepare(bare)
    with_golden(bare, drawn=False)
    assert "drew no picture" in _prepare(bare).job["no_picture"]


@pytest.mark.usefixtures("no_torch")
def test_calls_of_another_bundle_do_not_do(bundle: Path, tmp_path: Path) -> None:
    document = json.loads((bundle / "golden.json").read_text())
    (bundle / "golden.json").write_text(json.dumps({**document, "bundle_sha256": "0" * 64}))
    with pytest.raises(MissingDependencyError, match="belongs to another bundle"):
        _prepare(bundle)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"unet": [10 << 20]}, ("fits", "fits")),
        ({"unet": [200 << 20], "vae_decoder": [100 << 20]}, ("fits", "one file at a time")),
        ({"unet": [250 << 20, 250 << 20]}, ("one file at a time", "not even a file of unet fits")),
        ({"unet": [500 << 20]}, ("not even a file of unet fits", "not even a file of unet fits")),
    ],
)
def test_what_fits_is_said_before_a_download(sizes: dict[str, list[int]], words: tuple[str, str]) -> None:
    android, iphone = what_fits(sizes)
    assert words[0] in android
    assert words[1] in iphone
    assert "iPhone" in iphone


def test_the_limit_itself_fits() -> None:
    largest = int(LIMIT_BYTES / PLAIN_FACTOR)
    assert "all at once; fits" in what_fits({"unet": [largest]})[0]
    assert "not even" in what_fits({"unet": [largest + 1]})[0]


def test_both_figures_are_told_where_weights_can_be_had_apart() -> None:
    sizes = {"unet": [int(LIMIT_BYTES / 3)]}
    assert not fits_plainly(sizes)
    pieces = {"model": {"size": 1 << 20}, "weights": {"size": sizes["unet"][0] - (1 << 20)}}
    entry = {"size": sizes["unet"][0], "external": pieces}
    assert held(entry) == pytest.approx(4.8 * 2**20 + 2.7 * (sizes["unet"][0] - 2**20))
    assert held({"size": 100}) == pytest.approx(480)
    plain, split, iphone = what_fits(sizes, {"unet": [held(entry)]})
    assert ("4.8 ×" in plain, "not even" in plain) == (True, True)
    assert ("2.7 ×" in split, "JSPI" in split, "all at once; fits" in split) == (True, True, True)
    assert ("4.8 ×" in iphone, "iPhone" in iphone) == (True, True)


def _wide_layer() -> bytes:
    graph = Graph()
    x = graph.input((1, 64))
    (wide,) = graph.op("DEQUANTIZE", [graph.weights(32, 64, dtype="float16")], (32, 64))
    (y,) = graph.op("FULLY_CONNECTED", [x, wide, graph.weights(32)], (1, 32))
    return graph.bytes(y)


def _large_convolution(channels: int) -> bytes:
    graph = Graph()
    stride = options("Conv2D", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    inputs = [graph.input((1, 32, 32, channels)), graph.weights(64, 3, 3, channels), graph.weights(64)]
    return graph.bytes(*graph.op("CONV_2D", inputs, (1, 32, 32, 64), options=stride))


def _with_model(bundle: Path, model: bytes) -> Path:
    """Puts a real model in the place of the UNet's and seals the bundle again."""
    (bundle / "unet.tflite").write_bytes(model)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in ("manifest.json", "files.json", "golden.json", "golden.bin"):
        (bundle / name).unlink()
    seal({key: value for key, value in manifest.items() if key != "files"}, bundle, "# paper\n")
    with_golden(bundle)
    return bundle


@pytest.mark.parametrize(("channels", "warned"), [(908, False), (912, True)])
def test_convolutions_beyond_a_browsers_textures_are_named(bundle: Path, channels: int, warned: bool) -> None:
    lines: list[str] = []
    options = JobOptions(("unet",))
    prepare(
        _with_model(bundle, _large_convolution(channels)), options, PictureOrder(), Source(), "served", lines.append
    )
    assert ["--device phone-browser" in line for line in lines] == [True] * warned


def _split(bundle: Path, folder: Path, external: bool, tell: Callable[[str], None] = lambda _: None) -> Prepared:
    options = JobOptions(("unet",), external=external)
    return prepare(bundle, options, PictureOrder(), Source(), "served", tell, None, folder)


def test_weights_are_served_apart_where_they_were_asked_for(bundle: Path, tmp_path: Path) -> None:
    ready = _split(_with_model(bundle, _wide_layer()), tmp_path, external=True)
    entry = ready.job["files"]["unet.tflite"]["external"]
    assert entry["name"] == "unet.weights"
    for part in ("model", "weights"):
        asset = ready.routes[entry[part]["url"]]
        with asset.opened() as file:
            data = file.read()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry[part]["size"], entry[part]["sha256"])
        assert (asset.sha256, asset.lasting, asset.kind) == (entry[part]["sha256"], True, "application/octet-stream")
    assert entry["weights"]["size"] == 2 * 32 * 64
    assert any("2.7 ×" in line for line in ready.lines)
    write_static(tmp_path / "site", ready.routes)
    assert (tmp_path / "site/external/unet.weights").stat().st_size == entry["weights"]["size"]


def test_weights_are_served_apart_where_the_bundle_does_not_fit(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_model(bundle, _wide_layer())
    job = _split(bundle, tmp_path, external=False).job
    assert "external" not in job["files"]["unet.tflite"]
    assert list(tmp_path.glob("*.weights")) == []
    monkeypatch.setattr(memory, "LIMIT_BYTES", 1000)
    assert "external" in _split(bundle, tmp_path, external=False).job["files"]["unet.tflite"]


def test_without_the_library_weights_stay_where_they_are(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_model(bundle, _wide_layer())
    monkeypatch.setattr(splitting, "is_installed", lambda name: name != "ai_edge_litert")
    with pytest.raises(MissingDependencyError, match=r"sdmobile\[android\]"):
        _split(bundle, tmp_path, external=True)
    monkeypatch.setattr(memory, "LIMIT_BYTES", 1000)
    lines: list[str] = []
    ready = _split(bundle, tmp_path, external=False, tell=lines.append)
    assert "external" not in ready.job["files"]["unet.tflite"]
    assert any("weights stay in their files" in line and "sdmobile[android]" in line for line in lines)


def test_a_damaged_model_is_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"unet\.tflite"):
        _split(bundle, tmp_path, external=True)


def test_a_folder_holds_what_would_be_served(bundle: Path, tmp_path: Path) -> None:
    ready = prepare(bundle, JobOptions(), PictureOrder(), Source(), "static", lambda _: None)
    out = tmp_path / "new/site"
    write_static(out, ready.routes)
    on_disk = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert on_disk == {path or "index.html" for path in ready.routes}
    job = json.loads((out / "job.json").read_text())
    assert job["mode"] == "static"
    for entry in job["files"].values():
        assert hashlib.sha256((out / entry["url"]).read_bytes()).hexdigest() == entry["sha256"]
    again = prepare(bundle, JobOptions(), PictureOrder(), Source(), "static", lambda _: None)
    assert again.job == ready.job
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["site"]


@pytest.mark.parametrize("there", ["a file in it", "a file", "a link"])
def test_a_folder_is_never_written_over(ready: Prepared, tmp_path: Path, there: str) -> None:
    out = tmp_path / "site"
    if there == "a file in it":
        out.mkdir()
        (out / "mine").write_text("mine")
    elif there == "a file":
        out.write_text("mine")
    else:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/mine").write_text("mine")
        out.symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match="--static writes a new folder"):
        write_static(out, ready.routes)
    assert list(tmp_path.rglob("phone.js")) == [tmp_path / "gpu/page/phone.js"]


def test_an_empty_folder_is_filled(ready: Prepared, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    write_static(tmp_path / "site", ready.routes)
    assert (tmp_path / "site/index.html").read_text() == "this is phone.html"


def test_a_code_can_be_read_off_the_terminal() -> None:
    """Two half blocks a character: as many dark and light modules as the code has."""
    import segno

    text = "https://192.168.178.23:8765/AbCdEfGhIjKlMnOp/"
    lines = address.terminal_code(text).splitlines()
    code = segno.make(text, error="l", boost_error=False)
    assert len(lines[0]) >= code.symbol_size(border=4)[0]
    assert set("".join(lines)) <= set(" ▀▄█")


def test_the_address_in_the_network_is_no_loopback() -> None:
    try:
        found = address.lan_address()
    except ResourceError:
        pytest.skip("this computer is in no network")
    assert not found.startswith("127.")


def test_without_a_network_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    class Nowhere:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

        def connect(self, *_: object) -> None:
            raise OSError("Network is unreachable")

    monkeypatch.setattr(address.socket, "socket", lambda *_: Nowhere())
    monkeypatch.setattr(psutil, "net_if_addrs", dict)
    with pytest.raises(ResourceError, match="this computer has no address"):
        address.lan_address()


_ADB = """#!{python}
import pathlib, sys
here = pathlib.Path({folder!r})
with (here / "calls.txt").open("a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1:] == ["devices"]:
    print("List of devices attached\\n" + (here / "devices.txt").read_text())
elif "getprop" in " ".join(sys.argv):
    print("SM-S918B" if "model" in sys.argv[-1] else "16")
elif "reverse" in sys.argv and (here / "broken").exists():
    sys.exit("error: closed")
"""


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that answers as adb does; returns the folder with its devices and calls."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "adb").write_text(_ADB.format(python=sys.executable, folder=str(folder)))
    (folder / "adb").chmod(0o755)
    (folder / "devices.txt").write_text("R5CW\tdevice\n")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_one_phone_on_a_cable_is_joined_until_the_end(adb: Path) -> None:
    lines: list[str] = []
    with joined(8765, lines.append) as phone:
        assert phone is not None
    calls = (adb / "calls.txt").read_text().splitlines()
    assert calls[-2:] == ["-s R5CW reverse tcp:8765 tcp:8765", "-s R5CW reverse --remove tcp:8765"]
    assert lines == ["SM-S918B (Android 16, R5CW): ran adb reverse tcp:8765 tcp:8765"]


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ("", "adb sees none"),
        ("R5CW\tdevice\nemulator-5554\tdevice\n", "R5CW, emulator-5554"),
        ("R5CW\tunauthorized\n", "unauthorized"),
    ],
)
def test_otherwise_the_command_is_printed_alone(adb: Path, devices: str, words: str) -> None:
    (adb / "devices.txt").write_text(devices)
    lines: list[str] = []
    with joined(8765, lines.append) as phone:
        assert phone is None
    assert len(lines) == 1
    assert "run: adb reverse tcp:8765 tcp:8765" in lines[0]
    assert words in lines[0]
    assert "reverse" not in (adb / "calls.txt").read_text()


def test_a_cable_that_fails_is_said(adb: Path) -> None:
    (adb / "broken").touch()
    lines: list[str] = []
    with joined(1, lines.append) as phone:
        assert phone is None
    assert "error: closed" in lines[0]


def test_an_executable_bit_is_all_that_a_copy_may_differ_in(ready: Prepared, tmp_path: Path) -> None:
    write_static(tmp_path / "site", ready.routes)
    for file in (tmp_path / "site").rglob("*"):
        assert not stat.S_ISLNK(file.lstat().st_mode)


def test_recorded_calls_are_those_of_the_bundle(bundle: Path) -> None:
    from sdmobile.validate.golden import read_golden

    golden, reason = read_golden(open_bundle(bundle))
    assert reason is None
    assert golden is not None
    assert prepared(bundle).golden == golden
