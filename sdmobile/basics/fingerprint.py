"""What the package's own code and its libraries were, for the keys of what is kept: all of it but what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from importlib import metadata
from pathlib import Path

from sdmobile.basics.files import hash_tree

# What may change while finished components stay valid, and why. A room that is not named here counts, so that a new
# one makes a key too strict, never too loose. Lint counts: its warnings are kept with a component.
DECIDES_NO_BYTE = {
    "cli/*": "takes arguments, all of which are in the plan, and prints",
    "report/*": "writes what people read; a bundle's model card is made anew each time",
    "training/*": "makes checkpoints, whose files are hashed by their content",
    "web/*": "pages that run finished files",
    "data/*": "checkpoints and recipes, which are hashed by their content",
    "prediction/*": "says what a finished file will cost",
    "device_profiles/*.toml": "each device's deciding part is in the key itself (`profile_hash`)",
    "*__pycache__*": "made from the code",
}
_ROOT = Path(__file__).resolve().parents[1]


@cache
def code_hash(left_out: tuple[str, ...] = (), root: Path = _ROOT) -> str:
    """Returns one SHA-256 of the package's files, names and contents, without those that decide nothing.

    Args:
        left_out: patterns of paths in the package that do not matter, beside `DECIDES_NO_BYTE`.
        root: folder of the package.
    """
    return hash_tree(root, (root / name for name in deciding_files(left_out, root)))


def deciding_files(left_out: Iterable[str] = (), root: Path = _ROOT) -> Iterator[str]:
    """Yields the paths in the package of the files that `code_hash` covers."""
    patterns = (*DECIDES_NO_BYTE, *left_out)
    for file in root.rglob("*"):
        name = file.relative_to(root).as_posix()
        if file.is_file() and not any(fnmatchcase(name, pattern) for pattern in patterns):
            yield name


@cache
def library_closure(names: tuple[str, ...]) -> dict[str, str]:
    """Returns the versions of installed libraries and of all that they need; those not installed are left out.

    A converter's bytes come from libraries below it, too: those of litert-torch from litert-converter, for example.

    Args:
        names: of distributions.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    versions: dict[str, str] = {}
    waiting, seen = [canonicalize_name(name) for name in names], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        versions[name] = distribution.version
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return versions
