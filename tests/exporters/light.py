"""What a light installation does, in a process where the heavy libraries cannot be imported or in any other."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

HEAVY = (
    "accelerate",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "coremltools",
    "diffusers",
    "litert_torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "peft",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)


class Absent(MetaPathFinder):
    """Makes the heavy libraries look as if they were not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def documents(checkpoint: str, target: str, folder: Path) -> dict[str, Any]:
    """Plans an export that streams everything, writes the small files; returns the plan and what was written."""
    from sdmobile.checkpoints import open_checkpoint
    from sdmobile.checkpoints.bundled import bundled_path
    from sdmobile.exporters.phone_files import write_phone_files
    from sdmobile.exporters.request import ExportRequest, make_plan
    from sdmobile.families.contracts import contract_for

    path = bundled_path(Path(checkpoint))
    opened = open_checkpoint(path)
    plan = make_plan(ExportRequest(path, target, folder / "out"), opened)
    contracts = {name: contract_for(opened.family, target, name, plan.geometry) for name in opened.family.names}
    records = {name: {"file": one.file_name, "contract": one.to_json()} for name, one in contracts.items()}
    folder.mkdir(parents=True)
    write_phone_files(plan, records, folder)
    told = plan.to_json()
    told.pop("output")
    files = {file.relative_to(folder).as_posix(): file.read_text("utf-8") for file in sorted(folder.rglob("*.*"))}
    return {"plan": json.loads(json.dumps(told)), "files": files}


def command(arguments: list[str]) -> dict[str, Any]:
    """Returns exit code and output of a command of sdmobile."""
    from sdmobile.cli.app import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Does what an order says: `documents` by name, and `commands`."""
    folder = Path(order["folder"])
    found: dict[str, Any] = {}
    for checkpoint, target in order["documents"]:
        name = f"{checkpoint} {target}"
        found[name] = documents(checkpoint, target, folder / name.replace("/", "_"))
    return found | {" ".join(arguments): command(arguments) for arguments in order["commands"]}


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    result = main(json.loads(sys.argv[1]))
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & set(HEAVY))
    print(json.dumps({**result, "loaded": loaded}))
