"""An output is the old one or the new one, whole, wherever the program is stopped; nothing of another is lost."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from sdmobile.basics import renames
from sdmobile.basics.files import write_whole
from sdmobile.basics.scratch import MARK, put_in_place, scratch_beside, sweep, temporary_folder
from sdmobile.cli.app import run
from sdmobile.errors import EXIT_OUTPUT, EXIT_RESOURCES, OutputError, ResourceError
from sdmobile.formats.bundle import writing
from tests.fuzz.case import Outcome
from tests.fuzz.kinds.processes import MadeUp, stopped
from tests.fuzz.made_up import content, export, fill, hidden, race
from tests.fuzz.stops import Way, every_stop, run_stopped


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process has written is there: only a power failure loses what was not synchronised."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def _prepared(tmp_path: Path, old: str | None, overwrite: bool) -> tuple[Path, Callable[[], Callable[[], None]]]:
    """Returns an output and what lays out the folder anew and returns an export of "new"."""
    out = tmp_path / "out"

    def prepare() -> Callable[[], None]:
        for path in (out, *tmp_path.iterdir()):
            _remove(path)
        if old is not None:
            fill(out, old)
        return lambda: export(out, "new", overwrite)

    return out, prepare


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("plain_renames", [False, True])
@pytest.mark.parametrize("old", [None, "old"])
def test_killed_before_any_system_call_a_bundle_is_whole(tmp_path: Path, old: str | None, plain_renames: bool) -> None:
    out, prepare = _prepared(tmp_path, old, overwrite=True)
    stops = 0
    for step, ending in every_stop(prepare, Way.KILL, plain_renames):
        assert ending.killed, ending
        if not plain_renames:
            assert content(out) in (old, "new"), step  # at every moment, before anything is repaired
        writing.check_output(out, overwrite=True)
        assert content(out) in (old, "new"), step  # the next run puts back what was moved aside
        export(out, "newer", overwrite=True)
        assert content(out) == "newer"
        assert hidden(tmp_path) == [], step
        stops += 1
    assert stops > 15


def test_killed_while_it_repairs_a_bundle_is_whole(tmp_path: Path) -> None:
    """The repair of what was left between the two plain renames may be stopped, too."""
    out, prepare = _prepared(tmp_path, "old", overwrite=True)
    for _, ending in every_stop(prepare, Way.KILL, plain_renames=True):
        if ending.killed and not out.exists():
            break
    else:
        pytest.fail("no stop left the name free")
    left = {path.name: path for path in tmp_path.iterdir()}
    copy = tmp_path / "copy"

    def again() -> Callable[[], None]:
        import shutil

        _remove(copy)
        copy.mkdir()
        for name, path in left.items():
            shutil.copytree(path, copy / name)
        return lambda: writing.check_output(copy / "out", overwrite=True)

    for step, ending in every_stop(again, Way.KILL, plain_renames=True):
        assert ending.killed
        writing.check_output(copy / "out", overwrite=True)
        assert content(copy / "out") == "old", step
        sweep(copy)
        assert hidden(copy) == []


@pytest.mark.parametrize("way", Way)
def test_stopped_at_random_nothing_is_lost(tmp_path: Path, way: Way) -> None:
    """The search that `make fuzz` goes on with."""
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        verdict = stopped(MadeUp(), Random(number), tmp_path / str(number), way)
        assert verdict.outcome is Outcome.RIGHT or (way is Way.FULL_DISK and "lost sight" in verdict.words), verdict


@pytest.mark.parametrize("plain_renames", [False, True])
def test_a_signal_at_any_system_call_cleans_up(tmp_path: Path, plain_renames: bool) -> None:
    out, prepare = _prepared(tmp_path, "old", overwrite=True)
    for step, ending in every_stop(prepare, Way.SIGNAL, plain_renames):
        assert ending.interrupted, (step, ending)
        assert content(out) in ("old", "new"), step
        assert hidden(tmp_path) == [], step


@pytest.mark.parametrize("plain_renames", [False, True])
def test_a_disk_that_is_full_at_any_system_call_is_told(tmp_path: Path, plain_renames: bool) -> None:
    out, prepare = _prepared(tmp_path, "old", overwrite=True)
    told = 0
    for step, ending in every_stop(prepare, Way.FULL_DISK, plain_renames):
        assert ending.fault is None, (step, ending)
        assert ending.refused in (None, EXIT_RESOURCES), (step, ending)
        assert content(out) == ("old" if ending.refused else "new"), step
        told += ending.refused is not None
        sweep(tmp_path)
        assert hidden(tmp_path) == [], step
    assert told > 8


@pytest.mark.parametrize("plain_renames", [False, True])
@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("old", [None, "old"])
def test_a_single_file_is_whole_wherever_it_is_stopped(
    tmp_path: Path, old: str | None, way: Way, plain_renames: bool
) -> None:
    file = tmp_path / "picture.png"

    def prepare() -> Callable[[], None]:
        for path in tmp_path.iterdir():
            path.unlink()
        if old is not None:
            file.write_text(old)
        return lambda: write_whole(file, b"new", overwrite=old is not None)

    for step, ending in every_stop(prepare, way, plain_renames):
        assert ending.fault is None
        assert (file.read_text() if file.exists() else None) in (old, "new"), step
        sweep(tmp_path)
        assert hidden(tmp_path) == [], step


@pytest.mark.parametrize("plain", [False, True])
def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    if plain:
        monkeypatch.setattr(renames, "_system_call", lambda: None)
    out, file = tmp_path / "out", tmp_path / "picture.png"
    with writing.staging(out) as work:
        fill(work / "bundle", "mine")
        fill(out, "theirs")
        with pytest.raises(OutputError, match="appeared meanwhile"):
            writing.put_in_place(work / "bundle", out, overwrite=False)
    assert content(out) == "theirs"
    file.write_text("theirs")
    with pytest.raises(OutputError, match="appeared meanwhile"):
        write_whole(file, b"mine", overwrite=False)
    assert file.read_text() == "theirs"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("plain", [False, True])
def test_overwrite_takes_no_folder_that_is_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    """Also if it takes the bundle's place during the export, up to the exchange itself."""
    if plain:
        monkeypatch.setattr(renames, "_system_call", lambda: None)
    out = tmp_path / "out"
    with writing.staging(out) as work:
        fill(work / "bundle", "mine")
        out.mkdir()
        (out / "cat.png").write_text("meow")
        with pytest.raises(OutputError, match="replaces what sdmobile wrote"):
            writing.put_in_place(work / "bundle", out, overwrite=True)
    looks = iter([not plain, False])
    with scratch_beside(out) as work:
        (work / "made").mkdir()
        with pytest.raises(OutputError, match="replaces what sdmobile wrote"):
            put_in_place(work / "made", out, True, lambda _: next(looks))
    assert (out / "cat.png").read_text() == "meow"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("plain", [False, True])
def test_of_two_at_one_output_one_wins_and_the_other_says_so(tmp_path: Path, plain: bool) -> None:
    for number in range(4):
        out = tmp_path / f"out-{number}"
        assert race(out, overwrite=False, plain_renames=plain) == [0, EXIT_OUTPUT]
        assert content(out) in ("first", "second")
        assert race(out, overwrite=True, plain_renames=plain) == [0, 0]
        assert content(out) in ("first", "second")
    assert hidden(tmp_path) == []


def test_the_living_keep_their_folders_and_the_dead_lose_them(tmp_path: Path) -> None:
    with scratch_beside(tmp_path / "out") as mine:
        (mine / "half").write_text("work")
        ending = run_stopped(lambda: _left_in(tmp_path), 0)
        assert ending.killed
        assert len(hidden(tmp_path)) == 2
        old = 10 * 365 * 86400
        os.utime(mine.parent, (old, old))  # age does not matter
        sweep(tmp_path)
        assert hidden(tmp_path) == [mine.parent.name]
        assert (mine / "half").read_text() == "work"
    assert hidden(tmp_path) == []


def _left_in(folder: Path) -> None:
    with scratch_beside(folder / "out") as work:
        (work / "half").write_text("work")
        os.kill(os.getpid(), signal.SIGKILL)


def test_nothing_is_swept_that_is_another_s(tmp_path: Path) -> None:
    """Neither a user's own hidden files nor what a link leads to."""
    for name in (".config", f"photos{MARK}1", ".sdmobile"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cat.png").write_text("meow")
    (tmp_path / f".link{MARK}2").symlink_to(tmp_path / ".config")
    trap = tmp_path / f".trap{MARK}3"
    trap.mkdir()
    (trap / "lock").symlink_to(tmp_path / "made-by-the-lock")
    (trap / "work").symlink_to(tmp_path / ".config")
    sweep(tmp_path)
    for name in (".config", f"photos{MARK}1", ".sdmobile"):
        assert (tmp_path / name / "cat.png").read_text() == "meow"
    assert not (tmp_path / "made-by-the-lock").exists()


def test_folders_for_temporary_files_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def die() -> None:
        with temporary_folder("gpu"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert run_stopped(die, 0).killed
    assert len(hidden(tmp_path)) == 1
    with temporary_folder("gpu") as folder:
        assert hidden(tmp_path) == [folder.parent.name]
    assert hidden(tmp_path) == []


def test_a_link_at_the_output_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "bundle")
    export(tmp_path / "out", "first", overwrite=False)
    export(tmp_path / "out", "second", overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert content(tmp_path / "disk" / "bundle") == "second"


def test_a_device_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, b"content")
    assert os.read(reading, 100) == b"content"
    os.close(reading)
    assert pipe.is_fifo()


def test_long_names_and_the_umask(tmp_path: Path) -> None:
    name = "ü" * 120 + ".json"  # 245 bytes of at most 255
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / name, b"content")
        export(tmp_path / "ü" / ("ö" * 127), "new", overwrite=False)
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "ü" / ("ö" * 127)).stat().st_mode & 0o777 == 0o750


def test_places_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for out in (tmp_path / "file" / "out", tmp_path / "file" / "deeper" / "out"):
        with pytest.raises(OutputError, match="file"):
            writing.check_output(out, overwrite=False)
        with pytest.raises(OutputError, match="file"):
            write_whole(out, b"content")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder"):
        write_whole(tmp_path / "folder", b"content")
    assert hidden(tmp_path) == []


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Yields a function that mounts an empty file system of one megabyte; needs root on Linux."""
    import subprocess

    places: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"mount-{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size=1m,{options}", "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            pytest.skip("no mount")
        if done.returncode != 0:
            pytest.skip("a file system cannot be mounted here")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full(mounted: Callable[[str], Path]) -> None:
    disk = mounted("mode=755")
    export(disk / "out", "old", overwrite=False)
    with pytest.raises(ResourceError, match="room"):
        export(disk / "out", "x" * 900_000, overwrite=True)
    with pytest.raises(ResourceError, match="room"):
        write_whole(disk / "picture.png", bytes(2_000_000))
    assert content(disk / "out") == "old"
    assert sorted(path.name for path in disk.iterdir()) == ["out"]


def test_a_disk_that_is_read_only(mounted: Callable[[str], Path]) -> None:
    disk = mounted("ro")
    with pytest.raises(OutputError, match="Read-only"):
        export(disk / "out", "new", overwrite=False)
    with pytest.raises(OutputError, match="Read-only"):
        write_whole(disk / "picture.png", b"new")


def test_a_bundle_is_not_written_into_a_checkpoint(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    before = sorted(copy.rglob("*"))
    for out in (copy / "out", copy / "unet" / "out", copy / "unet"):
        with pytest.raises(OutputError, match=r"into a checkpoint: .* is in .*copy\. Choose another -o"):
            writing.check_output(out, overwrite=True)
    monkeypatch.chdir(copy)
    asked = ["export", ".", "--target", "onnx"]  # whose bundle would be copy/copy-onnx
    assert run(asked) == run([*asked, "-o", "out"]) == run([*asked, "-o", "../copy/vae/new"]) == 6
    assert sorted(copy.rglob("*")) == before
    with pytest.raises(OutputError, match="replaces bundles only"):
        writing.check_output(copy, overwrite=True)
    writing.check_output(tmp_path / "copy-onnx", overwrite=False)  # beside it


def test_a_bundle_is_not_written_into_another(onnx_bundle: Path, tmp_path: Path) -> None:
    inner = onnx_bundle / "tokenizer" / "inner"
    with pytest.raises(OutputError, match="into another one"):
        writing.check_output(inner, overwrite=False)
    assert not inner.exists()
    (tmp_path / "manifest.json").write_text("{}")  # of a web application, say
    writing.check_output(tmp_path / "out", overwrite=False)
