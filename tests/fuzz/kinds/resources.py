"""Files without an end, numbers without measure, and a process that is given little: memory, open files, room."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from sdmobile.errors import (
    EXIT_CHECKPOINT,
    EXIT_OK,
    EXIT_OUTPUT,
    EXIT_RESOURCES,
)
from tests.fuzz.case import MIB, Ended, Kind, Verdict, drawn_from, judge, judge_all, run_command
from tests.fuzz.runner import limit_memory

_COMMANDS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (4, ("inspect", "CHECKPOINT")),
    (1, ("inspect", "CHECKPOINT", "--json")),
    (4, ("export", "CHECKPOINT", "--target", "TARGET", "--dry-run", "--ignore-limits")),
    (1, ("generate", "CHECKPOINT", "-p", "a large red circle", "--steps", "1")),
)
"""Commands that read a checkpoint without converting it, with how often each is drawn."""

_NUMBERS: tuple[str, ...] = (
    *("0", "-1", "1", "3", "0.5", "-0.0", "1e-320", "1e308", "1e999", "-1e999", "NaN", "Infinity", "1000000000"),
    *("2147483648", "9223372036854775808", "-9223372036854775809", "1" + "0" * 30, "1" + "0" * 400, "1" * 5000),
    *("null", "true", '"8"', '""', "[]", "{}", "[1000000000]"),
    *('"' + "x" * 1_000_000 + '"', "[" + "1," * 100_000 + "1]"),
)
"""JSON values in the place of a number."""


def command_on(chance: Random, checkpoint: Path, folder: Path) -> Ended:
    """Runs one of the commands that read a checkpoint on one."""
    words = chance.choices([words for _, words in _COMMANDS], [weight for weight, _ in _COMMANDS])[0]
    values = {"CHECKPOINT": str(checkpoint), "TARGET": chance.choice(["ios", "android", "onnx"])}
    return run_command([values.get(word, word) for word in words], folder)


def _copy(folder: Path, shared: Path) -> Path:
    """Returns a copy of the checkpoint whose files may be replaced."""
    return Path(shutil.copytree(shared / "tiny", folder / "tiny"))


def _files(checkpoint: Path, *suffixes: str) -> list[Path]:
    return sorted(file for file in checkpoint.rglob("*") if file.is_file() and file.suffix in suffixes)


def _fifo(file: Path) -> None:
    os.mkfifo(file)


def _socket(file: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    os.chdir(file.parent)  # the path of a socket has at most 108 bytes
    server.bind(file.name)


def _link(target: str) -> Callable[[Path], None]:
    return lambda file: file.symlink_to(target)


def lift_file_limit() -> None:
    """Lets this process make files of any size, which may take no room."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _sparse(size: int) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.touch()
        lift_file_limit()
        os.truncate(file, size)

    return write


_ODD_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": _fifo,
    "a socket": _socket,
    "a folder": Path.mkdir,
    "no end": _link("/dev/zero"),
    "noise without end": _link("/dev/urandom"),
    "a full device": _link("/dev/full"),
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a link to nothing": _link("nothing"),
    "a file of the system": _link("/proc/kmsg"),
    "a gigabyte of zeros": _sparse(1 << 30),
    "a tebibyte of zeros": _sparse(1 << 40),
    "64 MB of blanks": lambda file: file.write_bytes(b" " * 64_000_000),
    "64 MB of brackets": lambda file: file.write_bytes(b"[" * 64_000_000),
    "nothing": Path.touch,
    "one zero": lambda file: file.write_bytes(b"\0"),
}


def _odd_file(chance: Random, folder: Path, shared: Path) -> Verdict:
    """One file of a checkpoint is something else."""
    checkpoint = _copy(folder, shared)
    file = chance.choice(_files(checkpoint, ".json", ".txt", ".safetensors"))
    file.unlink()
    _ODD_FILES[chance.choice(sorted(_ODD_FILES))](file)
    return judge(command_on(chance, checkpoint, folder))


def _deep(chance: Random, folder: Path, shared: Path) -> Verdict:
    """One JSON file goes deep, as a whole or in one of its values."""
    checkpoint = _copy(folder, shared)
    file = chance.choice(_files(checkpoint, ".json"))
    depth = chance.choice([100, 900, 1_000, 5_000, 100_000, 1_000_000])
    opening, closing = chance.choice([("[", "]"), ('{"a":', "}")])
    deep = opening * depth + chance.choice(["", "1"] if opening == "[" else ["1"]) + closing * depth
    value = json.loads(file.read_text("utf-8"))
    if chance.random() < 0.5 and isinstance(value, dict):
        key = chance.choice([*value, "more"])
        text = json.dumps({**value, key: "DEEP"}).replace('"DEEP"', deep)
    else:
        text = deep[: len(deep) if chance.random() < 0.7 else len(deep) // 2]
    file.write_text(text, "utf-8")
    return judge(command_on(chance, checkpoint, folder))


def _number(chance: Random, folder: Path, shared: Path) -> Verdict:
    """One number of a configuration is another value."""
    checkpoint = _copy(folder, shared)
    files = [file for file in _files(checkpoint, ".json") if file.name not in ("vocab.json", "tokenizer.json")]
    file = chance.choice(files)
    value: dict[str, Any] = json.loads(file.read_text("utf-8"))
    keys = [key for key in value if isinstance(value[key], int | float)] or list(value)
    text = json.dumps({**value, chance.choice(keys): "NUMBER"}).replace('"NUMBER"', chance.choice(_NUMBERS))
    file.write_text(text, "utf-8")
    return judge(command_on(chance, checkpoint, folder))


_SIZES = (
    "0",
    "-1",
    "1",
    "7",
    "8",
    "16",
    "1" + "0" * 9,
    "1" + "0" * 30,
    "1" + "0" * 5000,
    "1e3",
    "nan",
    "",
    "９",
    "0x40",
)
_FACTORS = ("nan", "inf", "-inf", "1e999", "1e308", "-1e308", "0", "-0", "7.5", "", "x", "1" + "0" * 400)
_PATHS = (
    "/dev/zero",
    "/dev/null",
    "/proc/self/mem",
    "/proc/kmsg",
    "/",
    ".",
    "",
    "x" * 300,
    "x/" * 2500,
    "\udcff",
    "nothing",
)
_TEXTS = ("", " ", "a" * 200_000, "a " * 100_000, "\0", "\udcff", "é" * 5000, "🟥 <|endoftext|> \u202e", "-", "--help")

_OPTIONS: tuple[tuple[str, str, Sequence[str]], ...] = (
    ("export", "--resolution", _SIZES),
    ("export", "--chunks", _SIZES),
    ("export", "--components", ("", ",", "unet," * 100_000, "unet,unet", "text_encoder;unet")),
    ("export", "--device", _PATHS),
    ("export", "--quantize", _PATHS),
    ("export", "--guidance", _FACTORS),
    ("export", "--output", _PATHS),
    ("export", "--without", (*_TEXTS, "geglu_split")),
    ("generate", "--steps", _SIZES),
    ("generate", "--seed", _SIZES),
    ("generate", "--guidance", _FACTORS),
    ("generate", "--prompt", _TEXTS),
    ("generate", "--negative", _TEXTS),
    ("generate", "--scheduler", _TEXTS),
    ("generate", "--threads", _SIZES),
    ("generate", "--output", _PATHS),
    ("inspect", "", _PATHS),
    ("lint", "", _PATHS),
    ("validate", "", _PATHS),
    ("profile", "", _PATHS),
    ("devices", "check", _PATHS),
)
_USUAL: dict[str, tuple[str, ...]] = {
    "export": ("tiny", "--target", "android", "--dry-run"),
    "generate": ("tiny", "--prompt", "a circle", "--steps", "1"),
}


def _option(chance: Random, folder: Path, shared: Path) -> Verdict:
    """One option of a command has an odd value; nothing is written but what the command is for."""
    _copy(folder, shared)
    command, name, values = chance.choice(_OPTIONS)
    value = chance.choice(values)
    words = [command, *_USUAL.get(command, ()), *([name] if name else []), value]
    return judge(run_command(words, folder))


def _little_memory(chance: Random, folder: Path, shared: Path) -> Verdict:
    """The process may take only a little more memory than it has."""
    checkpoint = _copy(folder, shared)
    command_on(Random(0), checkpoint, folder)  # what is imported late would take more than the case
    limit_memory(int(MIB * 2 ** chance.uniform(0, 9)))
    return judge(command_on(chance, checkpoint, folder), (EXIT_OK, EXIT_RESOURCES))


def _few_files(chance: Random, folder: Path, shared: Path) -> Verdict:
    """The process may open only a few files more than it has."""
    checkpoint = _copy(folder, shared)
    command_on(Random(0), checkpoint, folder)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    few = used + chance.randint(3, 12)  # two for the streams, one or more for the command
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return judge(command_on(chance, checkpoint, folder), (EXIT_OK, EXIT_OUTPUT, EXIT_RESOURCES, EXIT_CHECKPOINT))


def _small_files(chance: Random, folder: Path, shared: Path) -> Verdict:
    """No file may grow above a limit; a picture that was refused is not there, also not in part."""
    checkpoint = _copy(folder, shared)
    limit = chance.choice([0, 1, 100, 1000, 10_000, 100_000])
    picture = folder / "picture.png"
    words = ["generate", checkpoint, "-p", "a circle", "--steps", "1", "-o", picture]
    run_command(["inspect", checkpoint], folder)
    ended = _limited(words, folder, limit)
    verdict = judge(ended, (EXIT_OK, EXIT_OUTPUT, EXIT_RESOURCES))
    if ended.code != EXIT_OK and picture.exists():
        return judge_all(
            [verdict, Verdict(verdict.outcome.FAULT, f"{picture.stat().st_size} bytes of a picture are left")]
        )
    return verdict


def _limited(words: Sequence[object], folder: Path, limit: int) -> Ended:
    """Runs a command that may write `limit` bytes into a file; what it says goes to a pipe's place, a larger file."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(limit, 4096), hard))  # the refusal itself needs room
    try:
        return run_command(words, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


CASES = (
    (4, _odd_file),
    (3, _deep),
    (4, _number),
    (5, _option),
    (2, _little_memory),
    (1, _few_files),
    (1, _small_files),
)
case = drawn_from(*CASES)


def import_pipeline() -> None:
    """Imports what reads checkpoints, which takes longer than most cases."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401


def prepare(shared: Path) -> None:
    """Writes a tiny checkpoint."""
    from tests.synthetic import write_checkpoint

    import_pipeline()
    write_checkpoint(shared / "tiny")


KIND = Kind("resources", share=0.13, seconds=60.0, case=case, prepare=prepare)
