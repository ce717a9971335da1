"""Damaged checkpoints: a small folder or single file, with one to three things made wrong at random.

Every one must be read, or refused with an exit code that says what is wrong; none may hang, run code or end with 1.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
)
WEIGHTS = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)
TOKENIZER = ("tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json")
_NUMBERS: tuple[Any, ...] = (0, -1, 1, 2, 7, 2**31, 2**63, 10**30, 0.5, -0.0, float("nan"), float("inf"), True, None)
_TEXTS: tuple[Any, ...] = ("", "gelu", "x" * 10_000, "kernels-community/x", "\udcff")
_CONTAINERS: tuple[Any, ...] = ([], [0], [1, 2, 3], [[]], {}, {"a": 1}, ["", None])
VALUES = _NUMBERS + _TEXTS + _CONTAINERS

Damage = Callable[[Random, Path], str]


def _value(chance: Random, folder: Path) -> str:
    """One value of a configuration becomes another."""
    name = chance.choice(CONFIGS)
    config = json.loads((folder / name).read_text())
    if not isinstance(config, dict) or not config:
        return f"{name}: nothing to change"
    key, value = chance.choice(sorted(config)), chance.choice(VALUES)
    (folder / name).write_text(json.dumps({**config, key: value}))
    return f"{name}: {key} = {str(value)[:40]!r}"


def _key(chance: Random, folder: Path) -> str:
    """One key of a configuration is gone."""
    name = chance.choice(CONFIGS)
    config = json.loads((folder / name).read_text())
    key = chance.choice(sorted(config))
    (folder / name).write_text(json.dumps({other: value for other, value in config.items() if other != key}))
    return f"{name}: no {key}"


def _file(chance: Random, folder: Path) -> str:
    """One file is another kind of thing: gone, empty, a folder, a pipe, endless, no text, nested too deep."""
    name = chance.choice((*CONFIGS, *WEIGHTS, *TOKENIZER))
    path, kind = folder / name, chance.choice(("gone", "empty", "folder", "pipe", "endless", "bytes", "deep", "list"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind != "gone":
        path.write_bytes({"empty": b"", "bytes": chance.randbytes(99), "deep": b"[" * 50_000, "list": b"[1]"}[kind])
    return f"{name} is {kind}"


def _bytes(chance: Random, folder: Path) -> str:
    """Some bytes of a file are others, or it is cut."""
    name = chance.choice((*CONFIGS, *WEIGHTS, *TOKENIZER))
    data = bytearray((folder / name).read_bytes())
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
        what = f"cut to {len(data)} bytes"
    else:
        places = [chance.randrange(min(len(data), 4000)) for _ in range(chance.randint(1, 8))]
        for place in places:
            data[place] = chance.randrange(256)
        what = f"other bytes at {places}"
    (folder / name).write_bytes(data)
    return f"{name}: {what}"


def _header(chance: Random, folder: Path) -> str:
    """One entry of a safetensors header is wrong."""
    name = chance.choice(WEIGHTS)
    data = (folder / name).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    key = chance.choice(sorted(set(header) - {"__metadata__"}))
    entry: dict[str, Any] = header[key]
    what = chance.choice(("dtype", "shape", "data_offsets", "name", "entry"))
    if what == "name":
        header[chance.choice(("module." + key, "_orig_mod." + key, key + ".base_layer.weight", ""))] = header.pop(key)
    elif what == "entry":
        header[key] = chance.choice(VALUES)
    elif what == "dtype":
        entry["dtype"] = chance.choice(("I16", "F16", "F8_E4M3", "C64", 3, None))
    else:
        entry[what] = chance.choice(([], [-1, 2], [2**62, 2**62], [0, 0], "x", entry[what][::-1], [*entry[what], 1]))
    text = json.dumps(header).encode()
    (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return f"{name}: {what} of {key}"


def _token(chance: Random, folder: Path) -> str:
    """The vocabulary has other numbers, or merges that make no word."""
    if chance.random() < 0.5:
        path = folder / "tokenizer/vocab.json"
        vocabulary = json.loads(path.read_text())
        vocabulary[chance.choice(sorted(vocabulary))] = chance.choice(VALUES)
        path.write_text(json.dumps(vocabulary))
        return "vocab.json: another number"
    line = chance.choice(("a", "a b c", "\u0000 x", "zzzz yyyy", " "))
    path = folder / "tokenizer/merges.txt"
    path.write_text(path.read_text() + line + "\n")
    return f"merges.txt: {line!r}"


DAMAGES: tuple[Damage, ...] = (_value, _value, _value, _key, _file, _bytes, _header, _token)


def damage(chance: Random, folder: Path) -> str:
    """Makes one to three things of a Diffusers folder wrong; returns what.

    Args:
        chance: decides all.
        folder: a checkpoint with the files of `CONFIGS`, `WEIGHTS` and `TOKENIZER`; it is changed.
    """
    told = []
    for _ in range(chance.randint(1, 3)):
        try:
            told.append(chance.choice(DAMAGES)(chance, folder))
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error):
            continue  # an earlier damage left nothing to do
    return "; ".join(told) or "nothing"
