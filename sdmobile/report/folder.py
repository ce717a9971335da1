"""Everything that people and machines read about a validation, as the files of one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import write_whole
from sdmobile.report.figures import png_bytes
from sdmobile.report.html import render_report
from sdmobile.report.junit import junit
from sdmobile.report.markdown import markdown

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


def write_report(
    folder: Path,
    manifest: Mapping[str, Any],
    validation: Mapping[str, Any],
    images: Sequence[Mapping[str, NDArray[np.float32]]],
    card: str,
) -> None:
    """Writes the report as HTML, JSON, Markdown and JUnit XML, the model card, and one PNG per prompt and runtime.

    Args:
        folder: where to; made if needed.
        manifest: the bundle's manifest.json.
        validation: `ValidationReport.to_json()`.
        images: per prompt, decoder outputs [1, 3, H, W] in [−1, 1] by "torch" or runtime.
        card: the model card with the validation's figures, as Markdown.

    Raises:
        OutputError: a file cannot be written.
    """
    for number, row in enumerate(images, 1):
        for name, image in row.items():
            write_whole(folder / f"prompt-{number}-{name}.png", png_bytes(image))
    texts = {
        "validation.json": json.dumps(validation, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "validation.md": markdown(validation),
        "validation.xml": junit(validation),
        "README.md": card,
        "report.html": render_report(manifest, validation, images),
    }
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
