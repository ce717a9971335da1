"""Which tokenizer goes with a checkpoint that may have none of its own, such as every single file.

given ─▶ in or beside the checkpoint ─▶ given with this file before ─▶ the standard one, in the Hub's cache on this disk
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from sdmobile.basics.files import cache_folder
from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.checkpoints.hub import hub_cache
from sdmobile.checkpoints.jsonfile import read_json
from sdmobile.checkpoints.tokenizers import FILES, given_tokenizer, is_tokenizer, tokenizer_files
from sdmobile.errors import SdmobileError
from sdmobile.families.clip import STANDARD_SOURCES, STANDARD_TOKENS, STANDARD_VOCABULARY
from sdmobile.families.tokenizer_kinds import CLIP, TokenizerKind


def find_tokenizer(
    path: Path,
    given: Path | None,
    beside: Path | None,
    rows: object,
    notes: list[str],
    kind: TokenizerKind = CLIP,
) -> Path | None:
    """Returns the folder of the tokenizer for a checkpoint, None where there is none.

    Args:
        path: the checkpoint.
        given: by the user; remembered for a single file.
        beside: the checkpoint's own folder for it, where it has one.
        rows: of the text encoder's embedding.
        notes: says which was taken where it is not the checkpoint's own.
        kind: the family's; single files have CLIP's.

    Raises:
        UsageError: what was given is no tokenizer.
    """
    if given is not None:
        folder = given_tokenizer(given, kind)
        if path.is_file():
            _remember(path, folder)
        return folder
    if beside is not None and is_tokenizer(beside, kind):
        return beside
    if path.is_dir():
        return None
    remembered = _place(path)
    if is_tokenizer(remembered):
        notes.append("tokenizer: the one that was given with this file before (--tokenizer)")
        return remembered
    if rows == STANDARD_VOCABULARY and (standard := _in_hub_cache()) is not None:
        repository, folder = standard
        notes.append(f"tokenizer: the file has none; CLIP's standard one is taken from {repository} in the Hub's cache")
        return folder
    notes.append("tokenizer: a single file has none; give one with --tokenizer DIR")
    return None


def _place(path: Path) -> Path:
    """Returns where the tokenizer of a single file is remembered: by its place, size and date."""
    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()
    return cache_folder("tokenizers") / key


def _remember(path: Path, folder: Path) -> None:
    """Copies a tokenizer into the cache; where that cannot be, it has to be given again."""
    place = _place(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(place) as work:
            made = work / place.name
            made.mkdir()
            for file in tokenizer_files(folder):
                shutil.copyfile(file, made / file.name)
            put_in_place(made, place, overwrite=True)
    except (OSError, SdmobileError):
        return


def _in_hub_cache() -> tuple[str, Path] | None:
    """Returns the repository and folder of CLIP's standard vocabulary, if this machine has downloaded one."""
    for repository, below in STANDARD_SOURCES:
        snapshots = hub_cache() / f"models--{repository.replace('/', '--')}" / "snapshots"
        for snapshot in sorted(snapshots.iterdir()) if snapshots.is_dir() else ():
            if _is_standard(snapshot / below):
                return repository, snapshot / below
    return None


def _is_standard(folder: Path) -> bool:
    if not all((folder / name).is_file() for name in FILES):
        return False
    try:
        vocabulary = read_json(folder / FILES[0])
    except SdmobileError:
        return False
    stated = {token: vocabulary.get(token) for token in STANDARD_TOKENS}
    return len(vocabulary) == STANDARD_VOCABULARY and stated == STANDARD_TOKENS
