"""Fits the Adreno 740's parameters again.

python -m benchmarks.calibration [--write] [--page docs/latency-model.md] [--predict MODEL.tflite ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.calibration.adreno import seconds
from benchmarks.calibration.adreno_fit import AdrenoFit, adreno_fit
from benchmarks.calibration.profile_values import write_page, write_profile
from benchmarks.calibration.tables import sections, table
from sdmobile.formats.graph import read_graph


def main() -> None:
    """Prints the tables of the fit; writes them where asked."""
    parser = argparse.ArgumentParser(description="Fits the Adreno 740's latency parameters to the published times.")
    parser.add_argument("--write", action="store_true", help="write the values into galaxy-s23-ultra.toml")
    parser.add_argument("--page", type=Path, help="write the tables into this page, between its marks")
    parser.add_argument("--predict", type=Path, nargs="+", help="only predict these .tflite files of plain operators")
    arguments = parser.parse_args()
    result = adreno_fit()
    if arguments.predict:
        print(_predictions(arguments.predict, result))
        return
    found = sections(result)
    print("\n\n".join(f"## {name}\n\n{content}" for name, content in found.items()))
    if arguments.write:
        write_profile(result)
        print("wrote galaxy-s23-ultra.toml", file=sys.stderr)
    if arguments.page is not None:
        write_page(found, arguments.page)
        print(f"wrote {arguments.page}", file=sys.stderr)


def _predictions(files: Sequence[Path], result: AdrenoFit) -> str:
    """Returns predicted milliseconds by the classic delegate."""
    lines = [[file.name, f"{1e3 * seconds(read_graph(file), result.values):.1f}"] for file in files]
    return table(["file", "predicted ms"], lines)


if __name__ == "__main__":
    main()
