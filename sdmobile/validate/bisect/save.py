"""Saves a cut part with its inputs, what should come out, and how to run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdmobile.basics.metrics import psnr
from sdmobile.basics.scratch import put_in_place, scratch_beside, temporary_folder
from sdmobile.errors import OutputError

if TYPE_CHECKING:
    from sdmobile.validate.bisect.graph import ExportedGraph
    from sdmobile.validate.bisect.part import Part

_README = """\
The smallest part of an exported file that differs from PyTorch, cut out by `sdmobile validate --bisect`.

module      {module}
operations  {count}: {operations}
PSNR        {alone} dB on the inputs below

{file}   the part, with the bytes that the exported file has
inputs.npz         the values that PyTorch computes for what the part takes
expected.npz       the value that PyTorch computes for what it gives, as `{output}`

Run it:

{code}
"""

_CODE = {
    ".mlpackage": """\
    import numpy as np
    from sdmobile.validate import MLProgram          # anywhere; on macOS: coremltools.models.MLModel

    program = MLProgram("subgraph.mlpackage")        # precision="float16" rounds as a phone does
    found = program.predict(dict(np.load("inputs.npz")))
    print(np.abs(found["{output}"] - np.load("expected.npz")["{output}"]).max())
""",
    ".tflite": """\
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter("subgraph.tflite").get_signature_runner("main")
    found = run(**np.load("inputs.npz"))["output"]
    print(np.abs(found - np.load("expected.npz")["output"]).max())
""",
}


def run_part(graph: ExportedGraph, part: Part) -> float:
    """Returns the PSNR in dB of a part's output on PyTorch's exact inputs, cut out of its file and run alone."""
    with temporary_folder("part") as scratch:
        return _alone(graph, part, graph.write(part.piece, scratch))


def _alone(graph: ExportedGraph, part: Part, file: Path) -> float:
    return psnr(part.match.expected, graph.run_part(file, part.piece, part.inputs))


def save_part(graph: ExportedGraph, part: Part, folder: Path) -> Path:
    """Writes a part into a folder, which it replaces.

    Args:
        graph: the file that it is cut from.
        part: what to cut, its inputs and what should come out.
        folder: where to.

    Raises:
        OutputError: the folder is there and holds something else.
    """
    if folder.exists() and not _is_part(folder):
        raise OutputError("the folder for a failing part must not exist", folder, "Choose another --bisect-dir.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_beside(folder) as scratch:
        place = scratch / "part"
        place.mkdir()
        file = graph.write(part.piece, place)
        alone = _alone(graph, part, file)
        _write_arrays(place, file.suffix, graph, part)
        (place / "README.txt").write_text(_readme(file, part, alone), "utf-8")
        put_in_place(place, folder, overwrite=True, replaceable=_is_part)
    return folder


def _is_part(folder: Path) -> bool:
    return (folder / "expected.npz").is_file()


def _write_arrays(place: Path, suffix: str, graph: ExportedGraph, part: Part) -> None:
    if suffix == ".tflite":
        named = {f"input_{i}": part.inputs[name] for i, name in enumerate(part.piece.inputs)}
    else:
        named = {name: array.astype(graph.dtype_of(name)) for name, array in part.inputs.items()}
    np.savez(place / "inputs.npz", **named)  # pyright: ignore[reportArgumentType]
    np.savez(place / "expected.npz", **{_output(suffix, part): part.match.expected})  # pyright: ignore[reportArgumentType]


def _output(suffix: str, part: Part) -> str:
    return "output" if suffix == ".tflite" else part.piece.output


def _readme(file: Path, part: Part, alone: float) -> str:
    return _README.format(
        module=part.match.module,
        count=len(part.piece.ops),
        operations=", ".join(op.type for op in part.piece.ops[:40]) + (", …" if len(part.piece.ops) > 40 else ""),
        alone=f"{alone:.1f}" if np.isfinite(alone) else "no finite number of",
        file=file.name.ljust(16),
        output=_output(file.suffix, part),
        code=_CODE[file.suffix].replace("{output}", _output(file.suffix, part)),
    )
