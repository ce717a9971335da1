"""Upload a bundle to the Hub: the files that its manifest lists and the manifest, in one commit.

hashes are checked ─▶ repository, branch (made where missing) ─▶ one commit
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.checkpoints.hub import HubName, hub_api, quiet_without_terminal
from sdmobile.checkpoints.hub_errors import hub_errors
from sdmobile.errors import OutputError, UsageError
from sdmobile.formats.bundle.reading import MANIFEST, open_bundle

if TYPE_CHECKING:
    from pathlib import Path

_TARGETS = {"ios": "iPhone", "android": "Android", "onnx": "ONNX Runtime"}


def push_bundle(path: Path, repository: str, revision: str | None = None, private: bool = False) -> str:
    """Uploads a bundle and returns the address of the commit; what else is in the repository stays.

    Args:
        path: the bundle's folder.
        repository: `owner/name`; made if there is none.
        revision: branch, made from the main one if there is none; None for that.
        private: make the repository a private one; one that is there must be private already.

    Raises:
        UsageError: no name of a repository.
        BundleError: not a bundle, or a file is missing or changed.
        OutputError: the Hub refuses, cannot be reached, or shows to everybody what was to be private.
    """
    name = HubName.parse(repository)
    if name is None or (name.revision, name.file) != (None, None):
        raise UsageError("a repository of the Hub is named owner/name", repository, "A branch is given by --revision.")
    if revision is not None and HubName.parse(f"{repository}@{revision.replace('/', '%2F')}") is None:
        raise UsageError("--revision names a branch of the repository", revision)
    target = HubName(name.repository, revision)
    bundle = open_bundle(path)
    from huggingface_hub import CommitOperationAdd

    files = {**bundle.files, MANIFEST: path / MANIFEST}
    message = f"Add {bundle.source['name']} for {_TARGETS[bundle.target]}"
    quiet_without_terminal()
    api = hub_api()
    with hub_errors(target, OutputError):
        api.create_repo(name.repository, private=private or None, exist_ok=True)
        if private and not api.model_info(name.repository).private:
            raise OutputError(
                "--private must not upload to a public repository",
                name.repository,
                "Make it private in its settings, choose another name, or leave --private out.",
            )
        if revision is not None:
            api.create_branch(name.repository, branch=revision, exist_ok=True)
        additions = [CommitOperationAdd(path_in_repo=place, path_or_fileobj=file) for place, file in files.items()]
        commit = api.create_commit(name.repository, additions, commit_message=message, revision=revision)
    return str(commit.commit_url)
