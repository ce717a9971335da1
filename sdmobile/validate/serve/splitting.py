"""Files of weights beside a bundle's models, made where a browser could not hold the models otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import explained
from sdmobile.basics.libraries import is_installed, missing_library
from sdmobile.formats.tflite.external import External, write_external
from sdmobile.validate.serve.job import JobOptions, model_bytes
from sdmobile.validate.serve.memory import fits_plainly

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle

_WRITER = "ai_edge_litert"


def split_models(
    bundle: Bundle, job: Mapping[str, Any], options: JobOptions, folder: Path, tell: Callable[[str], None]
) -> dict[str, External]:
    """Returns models without weights and their weights, by the model's file name; without those that stay whole.

    Nothing is made if everything fits as it is, or without the library that writes such files; unless it was asked for.

    Args:
        bundle: for Android, opened.
        job: of the page.
        options: how the page shall work.
        folder: where to.
        tell: gets lines for people.

    Raises:
        MissingDependencyError: it was asked for, and `ai-edge-litert` is not installed.
        FormatError: a model is damaged.
        OutputError, ResourceError: the folder cannot be written, or the disk is full.
    """
    if not options.external and fits_plainly(model_bytes(bundle, job)):
        return {}
    if not is_installed(_WRITER):
        missing = missing_library(ModuleNotFoundError(name=_WRITER))
        assert missing is not None
        if options.external:
            raise missing
        tell(f"note: weights stay in their files, which take more of the browser's memory: {missing.message()}")
        return {}
    names = [part["file"] for one in job["components"] for part in one["parts"]]
    try:
        written = {name: write_external(bundle.files[name], folder) for name in names}
    except OSError as error:
        raise explained(error, folder) from error
    return {name: split for name, split in written.items() if split is not None}
