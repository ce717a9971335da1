"""The cache is an optimisation: many processes share it, it is checked, and it never fails an export."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdmobile.basics.files import hash_of, size_of
from sdmobile.errors import ResourceError
from sdmobile.exporters import cache as cache_module
from sdmobile.exporters.cache import ComponentCache
from tests.fuzz.stops import Way, every_stop, run_stopped


def _component(folder: Path, text: str = "weights") -> dict[str, Any]:
    """Writes a component of two files, one of them in a package, and returns its record."""
    (folder / "unet.mlpackage" / "Data").mkdir(parents=True)
    (folder / "unet.mlpackage" / "Data" / "weight.bin").write_text(text * 1000)
    (folder / "unet.json").write_text(text)
    files = ["unet.mlpackage", "unet.json"]
    paths = [folder / name for name in files]
    return {"component": "unet", "files": files, "bytes": size_of(paths), "sha256": hash_of(paths)}


@pytest.fixture
def stored(tmp_path: Path) -> tuple[ComponentCache, Path, dict[str, Any]]:
    """A cache with one component under "key", the folder it came from, and its record."""
    record = _component(tmp_path / "made")
    cache = ComponentCache(tmp_path / "cache")
    cache.store("key", tmp_path / "made", record)
    return cache, tmp_path / "made", record


def _taken(cache: ComponentCache, folder: Path) -> dict[str, Any] | None:
    folder.mkdir()
    record = cache.take("key", folder)
    if record is None:
        assert list(folder.iterdir()) == []
    else:
        paths = [folder / name for name in record["files"]]
        assert (size_of(paths), hash_of(paths)) == (record["bytes"], record["sha256"])
    return record


def _inodes(folder: Path) -> set[int]:
    return {path.stat().st_ino for path in folder.rglob("*")}


def test_what_is_taken_is_the_takers_own(stored: tuple[ComponentCache, Path, Any], tmp_path: Path) -> None:
    cache, _, record = stored
    assert cache.has("key")
    assert not cache.has("another")
    assert _taken(cache, tmp_path / "first") == record
    assert _taken(cache, tmp_path / "second") == record
    folders = [tmp_path / name for name in ("cache", "made", "first", "second")]
    assert len(set.union(*map(_inodes, folders))) == sum(len(_inodes(folder)) for folder in folders)
    (tmp_path / "first" / "unet.json").write_text("changed by whoever has it")
    assert _taken(cache, tmp_path / "third") == record


def _truncate(entry: Path) -> None:
    os.truncate(entry / "unet.mlpackage" / "Data" / "weight.bin", 10)


def _become_a_file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("a file")


def _flip(entry: Path) -> None:
    file = entry / "unet.mlpackage" / "Data" / "weight.bin"
    content = bytearray(file.read_bytes())
    content[99] ^= 1
    file.write_bytes(content)


def _rewritten(**changes: Any) -> Callable[[Path], None]:
    def damage(entry: Path) -> None:
        record = json.loads((entry / "record.json").read_text())
        (entry / "record.json").write_text(json.dumps({**record, **changes}))

    return damage


def _text(text: str) -> Callable[[Path], object]:
    return lambda entry: (entry / "record.json").write_text(text)


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        lambda entry: (entry / "unet.json").unlink(),
        lambda entry: (entry / "record.json").unlink(),
        lambda entry: shutil.rmtree(entry / "unet.mlpackage"),
        _become_a_file,
        _text("{"),
        _text("[]"),
        _text("[" * 100_000),
        _text("\ud800".encode("utf-8", "surrogatepass").decode("latin-1")),
        _rewritten(files="unet.json"),
        _rewritten(files=None),
        _rewritten(files=[1]),
        _rewritten(files=["../secret"]),
        _rewritten(files=["/etc/passwd"]),
        _rewritten(bytes="many"),
        _rewritten(sha256=None),
    ],
)
def test_a_damaged_entry_is_not_used_and_is_replaced(
    stored: tuple[ComponentCache, Path, Any], tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    cache, made, record = stored
    assert cache.root is not None
    damage(cache.root / "key")
    assert _taken(cache, tmp_path / "first") is None
    cache.store("key", made, record)
    assert _taken(cache, tmp_path / "second") == record
    assert [path.name for path in cache.root.iterdir()] == ["key"]


def test_an_entry_that_goes_while_it_is_read_is_a_miss(
    stored: tuple[ComponentCache, Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, _, _ = stored
    assert cache.root is not None
    copy, entry = cache_module.copy, cache.root / "key"

    def copy_then_remove(source: Path, target: Path) -> None:
        copy(source, target)
        shutil.rmtree(entry, ignore_errors=True)

    monkeypatch.setattr(cache_module, "copy", copy_then_remove)
    assert _taken(cache, tmp_path / "first") is None


def test_many_processes_keep_take_and_remove_one_entry(tmp_path: Path) -> None:
    records = [(tmp_path / text, _component(tmp_path / text, text)) for text in ("weights", "Weights")]
    cache = ComponentCache(tmp_path / "cache")
    end = time.monotonic() + 0.6

    def keep(number: int) -> None:
        while time.monotonic() < end:
            cache.store("key", *records[number])

    def take(number: int) -> None:
        taken = 0
        while time.monotonic() < end or taken == 0:
            taken += 1
            _taken(cache, tmp_path / f"taken-{number}-{taken}")

    def remove(_: int) -> None:
        while time.monotonic() < end:
            shutil.rmtree(tmp_path / "cache" / "key", ignore_errors=True)
            time.sleep(0.005)

    children = []
    for number, work in enumerate([keep, keep, take, take, remove]):
        child = os.fork()
        if child == 0:
            os._exit(0 if run_stopped(lambda w=work, n=number: w(n % 2), 0).done else 1)
        children.append(child)
    assert [os.WEXITSTATUS(os.waitpid(child, 0)[1]) for child in children] == [0] * 5
    cache.store("key", *records[0])
    assert _taken(cache, tmp_path / "last") == records[0][1]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]


def test_killed_at_any_system_call_the_entry_is_whole(tmp_path: Path) -> None:
    made = [(tmp_path / text, _component(tmp_path / text, text)) for text in ("weights", "Weights")]
    cache = ComponentCache(tmp_path / "cache")

    def prepare() -> Callable[[], None]:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        shutil.rmtree(tmp_path / "taken", ignore_errors=True)
        cache.store("key", *made[0])
        return lambda: cache.store("key", *made[1])

    for step, ending in every_stop(prepare, Way.KILL):
        assert ending.killed
        assert _taken(cache, tmp_path / "taken") in (made[0][1], made[1][1]), step
        cache.store("another", *made[0])
        assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["another", "key"], step


def test_what_cannot_be_kept_is_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = _component(tmp_path / "made")
    (tmp_path / "file").write_text("no folder")
    for root in (tmp_path / "file", tmp_path / "file" / "cache"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            ComponentCache(root).store("key", tmp_path / "made", record)
        assert "note: unet was not kept in the cache" in caplog.text
        assert _taken(ComponentCache(root), tmp_path / f"of-{root.name}") is None


def test_a_full_or_broken_disk_at_any_system_call_is_a_note(tmp_path: Path) -> None:
    record = _component(tmp_path / "made")

    def prepare() -> Callable[[], None]:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return lambda: ComponentCache(tmp_path / "cache").store("key", tmp_path / "made", record)

    steps = [ending for _, ending in every_stop(prepare, Way.FULL_DISK)]
    assert len(steps) > 10
    assert [ending for ending in steps if not ending.done] == []


def test_no_room_for_what_is_taken_is_no_damage(stored: tuple[ComponentCache, Path, Any], tmp_path: Path) -> None:
    """The output's disk is full then: exporting the component anew would not help."""

    def prepare() -> Callable[[], object]:
        shutil.rmtree(tmp_path / "taken", ignore_errors=True)
        (tmp_path / "taken").mkdir()
        return lambda: stored[0].take("key", tmp_path / "taken")

    steps = [ending for _, ending in every_stop(prepare, Way.FULL_DISK)]
    assert {ending.refused for ending in steps} <= {None, ResourceError.exit_code}
    assert any(ending.refused for ending in steps)
