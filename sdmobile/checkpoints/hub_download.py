"""Bring what makes a checkpoint from the Hub into its cache, and no more.

list of files ─▶ index, configurations, tokenizer ─▶ family (or refused here) ─▶ weights of its models ─▶ snapshot

The server is not trusted: names are taken from its list only where they are plain paths that a checkpoint has, the
commit must be a hash, and what comes is read like any other file of a stranger; nothing of it is run.
"""

from __future__ import annotations

import glob
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from sdmobile.basics.untrusted import UntrustedError, checked_parts
from sdmobile.checkpoints.folder import identify
from sdmobile.checkpoints.hub import (
    WEIGHTS,
    HubName,
    hub_api,
    hub_cache,
    hub_endpoint,
    is_commit,
    quiet_without_terminal,
)
from sdmobile.checkpoints.hub_client import guard_client
from sdmobile.checkpoints.hub_errors import hub_errors, not_cached
from sdmobile.checkpoints.hub_files import INDEX, beside, no_weights, single_file, small_files, weight_file
from sdmobile.checkpoints.jsonfile import MOST_BYTES, read_json
from sdmobile.checkpoints.weights import shard_names
from sdmobile.errors import CheckpointError, ResourceError, SdmobileError
from sdmobile.families import FAMILIES

_SECONDS = 30.0
_log = logging.getLogger("sdmobile.hub")


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit.

    Args:
        name: as the user gave it.
        folder: where they are in the cache, or come to be.
        sizes: bytes by path.
        online: whether they can be downloaded.
        what: is looked for in it.
    """

    name: HubName
    folder: Path
    sizes: dict[str, int]
    online: bool = True
    what: str = "a checkpoint"

    def lacks(self, what: str) -> SdmobileError | None:
        """Returns that something is not in the cache, None where the list is all that there is."""
        return None if self.online else not_cached(self.name, part=what, what=self.what)


def downloaded(name: HubName) -> Path:
    """Returns the path of a checkpoint in the Hub's cache: a Diffusers folder or a single file.

    Args:
        name: of the repository.

    Raises:
        CheckpointError: no such repository, revision or file; it may not be read, or not be reached and was not
            downloaded before; or it is no checkpoint.
        UnsupportedError: an architecture that sdmobile does not export, before its weights are downloaded.
        ResourceError: the disk has no room for it.
    """
    listing = listing_of(name)
    if name.file is None and INDEX in listing.sizes:
        fetch(listing, small_files(listing.sizes), first=True)
        fetch(listing, _weights(listing))
        return listing.folder
    file = single_file(name, listing.sizes)
    if listing.online and not (listing.folder / file).is_file():
        _check_header(listing, file)
    fetch(listing, [file, *beside(listing.sizes, file)], first=True)
    return listing.folder / file


def listing_of(name: HubName, what: str = "a checkpoint") -> Listing:
    """Returns what a repository holds; offline, what of it is in the cache.

    Args:
        name: of the repository.
        what: is looked for in it, for errors.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    with hub_errors(name, what=what):
        try:
            info = hub_api().model_info(name.repository, revision=name.revision, files_metadata=True, timeout=_SECONDS)
        except OfflineModeIsEnabled:
            return _cached(name, what)
        sizes = {
            item.rfilename: max(0, int(item.size or 0)) for item in info.siblings or () if _is_plain(item.rfilename)
        }
    if not is_commit(info.sha):
        raise CheckpointError("the Hub must say which commit it gives", f"{name}: {str(info.sha)[:80]!a}")
    return Listing(name, _repository_folder(name) / "snapshots" / str(info.sha), sizes, what=what)


def _repository_folder(name: HubName) -> Path:
    return hub_cache().expanduser().resolve() / f"models--{name.repository.replace('/', '--')}"


def _cached(name: HubName, what: str) -> Listing:
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(
            name.repository, revision=name.revision, cache_dir=hub_cache(), local_files_only=True, allow_patterns=[]
        )
    )
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    return Listing(name, folder, sizes, online=False, what=what)


def _is_plain(path: object) -> bool:
    try:
        return isinstance(path, str) and bool(checked_parts(path))
    except UntrustedError:
        return False


def _weights(listing: Listing) -> list[str]:
    """Returns the weight files of the models that the family has; configurations must be there."""
    index, family = identify(listing.folder)
    paths: list[str] = []
    for model in family.models:
        model.check(str(index[model.name][1]), read_json(listing.folder / model.name / "config.json"))
        path = weight_file(listing.sizes, model.name)
        if path is None:
            raise listing.lacks(model.name) or no_weights(listing.name, listing.sizes, model.name)
        shards = shard_names(listing.folder / path) if path.endswith(".json") else ()
        if foreign := [shard for shard in shards if not shard.endswith(WEIGHTS)]:
            raise CheckpointError(
                f"weights of the Hub are {WEIGHTS} files", f"{listing.name}: {path} names {foreign[0]}"
            )
        paths += [f"{model.name}/{shard}" for shard in shards] or [path]
    return paths


def _check_header(listing: Listing, file: str) -> None:
    """Refuses a single file of another architecture by the names of its tensors, of which only the header is read."""
    with hub_errors(listing.name, what=listing.what):
        header = hub_api().parse_safetensors_file_metadata(listing.name.repository, file, revision=listing.folder.name)
        shapes = {tensor: tuple(info.shape) for tensor, info in header.tensors.items()}
    family = next(family for family in FAMILIES if family.claims_file(shapes))
    family.check_file(list(shapes), Path(str(listing.name)) / ("" if listing.name.file else file))


def fetch(listing: Listing, paths: list[str], first: bool = False) -> None:
    """Downloads files of the list that are not in the cache.

    Args:
        listing: of the repository.
        paths: of the files.
        first: let the cache remember which commit the revision is, for later without the network.
    """
    for path in paths:
        if path not in listing.sizes:
            raise listing.lacks(path) or CheckpointError("every file of a checkpoint must be there", path)
        if not path.endswith(".safetensors") and listing.sizes[path] > MOST_BYTES:
            raise CheckpointError(
                f"a file of this kind has at most {MOST_BYTES / 1e6:g} MB",
                f"{listing.name}: {path} has {listing.sizes[path] / 1e6:.0f} MB",
            )
    missing = [path for path in paths if not (listing.folder / path).is_file()]
    if not listing.online or not (missing or (first and not _is_remembered(listing))):
        return
    needed = sum(listing.sizes[path] for path in missing)
    _require_room(listing, needed)
    _log.warning("note: downloading %d files, %.1f MB, of %s", len(missing), needed / 1e6, listing.name)
    from huggingface_hub import snapshot_download

    quiet_without_terminal()
    guard_client(max(listing.sizes[path] for path in paths))
    with hub_errors(listing.name, what=listing.what):
        folder = snapshot_download(
            listing.name.repository,
            revision=listing.name.revision if first else listing.folder.name,
            cache_dir=hub_cache(),
            endpoint=hub_endpoint(),
            library_name="sdmobile",
            allow_patterns=[glob.escape(path) for path in paths],
        )
    if Path(folder) != listing.folder or not all((listing.folder / path).is_file() for path in paths):
        raise CheckpointError(
            "a repository must stay what it is while it is read", listing.name, "Run the command again."
        )


def _is_remembered(listing: Listing) -> bool:
    """Whether the cache knows that the revision is the commit."""
    revision = listing.name.revision or "main"
    reference = listing.folder.parent.parent / "refs" / revision
    return is_commit(revision) or (reference.is_file() and reference.read_text("utf-8") == listing.folder.name)


def _require_room(listing: Listing, needed: int) -> None:
    place = listing.folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ResourceError(
            "the Hub's cache must have room for the checkpoint",
            f"{listing.name} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB is free in {place}",
            "Free some space, or choose another place with HF_HUB_CACHE.",
        )
