"""`sdmobile push`: upload a bundle to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `sdmobile export` wrote.", show_default=False)],
    repository: Annotated[str, typer.Argument(help="owner/name on the Hub; made if it is not there.")],
    revision: Annotated[str | None, typer.Option(help="Branch; made if it is not there.")] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private; a public one that is there is refused.")
    ] = False,
) -> None:
    """Upload a bundle with its model card to the Hugging Face Hub, after checking its hashes.

    The token is that of `hf auth login`, or HF_TOKEN. Prints the address of the commit.
    """
    from sdmobile.exporters.push import push_bundle

    typer.echo(push_bundle(bundle, repository, revision, private))
