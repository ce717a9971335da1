"""Bundles made to do harm, each a small whole bundle with one thing changed, and random changes of a manifest."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sdmobile.families import family_named
from sdmobile.families.contracts import contract_for
from sdmobile.formats.bundle.contracts import Geometry
from tests.validate.bundles import write_manifest

GEOMETRY = Geometry(2, 4, 16, 16, 32, 32, 77, 32)
COMPONENT = "unet"
_FAMILY = family_named("stable-diffusion")
_PACKAGE = ("Manifest.json", "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin")


def small_bundle(folder: Path, target: str = "ios") -> Path:
    """Writes a bundle that is whole on paper: its model files hold no model, which opening it does not ask for."""
    contract = contract_for(_FAMILY, target, COMPONENT, GEOMETRY)
    names = [f"{contract.file_name}/{part}" for part in _PACKAGE] if target == "ios" else [contract.file_name]
    tokenizer = "" if target == "ios" else "tokenizer/"
    for name in (*names, f"{tokenizer}vocab.json", f"{tokenizer}merges.txt", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")
    record: dict[str, Any] = {
        "component": COMPONENT,
        "file": contract.file_name,
        "files": [contract.file_name],
        "contract": contract.to_json(),
        "chain": [],
        "parameters": 1000,
        "stages": [{"name": "load", "seconds": 0.2, "peak_rss_bytes": 300_000_000}],
        "rewrites": [],
        "warnings": [],
    }
    manifest: dict[str, Any] = {
        "schema_version": 1,
        "kind": "sdmobile-bundle",
        "family": _FAMILY.name,
        "target": target,
        "device": None,
        "source": {"name": "small", "content_hash": "abc", "license": None},
        "geometry": GEOMETRY.to_json(),
        "guidance": "batch2",
        "pipeline": {"scaling_factor": 0.18215, "scheduler": {"_class_name": "DDIMScheduler"}},
        "components": {COMPONENT: record},
    }
    write_manifest(folder, manifest)
    return folder


def _edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        edit(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")

    return harm


def _set(path: str, value: object) -> Callable[[Path], None]:
    """Returns what sets one entry, named with dots."""

    def edit(manifest: dict[str, Any]) -> None:
        *way, last = path.split(".")
        item: Any = manifest
        for key in way:
            item = item[int(key)] if isinstance(item, list) else item[key]
        item[last] = value

    return _edited(edit)


def _file_too(name: str) -> Callable[[Path], None]:
    """Returns what makes a component own one more file."""
    return _edited(lambda manifest: manifest["components"][COMPONENT]["files"].insert(0, name))


def _listed(name: str) -> Callable[[Path], None]:
    return _edited(lambda manifest: manifest["files"].update({name: {"sha256": "0" * 64, "bytes": 0}}))


def _climbing_link(folder: Path) -> None:
    """`s` becomes a folder of the output; then `s/../../../notes.txt` lies outside, with contents of the bundle."""
    (folder / "x/y/z").mkdir(parents=True)
    (folder / "s").symlink_to("x/y/z")
    (folder / "notes.txt").write_text("not yours")
    _edited(lambda m: m["components"][COMPONENT]["files"].__setitem__(slice(0, 0), ["s", "s/../../../notes.txt"]))(
        folder
    )


def _link(name: str, target: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return harm


def _pipe(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return harm


def _text(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "manifest.json").write_text(text, "utf-8")


def _replaced(old: str, new: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        text = (folder / "manifest.json").read_text("utf-8")
        assert old in text
        (folder / "manifest.json").write_text(text.replace(old, new, 1), "utf-8")

    return harm


def _sparse(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, 1 << 40)


_RECORD = f"components.{COMPONENT}"
_WEIGHTS = "Unet.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
HOSTILE: dict[str, Callable[[Path], object]] = {
    "a component's file above the bundle": _file_too("../../secret.txt"),
    "a link that climbs": _climbing_link,
    "an absolute file": lambda folder: _file_too(str(folder.parent / "secret.txt"))(folder),
    "an absolute listed file": _listed("/etc/hostname"),
    "a listed file above the bundle": _listed("../../secret.txt"),
    "a path of Windows": _file_too("C:\\secret.txt"),
    "a path of Windows above": _listed("..\\..\\secret.txt"),
    "a NUL in a path": _file_too("secret\0.txt"),
    "the model card as a component": _file_too("README.md"),
    "a contract's file above the bundle": _set(f"{_RECORD}.contract.file_name", "../../secret.txt"),
    "a device's profile above the bundle": _set("device", "../../secret.toml"),
    "a component with a path as its name": _edited(
        lambda m: m["components"].update({"../../secret": m["components"].pop(COMPONENT)})
    ),
    "a link in a package": _link(_WEIGHTS, "../../../../../../secret.txt"),
    "a link to a folder": _link("more", "../.."),
    "the manifest is a link": _link("manifest.json", "../../secret.txt"),
    "the manifest has no end": _link("manifest.json", "/dev/zero"),
    "the manifest is a pipe": _pipe("manifest.json"),
    "a pipe in the bundle": _pipe("vocab.json"),
    "a manifest of a tebibyte": _sparse("manifest.json"),
    "a vocabulary of a tebibyte": _sparse("vocab.json"),
    "a context of 2^40 tokens": _set("geometry.context_length", 2**40),
    "a picture of no pixels": _set("geometry.image_width", 0),
    "a batch that is text": _set("geometry.batch", "2"),
    "a size of another kind": _set("geometry.more", 10**12),
    "a shape of 2^60 elements": _set(f"{_RECORD}.contract.inputs.0.shape", [1 << 20, 4, 1 << 19, 1 << 19]),
    "a factor that is no number": _replaced("0.18215", "NaN"),
    "a factor that is infinite": _replaced("0.18215", "1e999"),
    "a number of many digits": _replaced("0.18215", "1" * 10_000),
    "a schedule of 10^9 steps": _set("pipeline.scheduler.num_train_timesteps", 10**9),
    "a list that is text": _set(f"{_RECORD}.files", "Unet.mlpackage"),
    "inputs that are text": _set(f"{_RECORD}.contract.inputs", "sample"),
    "a chain of a number": _set(f"{_RECORD}.chain", 3),
    "warnings that are a number": _set(f"{_RECORD}.warnings", 7),
    "components in a list": _set("components", [{}]),
    "files that are nothing": _set("files", None),
    "no listed files": _set("files", {}),
    "an entry nobody knows": _set(f"{_RECORD}.run", "rm"),
    "a name that hides": _set("source.name", "good\x1b[2K\rbad"),
    "a licence of two lines": _set("source.license", "mit\npipeline_tag: other"),
    "half a character": _replaced('"small"', '"\\ud800"'),
    "deep JSON": _text('{"kind":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "a manifest that is a list": _text("[]"),
    "one key twice": _replaced('"kind"', '"kind": "other", "kind"'),
    "a component that is nothing": _set(_RECORD, None),
    "a deployment target in words": _set(
        f"{_RECORD}.compression",
        {"recipe": "palette6", "bits_per_weight": 6.0, "details": {"deployment_target": "the newest"}},
    ),
}
"""What is done to a small bundle for iPhones, by what it is; every one must be refused when it is opened."""

_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "..",
    "../../secret.txt", "/etc/hostname", "a\0b", "\ud800", "é" * 300, [], {}, [[]], [None], {"": {}}, ["x"] * 50,
)  # fmt: skip


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the way to every value of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from _places(item, (*place, key))


def damaged_manifest(manifest: dict[str, Any], seed: int) -> str:
    """Returns the text of a manifest in which one to three values were removed, replaced, moved or cut."""
    chance = random.Random(seed)
    changed = copy.deepcopy(manifest)
    for _ in range(chance.randint(1, 3)):
        places = list(_places(changed))
        if not places:
            break
        *way, last = chance.choice(places)
        holder: Any = changed
        for key in way:
            holder = holder[key]
        kind = chance.random()
        if kind < 0.2:
            del holder[last]
        elif kind < 0.3:
            holder[last] = [holder[last]]
        elif kind < 0.4 and isinstance(holder, dict):
            holder[f"{last}s"] = holder.pop(last)
        else:
            holder[last] = chance.choice(_ODD)
    text = json.dumps(changed)
    if chance.random() < 0.1:
        place = chance.randrange(len(text))
        text = (
            text[:place] if chance.random() < 0.3 else text[:place] + chance.choice('\0"{}[],:\\9e') + text[place + 1 :]
        )
    return text
