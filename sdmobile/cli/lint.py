"""`sdmobile lint`: predicts what a phone's runtime says to an exported file or to every file of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdmobile.cli.output import Output
from sdmobile.errors import EXIT_UNSUPPORTED

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sdmobile.lint import Finding, LintReport

_SHOWN = 8  # nodes named of each group of findings
_STYLES = {"accepted": "green", "refused": "red", "miscomputed": "red", "warning": "yellow"}
_WORDS = {
    "accepted": "nothing known speaks against it",
    "refused": "predicted to be refused",
    "miscomputed": "predicted to run and to give wrong numbers",
}


def lint(
    path: Annotated[Path, typer.Argument(help="A .tflite file, an .mlpackage, or the folder of a bundle.")],
    runtime: Annotated[
        str | None,
        typer.Option(
            help="ml-drift (LiteRT's CompiledModel), tflite-gpu (the delegate of TensorFlow Lite) or core-ml; "
            "by default the device's."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device profile for sizes and the iOS version; by default that of the bundle.")
    ] = None,
    litert: Annotated[
        str | None, typer.Option(help="Version of LiteRT in the app, such as 2.1.5; by default the tested one, 2.3.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Maker of the GPU: qualcomm, arm, samsung, imagination, apple.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    """Predict, without a driver or a phone, what the runtime says to each operation; exit code 5 if it is refused."""
    from sdmobile.formats.bundle.reading import is_bundle
    from sdmobile.lint import (
        device_limits,
        device_runtime,
        lint_bundle,
        lint_file,
        parse_engine,
        target_of,
        worst,
    )

    engine = None if litert is None and gpu is None else parse_engine(litert, gpu)
    if is_bundle(path):
        reports = lint_bundle(path, runtime, device, engine)
    else:
        target = target_of(path)
        chosen = runtime or device_runtime(target, device)
        reports = [lint_file(path, chosen, device_limits(target, device), engine)]
    verdict = worst(reports)
    data = {"verdict": verdict, "files": [report.to_json() for report in reports]}
    Output(json).data(data, *([] if json else [view for report in reports for view in _views(report)]))
    if verdict != "accepted":
        raise typer.Exit(EXIT_UNSUPPORTED)


def _views(report: LintReport) -> list[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    line = Text.assemble(
        (report.verdict.upper(), f"bold {_STYLES[report.verdict]}"),
        f"  {report.path}\n{report.operations} operations, {report.runtime}: {_WORDS[report.verdict]} (a prediction)",
    )
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        groups.setdefault((finding.rule, finding.op or ""), []).append(finding)
    return [line, *(Padding(_group(findings), (0, 0, 0, 2)) for findings in groups.values()), Text()]


def _group(findings: list[Finding]) -> RenderableType:
    from rich.text import Text

    first = findings[0]
    count = f"{len(findings)} × " if len(findings) > 1 else ""
    version = "" if first.version is None else f" version {first.version}"
    text = Text.assemble(
        (f"{first.severity}: ", _STYLES[first.severity]),
        f"{count}{first.op or 'the file'}{version} [{first.rule}]: {first.detail}\n",
    )
    for finding in findings[:_SHOWN]:
        if finding.node is None:
            continue
        shapes = ", ".join(finding.shapes.get("inputs", [])) + " → " + ", ".join(finding.shapes.get("outputs", []))
        where = "" if finding.module is None else f"  in {finding.module}"
        text.append(f"  node {finding.node}{where}: {shapes}\n", "dim")
    if len(findings) > _SHOWN:
        text.append(f"  and {len(findings) - _SHOWN} more (--json names them all)\n", "dim")
    return text.append(f"  do: {first.fix}\n  source: {first.source}")
