"""Every command on bundles made to do harm: refused with a documented exit code, and no file is touched anywhere."""

from __future__ import annotations

import hashlib
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sdmobile.cli.app import app, run
from sdmobile.errors import EXIT_CHECKPOINT, EXIT_MISSING
from tests.fuzz.bundles import HOSTILE, small_bundle

# How each command is given a bundle, or what lies in one; () for a command that reads nothing of the user's.
_OPENS_BUNDLES: dict[str, tuple[str, ...]] = {
    "validate": ("BUNDLE", "--no-cache", "--report-dir", "OUT", "--bisect", "--bisect-dir", "OUT"),
    "lint": ("BUNDLE",),
    "gpu-check": ("BUNDLE",),
    "serve": ("BUNDLE", "--port", "0", "--for", "0", "--results", "OUT"),
    "generate": ("BUNDLE", "--prompt", "a circle", "--output", "OUT"),
    "profile": ("BUNDLE", "--trace", "OUT", "--measure"),
    "push": ("BUNDLE", "somebody/bundle"),
    "quantize apply": ("BUNDLE", "--recipe", "palette6", "--output", "OUT"),
    "devices add-measurement": (
        "BUNDLE",
        "--component",
        "unet",
        "--milliseconds",
        "5",
        "--place",
        "here",
        "--runtime",
        "adb gpu",
    ),
    "devices merge": ("BUNDLE", "--bundle", "BUNDLE"),
}
_OPENS_OTHERS: dict[str, tuple[str, ...]] = {
    "inspect": ("BUNDLE",),
    "export": ("BUNDLE", "--target", "ios", "--output", "OUT"),
    "quantize analyze": ("BUNDLE", "--output", "OUT", "--no-cache"),
    "quantize search": ("BUNDLE/manifest.json", "--bits", "4", "--output", "OUT"),
    "quantize curve": ("BUNDLE/manifest.json", "--output", "OUT"),
    "rewrites explain": ("BUNDLE",),
    "rewrites ablate": ("BUNDLE", "--output", "OUT"),
    "structures make": ("BUNDLE",),
    "structures verify": ("BUNDLE/manifest.json",),
    "structures list": (),
    "structures where": (),
    "train evaluate": ("BUNDLE",),
    "train evaluate-inpainting": ("BUNDLE",),
    "devices check": ("BUNDLE/manifest.json",),
    "devices show": ("BUNDLE/vocab.toml",),
    "devices compare": ("BUNDLE/vocab.toml", "cpu"),
    "devices measurements": ("BUNDLE/vocab.toml",),
    "devices fit": ("BUNDLE/vocab.toml",),
    "devices list": (),
    "quantize recipes": (),
    "rewrites list": (),
    "train shapes": (),
    "train mobile": (),
    "train dit": (),
    "train features": (),
    "doctor": (),
}
# One of each kind; tests/formats/bundle/test_hostile.py opens all of them.
_WALKED = (
    "a component's file above the bundle",
    "a link that climbs",
    "an absolute file",
    "a path of Windows",
    "a NUL in a path",
    "a device's profile above the bundle",
    "a link in a package",
    "the manifest has no end",
    "the manifest is a pipe",
    "a pipe in the bundle",
    "a context of 2^40 tokens",
    "a factor that is infinite",
    "a list that is text",
    "no listed files",
    "deep JSON",
)
_READ_BY_OTHERS = ("a link that climbs", "the manifest has no end", "the manifest is a pipe", "deep JSON")
_SECONDS = 60


class Hung(BaseException):
    """A command that waits for a pipe or reads without end; no part of the program catches it."""


def _commands(group: Any, names: tuple[str, ...] = ()) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*names, name))
        else:
            yield " ".join((*names, name))


def test_every_command_is_listed_here() -> None:
    assert set(_commands(typer.main.get_command(app))) == set(_OPENS_BUNDLES) | set(_OPENS_OTHERS)


def _state(root: Path) -> dict[str, tuple[object, ...]]:
    """Returns what each file below a folder is: kind, size, time, and the hash of its bytes or where it leads."""
    state: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        elif stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        state[path.relative_to(root).as_posix()] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return state


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def hang(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with a bundle and files of the user's wherever a path of it might lead; what is written is in it, too."""
    for name in ("in/secret.txt", "in/deep/secret.txt", "out/secret.txt", "out/notes.txt", "secret.txt", "cwd/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"the user's own {name}")
    for variable in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "SDMOBILE_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "cwd")
    small_bundle(tmp_path / "in/deep/bundle")
    return tmp_path


def _run(command: str, arguments: tuple[str, ...], world: Path) -> int:
    places = {"BUNDLE": str(world / "in/deep/bundle"), "OUT": str(world / "out/new")}
    for word, place in places.items():
        arguments = tuple(argument.replace(word, place) for argument in arguments)
    with _at_most(_SECONDS):
        return run([*command.split(), *arguments])


@pytest.mark.parametrize("harm", _WALKED)
def test_no_command_follows_a_hostile_bundle(harm: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    HOSTILE[harm](world / "in/deep/bundle")
    before = _state(world)
    for command, arguments in _OPENS_BUNDLES.items():
        code = _run(command, arguments, world)
        told = capsys.readouterr().err.strip()
        assert code == EXIT_CHECKPOINT, f"{command}: {code} {told}"
        assert len(told.splitlines()) == 1, f"{command}: {told}"
        assert told.startswith("error: ")
    assert _state(world) == before


@pytest.mark.parametrize("harm", _READ_BY_OTHERS)
def test_commands_for_other_files_leave_it_alone_too(
    harm: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = world / "in/deep/bundle"
    HOSTILE[harm](bundle)
    (bundle / "vocab.toml").symlink_to("manifest.json")
    before = _state(world)
    for command, arguments in _OPENS_OTHERS.items():
        if arguments:
            code = _run(command, arguments, world)
            assert 2 <= code <= EXIT_MISSING, f"{command}: {code} {capsys.readouterr().err}"
    assert _state(world) == before
