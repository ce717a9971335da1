"""Bundles that were made to do harm, and real ones whose bytes were damaged and sealed again.

    small bundle ─▶ a hostile change, or a manifest of random damage ─▶ a command ─▶ refused
    real bundle  ─▶ bytes of a file, a value, stored weights; hashes renewed ─▶ a command ─▶ right or refused

Whatever the command says, no file outside its output may have changed; damaged weights must not pass `validate`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path
from random import Random
from typing import Any

from sdmobile.errors import EXIT_BELOW_THRESHOLD, EXIT_CHECKPOINT, EXIT_OK, EXIT_UNSUPPORTED
from tests.fuzz.bundles import HOSTILE, damaged_manifest, small_bundle
from tests.fuzz.case import REFUSALS, Ended, Kind, Verdict, drawn_from, fault, judge, run_command
from tests.fuzz.kinds.resources import import_pipeline, lift_file_limit

_COMPONENT = "text_encoder"
_READERS: dict[str, tuple[str, ...]] = {
    "validate": ("BUNDLE", "--reference", "TINY", "--no-cache", "--report-dir", "OUT"),
    "lint": ("BUNDLE",),
    "generate": ("BUNDLE", "--prompt", "a circle", "--steps", "1", "--output", "OUT"),
    "profile": ("BUNDLE", "--trace", "OUT"),
    "quantize apply": ("BUNDLE", "--recipe", "RECIPE", "--output", "OUT"),
    "devices add-measurement": (
        "BUNDLE",
        "--component",
        _COMPONENT,
        "--milliseconds",
        "5",
        "--place",
        "here",
        "--runtime",
        "adb gpu",
    ),
}
_QUICK = ("lint", "lint", "lint", "profile", "profile", "generate", "devices add-measurement", "quantize apply")
_RECIPES = {"ios": ("palette6", "palette4"), "android": ("int8d", "int8c")}


class World:
    """A tree with a bundle, an output, and files of the user's wherever a path might lead.

    Args:
        folder: an empty one.
        target: which phone the bundle is for.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self._folder, self._target = folder, target
        for name in ("in/secret.txt", "in/deep/secret.txt", "out/secret.txt", "out/notes.txt", "secret.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"the user's own {name}")
        self.bundle, self.output = folder / "in/deep/bundle", folder / "out/new"

    def run(self, command: str, tiny: Path, chance: Random) -> tuple[Ended, str]:
        """Runs a command on the bundle; returns how it ended, and which file it changed that is not its own."""
        before = self._state()
        recipe = chance.choice(_RECIPES[self._target])
        places = {"BUNDLE": str(self.bundle), "OUT": str(self.output), "TINY": str(tiny), "RECIPE": recipe}
        words = [places.get(word, word) for word in _READERS[command]]
        ended = run_command([*command.split(), *words], self._folder.parent)
        after = self._state()
        return ended, ", ".join(sorted(name for name in {*before, *after} if before.get(name) != after.get(name)))

    def _state(self) -> dict[str, tuple[object, ...]]:
        """Returns what each file is, the output left out: mode, size, time, and where it leads or the hash of it."""
        state: dict[str, tuple[object, ...]] = {}
        for place, folders, files in os.walk(self._folder):
            for path in (Path(place, name) for name in (*folders, *files)):
                if path == self.output or self.output in path.parents:
                    continue
                status, content = path.lstat(), None
                if stat.S_ISLNK(status.st_mode):
                    content = str(path.readlink())
                elif stat.S_ISREG(status.st_mode) and status.st_size < 1 << 24:
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                changed = None if path == self._folder / "out" else status.st_mtime_ns  # the output comes into it
                state[str(path.relative_to(self._folder))] = (status.st_mode, status.st_size, changed, content)
        return state


def _judged(world: World, command: str, tiny: Path, chance: Random, wanted: tuple[int, ...], told: str) -> Verdict:
    ended, changed = world.run(command, tiny, chance)
    if changed:
        return fault(f"{command} changed {changed}: {told}")
    verdict = judge(ended, wanted)
    return Verdict(verdict.outcome, f"{verdict.words} ({told})", verdict.code)


def _hostile(chance: Random, folder: Path, shared: Path) -> Verdict:
    """A bundle of the list; every one is refused."""
    world = World(folder / "world", "ios")
    small_bundle(world.bundle)
    harm = chance.choice(sorted(HOSTILE))
    lift_file_limit()
    HOSTILE[harm](world.bundle)
    return _judged(world, chance.choice(sorted(_READERS)), shared / "tiny", chance, (EXIT_CHECKPOINT,), harm)


def _manifest(chance: Random, folder: Path, shared: Path) -> Verdict:
    """A manifest with random damage over real files."""
    world, target = _real(chance, folder, shared)
    manifest = json.loads((world.bundle / "manifest.json").read_text("utf-8"))
    text = damaged_manifest(manifest, chance.getrandbits(31))
    (world.bundle / "manifest.json").write_text(text, "utf-8", errors="surrogatepass")
    wanted = (EXIT_OK, EXIT_BELOW_THRESHOLD, *REFUSALS)
    return _judged(world, chance.choice(_QUICK), shared / "tiny", chance, wanted, f"{target}, damaged manifest")


def _real(chance: Random, folder: Path, shared: Path, target: str | None = None) -> tuple[World, str]:
    """Returns a world with a copy of an exported bundle, and its target."""
    target = target or chance.choice(["ios", "android"])
    world = World(folder / "world", target)
    shutil.copytree(shared / target, world.bundle)
    return world, target


def _seal(bundle: Path) -> None:
    from tests.validate.breakage import seal

    seal(bundle)


def change_bytes(chance: Random, data: bytearray) -> str:
    """Changes a file's bytes as transport, a full disk or malice do; returns what was done."""
    place, length = chance.randrange(len(data)), chance.choice([1, 4, 8, 64, 1000])
    way = chance.choice(["bits", "bits", "cut", "zeros", "ones", "noise", "doubled", "number", "ends"])
    if way == "bits":
        for _ in range(chance.randint(1, 10)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif way == "cut":
        del data[place:]
    elif way == "doubled":
        data[place:place] = data[place : place + length]
    elif way == "number":  # lengths and offsets stand at multiples of four
        data[place & ~3 : (place & ~3) + 4] = chance.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]).to_bytes(4, "little")
    elif way == "ends":
        data[: min(length, 64)] = chance.randbytes(min(length, 64, len(data)))
    else:
        fill = {"zeros": bytes(length), "ones": b"\xff" * length, "noise": chance.randbytes(length)}[way]
        data[place : place + length] = fill[: max(0, len(data) - place)]
    return f"{way} at {place}"


def _bytes(chance: Random, folder: Path, shared: Path) -> Verdict:
    """One file of a real bundle has other bytes, the manifest agrees."""
    world, target = _real(chance, folder, shared)
    files = sorted(file for file in world.bundle.rglob("*") if file.is_file() and file.stat().st_size > 0)
    models = [file for file in files if file.suffix in (".tflite", ".mlmodel", ".bin")]
    file = chance.choice(models if chance.random() < 0.7 else files)
    data = bytearray(file.read_bytes())
    told = f"{target}, {file.relative_to(world.bundle)}: {change_bytes(chance, data)}"
    file.write_bytes(data)
    if file.name != "manifest.json":
        _seal(world.bundle)
    wanted = (EXIT_OK, EXIT_BELOW_THRESHOLD, *REFUSALS)
    return _judged(world, chance.choice(_QUICK), shared / "tiny", chance, wanted, told)


def _document(chance: Random, folder: Path, shared: Path) -> Verdict:
    """One number of a document that an app reads is another, the manifest agrees: `validate` does not pass."""
    world, target = _real(chance, folder, shared, "android")  # Apple's app reads nothing but the files of Core ML
    names = ("scheduler.json", "noise_golden.json", "metadata.json")
    files = [file for file in sorted(world.bundle.rglob("*.json")) if file.name in names]
    file = chance.choice(files)
    document = json.loads(file.read_text("utf-8"))
    places = [place for place in _numbers(document) if document_matters(file.name, place)]
    *way, last = chance.choice(places)
    holder: Any = document
    for key in way:
        holder = holder[key]
    before = holder[last]
    holder[last] = chance.choice([before * 1.1 + 0.01, -before - 1, before + 1])
    file.write_text(json.dumps(document), "utf-8")
    _seal(world.bundle)
    told = f"{target}, {file.name}: {[*way, last]} {before} is {holder[last]}"
    wanted = (EXIT_BELOW_THRESHOLD, EXIT_CHECKPOINT, EXIT_UNSUPPORTED)
    return _judged(world, "validate", shared / "tiny", chance, wanted, told)


def document_matters(name: str, place: tuple[Any, ...]) -> bool:
    """Returns whether an app reads a number of a document."""
    return not {"bytes", "parameters", "seconds", "created"} & {str(key) for key in place} and name != "manifest.json"


def _numbers(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    own = [place] if isinstance(value, int | float) and not isinstance(value, bool) else []
    return own + [inner for key, item in items for inner in _numbers(item, (*place, key))]


def _weights(chance: Random, folder: Path, shared: Path) -> Verdict:
    """A stretch of stored weights is zero, reversed or scaled, the manifest agrees: `validate` does not pass."""
    import numpy as np

    world, target = _real(chance, folder, shared)
    file = next(world.bundle.rglob("weight.bin" if target == "ios" else "*.tflite"))
    data = bytearray(file.read_bytes())
    length = chance.choice([64, 256, 2048])
    for _ in range(1000):
        place = chance.randrange(0, len(data) - length) & ~63
        values = np.frombuffer(data, np.float16, length // 2, place).astype(np.float64)
        # The bytes of random weights: finite float16 numbers of ordinary size that differ.
        if np.isfinite(values).all() and 1e-3 < np.abs(values).max() < 2 and len(set(values)) > length // 4:
            break
    else:
        return fault("no weights were found")
    way = chance.choice(["zero", "reversed", "scaled"])
    changed = {"zero": 0 * values, "reversed": values[::-1], "scaled": 1.1 * values}[way].astype(np.float16)
    data[place : place + length] = changed.tobytes()
    file.write_bytes(data)
    _seal(world.bundle)
    told = f"{target}, {length} bytes of weights at {place} {way}"
    wanted = (EXIT_BELOW_THRESHOLD, EXIT_CHECKPOINT)
    return _judged(world, "validate", shared / "tiny", chance, wanted, told)


CASES = (
    (6, _hostile),
    (5, _manifest),
    (8, _bytes),
    (0.5, _document),
    (0.5, _weights),
)
case = drawn_from(*CASES)


def prepare(shared: Path) -> None:
    """Exports the text encoder of a tiny checkpoint for both phones."""
    from tests.synthetic import write_checkpoint

    import_pipeline()
    write_checkpoint(shared / "tiny")
    for target in _RECIPES:
        words = ["export", shared / "tiny", "--target", target, "--components", _COMPONENT, "--no-cache"]
        ended = run_command([*words, "--output", shared / target], shared)
        assert ended.code == EXIT_OK, ended


KIND = Kind("bundles", share=0.3, seconds=120.0, case=case, prepare=prepare)
