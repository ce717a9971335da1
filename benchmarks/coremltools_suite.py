"""Runs a sample of coremltools' own tests through the evaluator, with tolerances tightened.

The sample is the tests whose node ids have the smallest hashes, so that anybody draws the same one. Each chunk of it is
a process of its own, with a limit of time; results are one line of JSON each, and a second run goes on where the first
one stopped. Tests that convert to a neural network, which is no ML Program, are counted apart. Exit code 1 if fewer
than 99 % of the tests that predict pass; `--plant OPERATION`, which makes its results 5 % too large, must lead to it.

    python -m benchmarks.coremltools_suite [--limit 5000] [--results FILE] [--precision P] [--plant add]

Tests whose modules import torchvision, mock or parameterized are only there if these are installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDERS = (
    "converters/mil/frontend/torch/test",
    "converters/mil/mil/ops/tests",
    "converters/mil/mil/passes/tests",
    "test/optimize",
)
CHUNK = 150
CHUNK_SECONDS = 900
OUT_OF_TIME = 124
ENOUGH = 0.99
APART = ("skipped", "not an ML Program")
"""Outcomes that say nothing about the evaluator."""
PLUGINS = ("-p", "sdmobile.coremltools_backend.pytest_plugin", "-p", "benchmarks.coremltools_plugin")
_ADDRESS = re.compile(r"0x[0-9a-f]+")


def coremltools_folder() -> Path:
    """Returns where the installed coremltools lies, without importing it."""
    from importlib.util import find_spec

    spec = find_spec("coremltools")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("coremltools is not installed: pip install 'sdmobile[ios]'")
    return Path(spec.submodule_search_locations[0])


def stable(node_id: str) -> str:
    """Returns a node id without addresses in memory, which some parameters are printed with."""
    return _ADDRESS.sub("0x", node_id)


def sample(node_ids: Iterable[str], limit: int) -> list[str]:
    """Returns the tests with the smallest hashes, in the order of their files."""
    drawn = sorted(set(node_ids), key=lambda node: hashlib.sha256(node.encode()).digest())[:limit]
    return sorted(drawn)


def collect(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the ids of all tests of ML Programs, and the modules that cannot be imported."""
    done = _pytest(folder, [*FOLDERS], "--collect-only", "-q", timeout=CHUNK_SECONDS)
    lines = done.stdout.splitlines()
    named = [line for line in lines if "::" in line and line.startswith(FOLDERS)]
    tests = [stable(line) for line in named if line.count("[") == line.count("]")]  # else the name is of several lines
    broken = [line.split()[1] for line in lines if line.startswith("ERROR ")]
    return tests, [str(Path(path).name) for path in broken]


def run(folder: Path, tests: list[str], results: Path, options: list[str]) -> None:
    """Runs tests that have no result yet, in chunks of one file each, and appends what they come to."""
    waiting = [test for test in tests if test not in read(results)]
    for start in range(0, len(waiting), CHUNK):
        _run_chunk(folder, waiting[start : start + CHUNK], results, options)
        counts = summary(tests, read(results))
        print(f"{counts['predicting and passed']} passed, {counts['predicting and failed']} failed", flush=True)


def _run_chunk(folder: Path, tests: list[str], results: Path, options: list[str]) -> None:
    """Runs some tests in a process; the one at which it dies or hangs fails, and the others go on in another."""
    left = tests
    while left:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as chosen:
            json.dump(left, chosen)
            chosen.flush()
            how = ["-q", f"--only={chosen.name}", f"--results={results}", *options]
            files = list(dict.fromkeys(test.partition("::")[0] for test in left))
            code = _pytest(folder, files, *how, timeout=CHUNK_SECONDS).returncode
        found = read(results)
        begun = [test for test in left if found.get(test, {}).get("outcome") == "begun"]
        missing = [test for test in left if test not in found]
        why = "out of time" if code == OUT_OF_TIME else f"the process ended with {code}"
        stopped = begun or (missing if missing == left or code in (0, 1) else [])
        for test in stopped:
            append(results, {"test": test, "outcome": "failed", "predicted": test in begun, "message": why})
        left = [test for test in missing if test not in stopped]


def _pytest(folder: Path, paths: list[str], *options: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Runs pytest on files of coremltools; the return code is `OUT_OF_TIME` if it took too long."""
    root = Path(__file__).parents[1]
    there = [part for part in (str(root), os.environ.get("PYTHONPATH", "")) if part]
    environment = {**os.environ, "PYMIL_TEST_TARGETS": "mlprogram", "PYTHONPATH": os.pathsep.join(there)}
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(folder), "-p", "no:cacheprovider"]
    command += [*PLUGINS, "--tb=short", "-W", "ignore", *options, *(str(folder / path) for path in paths)]
    with tempfile.TemporaryDirectory() as place:
        try:
            return subprocess.run(
                command, cwd=place, env=environment, capture_output=True, text=True, errors="replace", timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, OUT_OF_TIME, "", "")


def read(results: Path) -> dict[str, dict[str, Any]]:
    """Returns the last line of each test in a file of results."""
    if not results.exists():
        return {}
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {line["test"]: line for line in lines}


def append(results: Path, line: dict[str, Any]) -> None:
    """Adds a result."""
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def summary(tests: list[str], found: dict[str, dict[str, Any]]) -> Counter[str]:
    """Returns how many tests predicted and passed or failed, did not predict, or were skipped."""
    counts: Counter[str] = Counter()
    for test in tests:
        line = found.get(test)
        if line is None:
            counts["not run"] += 1
        elif line["outcome"] in APART:
            counts[line["outcome"]] += 1
        else:
            counts[f"{'predicting' if line['predicted'] else 'not predicting'} and {line['outcome']}"] += 1
    return counts


def share(counts: Counter[str]) -> float:
    """Returns how large a part of the tests that predict pass."""
    passed, failed = counts["predicting and passed"], counts["predicting and failed"]
    return passed / max(passed + failed, 1)


def show(tests: list[str], found: dict[str, dict[str, Any]]) -> None:
    """Prints the counts, and every failure with the first line of its message."""
    for test in tests:
        line = found.get(test, {})
        if line.get("outcome") == "failed":
            kind = "predicting" if line["predicted"] else "not predicting"
            print(f"FAILED ({kind}) {test}\n    {line['message'][:300]}")
    counts = summary(tests, found)
    print("\n".join(f"{count:6d} {what}" for what, count in sorted(counts.items())))
    print(f"{share(counts):.2%} of the tests that predict pass")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=5000, help="how many tests")
    parser.add_argument("--results", type=Path, default=Path("coremltools_suite.jsonl"), help="where results are kept")
    parser.add_argument("--precision", help="for all compute units: float32, float16 or float16-float32acc")
    parser.add_argument("--plant", metavar="OPERATION", help="make the results of an operation 5 %% too large")
    arguments = parser.parse_args()
    folder = coremltools_folder()
    everything, broken = collect(folder)
    tests = sample(everything, arguments.limit)
    print(f"{len(tests)} of {len(everything)} tests; modules that cannot be imported: {', '.join(broken) or 'none'}")
    options = [f"--coreml-precision={arguments.precision}"] if arguments.precision else []
    options += [f"--plant={arguments.plant}"] if arguments.plant else []
    run(folder, tests, arguments.results.absolute(), options)
    found = read(arguments.results)
    show(tests, found)
    return 0 if share(summary(tests, found)) >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
