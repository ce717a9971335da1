"""Damaged checkpoints: folders, single files, pickles that carry code of their own.

tiny folder ─▶ one to three damages                                   ─▶ inspect, dry run, a picture ─▶ right or refused
tiny single ─▶ bytes, header, names; a pickle with a canary, mutated   ─▶ the same; the canary never sings
"""

from __future__ import annotations

import builtins
import json
import os
import pickle
import runpy
import shutil
import subprocess
import zipfile
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Kind, Verdict, drawn_from, judge
from tests.fuzz.checkpoints import damage
from tests.fuzz.kinds.bundles import change_bytes
from tests.fuzz.kinds.resources import command_on, import_pipeline
from tests.fuzz.runner import CANARY


class Payload:
    """An object whose pickle, when it is read by a careless reader, brings the canary's file into being.

    Args:
        chance: chooses the function that does it.
        canary: the file.
    """

    def __init__(self, chance: Random, canary: str) -> None:
        self._chance, self._canary = chance, canary

    def __reduce__(self) -> tuple[Any, ...]:
        code = f"open({self._canary!r}, 'w').close()"
        return self._chance.choice(
            [
                (os.system, (f"touch {self._canary}",)),
                (subprocess.check_call, (["touch", self._canary],)),
                (builtins.exec, (code,)),
                (builtins.eval, (code,)),
                (builtins.open, (self._canary, "w")),
                (os.mkdir, (self._canary,)),
                (shutil.copyfile, ("/etc/hostname", self._canary)),
                (runpy.run_path, (self._canary,)),
                (builtins.__import__, ("antigravity",)),
            ]
        )


def _folder(chance: Random, folder: Path, shared: Path) -> Verdict:
    checkpoint = Path(shutil.copytree(shared / "tiny", folder / "tiny"))
    told = damage(chance, checkpoint)
    verdict = judge(command_on(chance, checkpoint, folder))
    return Verdict(verdict.outcome, f"{verdict.words} ({told})", verdict.code)


def _single(chance: Random, folder: Path, shared: Path) -> Verdict:
    """A single file with other bytes, mostly in its header."""
    file = folder / "single.safetensors"
    data = bytearray((shared / "single.safetensors").read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    if chance.random() < 0.6:
        start = data[:header]
        told = change_bytes(chance, start)
        data[:header] = start
    else:
        told = change_bytes(chance, data)
    file.write_bytes(data)
    verdict = judge(command_on(chance, file, folder))
    return Verdict(verdict.outcome, f"{verdict.words} (single file: {told})", verdict.code)


def _index(chance: Random, folder: Path, shared: Path) -> Verdict:
    """A sharded component whose index lies."""
    checkpoint = Path(shutil.copytree(shared / "tiny", folder / "tiny"))
    weights = checkpoint / "unet/diffusion_pytorch_model.safetensors"
    shard = weights.rename(weights.with_name("diffusion_pytorch_model-00001-of-00001.safetensors"))
    data = shard.read_bytes()
    names = sorted(set(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])) - {"__metadata__"})
    shards: dict[str, Any] = dict.fromkeys(names, shard.name)
    lies = (
        "../vae/diffusion_pytorch_model.safetensors",
        "/dev/zero",
        "gone.safetensors",
        "",
        3,
        None,
        [],
        "a\0b",
        "..",
    )
    for _ in range(chance.randint(0, 3)):
        shards[chance.choice([*names, "one.more"])] = chance.choice(lies)
    if chance.random() < 0.3:
        del shards[chance.choice(names)]
    index: Any = {"metadata": {"total_size": chance.choice([0, len(data), 2**70, "x"])}, "weight_map": shards}
    index = chance.choice([index, index, index, index, {"weight_map": []}, [], {"weight_map": {}}])
    (checkpoint / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    verdict = judge(command_on(chance, checkpoint, folder))
    return Verdict(verdict.outcome, f"{verdict.words} (index)", verdict.code)


def _pickle(chance: Random, folder: Path, shared: Path) -> Verdict:
    """A Lightning checkpoint with code in it, whole or with bytes changed."""
    import torch
    from safetensors.torch import load_file

    weights: dict[Any, Any] = load_file(shared / "single.safetensors")
    evil = Payload(chance, os.environ[CANARY])
    document: dict[Any, Any] = {"state_dict": weights, "global_step": 3}
    place = chance.choice(["beside", "among the weights", "in a list", "none"])
    if place == "beside":
        document[chance.choice(["callbacks", "a", "hyper_parameters"])] = evil
    elif place == "among the weights":
        weights["model.diffusion_model.more.weight"] = evil
    elif place == "in a list":
        document["callbacks"] = {"ModelCheckpoint": [1, (evil,), {2}]}
    file = folder / "single.ckpt"
    way = chance.choice(["zip", "zip", "legacy", "bare"])
    if way == "bare":
        file.write_bytes(pickle.dumps(document, chance.randint(0, 5)))
    else:
        protocol = chance.randint(2, 4)
        torch.save(document, file, _use_new_zipfile_serialization=way == "zip", pickle_protocol=protocol)
    if chance.random() < 0.5:
        _damage_pickle(chance, file)
    verdict = judge(command_on(chance, file, folder))
    return Verdict(verdict.outcome, f"{verdict.words} (pickle, {way}, code {place})", verdict.code)


def _damage_pickle(chance: Random, file: Path) -> None:
    """Changes bytes of the pickle itself, inside of the archive if it is one; the archive's sums are right again."""
    if not zipfile.is_zipfile(file):
        data = bytearray(file.read_bytes())
        head = data[:4000]
        change_bytes(chance, head)
        data[:4000] = head
        file.write_bytes(data)
        return
    with zipfile.ZipFile(file) as archive:
        entries = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    change_bytes(chance, entries[name])
    with zipfile.ZipFile(file, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, bytes(content))


CASES = (
    (6, _folder),
    (2, _single),
    (1, _index),
    (3, _pickle),
)
case = drawn_from(*CASES)


def prepare(shared: Path) -> None:
    """Writes a tiny folder, and the same weights in one file of the original layout."""
    from tests.checkpoints.single import REGULAR, write_single
    from tests.synthetic import write_checkpoint

    import_pipeline()
    write_checkpoint(shared / "tiny", changes=REGULAR)
    write_single(shared / "tiny", shared / "single.safetensors")
    shutil.copytree(shared / "tiny/tokenizer", shared / "tokenizer")


KIND = Kind("checkpoints", share=0.3, seconds=60.0, case=case, prepare=prepare)
