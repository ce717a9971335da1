"""A checkpoint by its name on the Hugging Face Hub, and where its files lie in the Hub's cache.

    owner/name[@revision][/file.safetensors]

The order is that of the Hub's own addresses (`hf://owner/name@revision/file`). A revision is a branch, a tag or a
commit; a slash in one is written %2F, but for `refs/pr/1` and its like.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from sdmobile import __version__
from sdmobile.basics.files import user_cache
from sdmobile.basics.untrusted import UntrustedError, checked_parts
from sdmobile.checkpoints.hub_client import guard_client

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ENDPOINT_VARIABLE = "HF_ENDPOINT"
PUBLIC = "https://huggingface.co"
WEIGHTS = ".safetensors"
"""The only kind of weights that is taken from the Hub."""
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_NAME = re.compile(
    rf"(?P<repository>{_PART}/{_PART})(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^/@]+))?(?:/(?P<file>.+))?",
    re.ASCII,
)
_LONGEST = 96
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What ends so is a file that is not there, whatever folder it was looked for in.
_FILES = (WEIGHTS, ".ckpt", ".pt", ".pth", ".bin", ".json", ".gguf", ".onnx", ".mlpackage", ".tflite")


@dataclass(frozen=True)
class HubName:
    """A repository of models on the Hub, or one file in it.

    Args:
        repository: `owner/name`.
        revision: branch, tag or commit; None for the newest of the main branch.
        file: path of a single-file checkpoint in it.
    """

    repository: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str | Path) -> HubName | None:
        """Reads a name; None where the text cannot be one. Whether there is such a repository is not asked."""
        text = text.as_posix() if isinstance(text, Path) else text
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        repository, revision, file = match["repository"], match["revision"], match["file"]
        if len(repository) > _LONGEST or re.search(r"--|\.\.", repository) or repository.lower().endswith(_FILES):
            return None
        revision = None if revision is None else unquote(revision)
        try:
            for path in (revision, file):
                if path is not None:
                    checked_parts(path)
        except UntrustedError:
            return None
        return cls(repository, revision, file)

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repository.partition("/")[2]

    def __str__(self) -> str:
        """Returns the name as `parse` takes it."""
        revision = self.revision or ""
        if not revision.startswith(("refs/pr/", "refs/convert/")):
            revision = revision.replace("/", "%2F")
        return self.repository + (f"@{revision}" if revision else "") + (f"/{self.file}" if self.file else "")


@dataclass(frozen=True)
class Origin:
    """Where on the Hub a file of its cache comes from."""

    repository: str
    commit: str

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repository.rpartition("/")[2]

    def __str__(self) -> str:
        """Returns the name of exactly these files, as `HubName.parse` takes it."""
        return f"{self.repository}@{self.commit}"


def origin_of(path: Path) -> Origin | None:
    """Returns where a path in `models--OWNER--NAME/snapshots/COMMIT` of the Hub's cache comes from, else None."""
    path = path.absolute()
    for folder in (path, *path.parents):
        repository = folder.parent.parent.name
        if folder.parent.name == "snapshots" and repository.startswith("models--") and is_commit(folder.name):
            return Origin(repository.removeprefix("models--").replace("--", "/", 1), folder.name)
    return None


def name_of(path: Path) -> str:
    """Returns what a file or a folder is called: on the Hub with its commit, as `HubName.parse` takes it."""
    origin = origin_of(path)
    if origin is None:
        return path.name
    inside = path.absolute().as_posix().partition(f"/snapshots/{origin.commit}")[2]
    return f"{origin}{inside}"


def is_commit(text: object) -> bool:
    """Whether a text is the hash of a commit, in full."""
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def hub_cache() -> Path:
    """Returns where the Hub's client keeps downloads, by the variables that it reads."""
    if chosen := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(chosen)
    home = os.environ.get("HF_HOME")
    return (Path(home) if home else user_cache() / "huggingface") / "hub"


def hub_endpoint() -> str | None:
    """Returns `$HF_ENDPOINT`, None for the Hub; the client reads it once, when somebody first imports it."""
    return (os.environ.get(ENDPOINT_VARIABLE) or "").rstrip("/") or None


def hub_api() -> HfApi:
    """Returns the Hub's client; it finds the user's token itself (`hf auth login`, `$HF_TOKEN`)."""
    from huggingface_hub import HfApi

    guard_client()
    return HfApi(endpoint=hub_endpoint(), library_name="sdmobile", library_version=__version__)


def quiet_without_terminal() -> None:
    """Turns the client's bars off where nobody sees them move."""
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()


def page_of(repository: str) -> str:
    """Returns the address of a repository's page."""
    return f"{hub_endpoint() or PUBLIC}/{repository}"
