"""Recipes by component: size, bits, time, memory, PSNR, and captions obeyed; one bundle per call, resumable.

    sdmobile export --target ios -o shapes
    python benchmarks/recipes.py shapes --captions 40                     the recipes of the bundle's target
    python benchmarks/recipes.py sd15 --recipes palette6,int8c --reference CHECKPOINT --samples 1 --steps 1
    python benchmarks/recipes.py sd15 --versus-coremltools --bits 6       beside coremltools' own k-means

Every step is a command in a process of its own, so that times and peaks are its own. Finished rows are kept in
a JSON file and not measured again; the Markdown tables on standard output are of all rows of that file for the bundle.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RECIPES = {
    "ios": "fp16,palette8,palette6,palette4,palette3,palette2,palette1,palette4g16,int8c,int4b32",
    "android": "fp16,int8c,int8d,int4b32",
}
RUNTIMES = {"ios": "evaluator", "android": "litert"}
GIB = 2**30


def main() -> None:
    """Measures what is missing and prints the tables."""
    options = _options()
    if options.versus_coremltools:
        raise SystemExit(_versus(options))
    manifest = _manifest(options.bundle)
    target = manifest["target"]
    rows: dict[str, Any] = json.loads(options.state.read_text()) if options.state.exists() else {}
    names = (options.recipes or RECIPES[target]).split(",")
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        for name in names:
            row = rows.setdefault(_key(options, name), {})
            _measure(options, target, name, row, Path(folder) / name)
            options.state.parent.mkdir(parents=True, exist_ok=True)
            options.state.write_text(json.dumps(rows, indent=1) + "\n")
    print(markdown({name: rows[_key(options, name)] for name in names}, list(manifest["components"])))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="uncompressed bundle")
    parser.add_argument("--recipes", help="names, separated by commas; without them, those of the target")
    parser.add_argument("--reference", type=Path, help="checkpoint of the bundle; without it, the bundled one")
    parser.add_argument("--samples", type=int, default=9, help="recorded inputs per component; 0 for no PSNR")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps of the recording")
    parser.add_argument("--components", help="whose PSNR is measured; without them, all")
    parser.add_argument("--captions", type=int, default=0, help="held-out prompts to judge (shapes-64)")
    parser.add_argument("--state", type=Path, default=Path("build/recipes.json"), help="finished rows")
    parser.add_argument("--work", type=Path, help="where compressed bundles are written and removed again")
    parser.add_argument("--versus-coremltools", action="store_true", help="k-means palettes beside coremltools' own")
    parser.add_argument("--component", default="unet", help="for --versus-coremltools")
    parser.add_argument("--bits", type=int, choices=(1, 2, 4, 6, 8), default=6, help="for --versus-coremltools")
    parser.add_argument("--tensors", type=int, help="so many of the largest weights instead of all")
    parser.add_argument("--workers", type=int, default=2, help="processes of coremltools' k-means")
    return parser.parse_args()


def _versus(options: argparse.Namespace) -> int:
    command = [sys.executable, str(Path(__file__).with_name("versus_coremltools.py")), str(options.bundle)]
    command += ["--component", options.component, "--bits", str(options.bits), "--workers", str(options.workers)]
    command += ["--tensors", str(options.tensors)] if options.tensors else []
    return subprocess.run(command).returncode


def _manifest(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "manifest.json").read_text())


def _key(options: argparse.Namespace, recipe: str) -> str:
    manifest = _manifest(options.bundle)
    return f"{manifest['source']['name']} {manifest['target']} {manifest['device']} {recipe}"


def _measure(options: argparse.Namespace, target: str, name: str, row: dict[str, Any], out: Path) -> None:
    """Fills what a row lacks: "apply", "psnr_db", "captions"."""
    judged = row.get("captions", {}).get("prompts", 0) >= options.captions
    if "apply" in row and ("psnr_db" in row or not options.samples) and judged:
        return
    bundle = options.bundle
    if name != "fp16":
        bundle = out
        applied = _json("quantize", "apply", str(options.bundle), "--recipe", name, "-o", str(out), "--json")
        row.setdefault("apply", _applied(applied))
    components = _manifest(bundle)["components"]
    row.setdefault("apply", {})
    row["bytes"] = {component: record["bytes"] for component, record in components.items()}
    if options.samples and "psnr_db" not in row:
        row["psnr_db"] = _psnr(options, bundle, target)
    if not judged:
        row["captions"] = _captions(bundle, RUNTIMES[target], options.captions)
    _say(f"{name}: {row}")


def _applied(summary: dict[str, Any]) -> dict[str, Any]:
    kept = ("bits_per_weight", "seconds", "peak_rss_bytes", "schemes")
    records = {component: record for component, record in summary["compression"].items() if record}
    return {component: {key: record[key] for key in kept} for component, record in records.items()}


def _psnr(options: argparse.Namespace, bundle: Path, target: str) -> dict[str, float | None]:
    """Returns the worst PSNR over recorded inputs by component, of the runtime in float32."""
    command = ["validate", str(bundle), "--runtime", RUNTIMES[target], "--no-trajectory", "--lint", "off", "--json"]
    command += ["--max-samples", str(options.samples), "--steps", str(options.steps)]
    command += ["--reference", str(options.reference)] if options.reference else []
    command += ["--components", options.components] if options.components else []
    with tempfile.TemporaryDirectory() as folder:
        if options.samples == 1:
            prompts = Path(folder) / "prompts.txt"
            prompts.write_text("a large red circle in the center on a white background\n")
            command += ["--prompts", str(prompts)]
        report = _json(*command, accepted=(0, 3))
    return {check["component"]: check["worst"]["psnr_db"] if check["worst"] else None for check in report["components"]}


def _captions(bundle: Path, runtime: str, count: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        _run("train", "evaluate", str(bundle), "-o", folder, "--prompts", str(count), "--runtime", runtime)
        record = json.loads((Path(folder) / "obedience.json").read_text())
    return {key: record[key] for key in ("obeyed", "prompts")}


def _json(*arguments: str, accepted: Sequence[int] = (0,)) -> dict[str, Any]:
    return json.loads(_run(*arguments, accepted=accepted))


def _run(*arguments: str, accepted: Sequence[int] = (0,)) -> str:
    """Returns what a command of sdmobile prints."""
    command = [sys.executable, "-m", "sdmobile.cli.app", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode not in accepted:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout


def markdown(rows: dict[str, Any], components: Sequence[str]) -> str:
    """Returns one table of whole bundles and one of components."""
    lines = ["| recipe | MB | captions | s | GiB |", "|---|--:|--:|--:|--:|"]
    for name, row in rows.items():
        captions = row.get("captions")
        applied = row["apply"].values()
        obeyed = f"{captions['obeyed']}/{captions['prompts']}" if captions and captions["prompts"] else "–"
        seconds = f"{sum(part['seconds'] for part in applied):.1f}" if applied else "–"
        memory = f"{max(part['peak_rss_bytes'] for part in applied) / GIB:.2f}" if applied else "–"
        lines.append(f"| `{name}` | {sum(row['bytes'].values()) / 1e6:.2f} | {obeyed} | {seconds} | {memory} |")
    lines += ["", "| recipe | component | MB | bits | s | dB |", "|---|---|--:|--:|--:|--:|"]
    for name, row in rows.items():
        for component in components:
            lines.append(f"| `{name}` | {component} | {_component(row, component)} |")
    return "\n".join(lines)


def _component(row: dict[str, Any], component: str) -> str:
    part, level = row["apply"].get(component), row.get("psnr_db", {}).get(component)
    bits, seconds = (f"{part['bits_per_weight']:.2f}", f"{part['seconds']:.1f}") if part else ("16", "–")
    return f"{row['bytes'][component] / 1e6:.2f} | {bits} | {seconds} | {'–' if level is None else f'{level:.1f}'}"


def _say(line: str) -> None:
    print(re.sub(r"\s+", " ", line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
