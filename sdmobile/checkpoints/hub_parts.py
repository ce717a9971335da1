"""What goes on top of a checkpoint, by its name on the Hub: a LoRA, a learned word, an autoencoder, a control network.

    owner/name[@revision]                     the file that such a repository usually has, or its folder
    owner/name[@revision]/file.safetensors    that file
    owner/name[@revision]/folder              that folder, of what is a folder in Diffusers' format

A path that exists goes before the Hub, as for checkpoints; and the server is trusted as little (`hub_download`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdmobile.checkpoints.hub import WEIGHTS, HubName
from sdmobile.checkpoints.hub_download import Listing, fetch, listing_of
from sdmobile.checkpoints.hub_files import listed, weight_file
from sdmobile.checkpoints.jsonfile import read_json
from sdmobile.checkpoints.weights import shard_names
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import FAMILIES


@dataclass(frozen=True)
class Part:
    """One kind of such files.

    Args:
        what: for people.
        suffixes: of files that may be it.
        usual: files that it usually is, at the top of a repository, the best first.
        classes: that its folder's configuration may name; empty for what is a file.
        below: the folder where it lies in a whole checkpoint.
    """

    what: str
    suffixes: tuple[str, ...] = (WEIGHTS,)
    usual: tuple[str, ...] = ()
    classes: frozenset[str] = frozenset()
    below: str | None = None


LORA = Part("a LoRA", usual=("pytorch_lora_weights.safetensors",))
# Pickles of words are small, and read without running anything, wherever they come from.
EMBEDDING = Part("an embedding", (WEIGHTS, ".bin", ".pt"), ("learned_embeds.safetensors", "learned_embeds.bin"))
VAE = Part(
    "an autoencoder",
    classes=frozenset(name for family in FAMILIES for name in family.model(family.decoder.model).classes),
    below="vae",
)
CONTROL = Part(
    "a control network",
    (),
    classes=frozenset(name for family in FAMILIES for part in family.control_parts for name in part.model.classes),
)


def located(text: str | Path, part: Part) -> Path:
    """Returns a path as it is, and where what the Hub has under that name was downloaded to.

    Args:
        text: a path, or a name as `HubName` has it.
        part: what it is to be.

    Raises:
        CheckpointError: the Hub has no such thing, or cannot be read.
        UnsupportedError: the folder is of a class that no family takes.
        ResourceError: the disk has no room for it.
    """
    path = Path(text)
    if path.exists() or (name := HubName.parse(text)) is None:
        return path
    listing = listing_of(name, part.what)
    if (folder := _folder(name, part, listing.sizes)) is None:
        file = _file(name, part, listing)
        fetch(listing, [file], first=True)
        return listing.folder / file
    inside = f"{folder}/" if folder else ""
    stated = weight_file(listing.sizes, folder)
    fetch(listing, [f"{inside}config.json", *([stated] if stated and stated.endswith(".json") else [])], first=True)
    _check_class(name, part, listing.folder / inside / "config.json")
    if stated is None:
        raise listing.lacks(part.what) or CheckpointError(
            f"only {WEIGHTS} files are taken from the Hub", f"{name} has {listed(_in(folder, listing.sizes))}"
        )
    shards = shard_names(listing.folder / stated) if stated.endswith(".json") else ()
    if foreign := [shard for shard in shards if not shard.endswith(WEIGHTS)]:
        raise CheckpointError(f"weights of the Hub are {WEIGHTS} files", f"{name}: {stated} names {foreign[0]}")
    fetch(listing, [f"{inside}{shard}" for shard in shards] or [stated])
    return listing.folder / inside


def _folder(name: HubName, part: Part, sizes: dict[str, int]) -> str | None:
    """Returns the folder of a repository that is the part, "" for its top; None where it is a file."""
    if not part.classes or (name.file or "").endswith(WEIGHTS):
        return None
    places = [name.file] if name.file else ["", *([part.below] if part.below else [])]
    return next((place for place in places if f"{place}/config.json".lstrip("/") in sizes), None)


def _in(folder: str, sizes: dict[str, int]) -> list[str]:
    return sorted(path for path in sizes if path.rpartition("/")[0] == folder)


def _check_class(name: HubName, part: Part, config: Path) -> None:
    """Refuses a folder of another class before its weights are downloaded."""
    class_name = read_json(config).get("_class_name")
    if class_name not in part.classes:
        raise UnsupportedError(f"{part.what} must be of {' or '.join(sorted(part.classes))}", f"{name}: {class_name}")


def _file(name: HubName, part: Part, listing: Listing) -> str:
    """Returns the file of a repository that is the part: the one that was named, a usual one, or the only one."""
    files = sorted(path for path in listing.sizes if path.endswith(part.suffixes or ("/config.json",)))
    if name.file in files and part.suffixes:
        return name.file
    top = [path for path in files if "/" not in path]
    found = [] if name.file else [path for path in part.usual if path in top] or (top if len(top) == 1 else [])
    if found:
        return found[0]
    if (missing := listing.lacks(name.file or part.what)) is not None:
        raise missing
    kind = " or ".join(part.suffixes) or "a folder with config.json"
    what = (
        f"{name.repository} has no {name.file}"
        if name.file
        else f"{name} has {listed(top or files or sorted(listing.sizes))}"
    )
    fix = (
        f"Write {HubName(name.repository, name.revision)}/{'FILE' if part.suffixes else 'FOLDER'} with one of its own."
    )
    raise CheckpointError(f"{part.what} of the Hub is {kind}", what, fix)
