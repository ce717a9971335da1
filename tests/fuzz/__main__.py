"""The campaign, `python -m tests.fuzz --seed 0 --cases 2000 --minutes 10`; one case by its name, `--case models:17`."""

from __future__ import annotations

import argparse
import gc
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.fuzz.case import Kind, Outcome
from tests.fuzz.kinds import KINDS
from tests.fuzz.runner import Case, Result, Runner

_FAULT, _USAGE, _INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a campaign or one case, prints its table and its faults, and returns 1 if there is one."""
    options = _options(arguments)
    _quiet()
    folder = Path(tempfile.mkdtemp(prefix="sdmobile-fuzz-"))
    cases = [options.case] if options.case else spread(options.kinds, options.cases, options.seed)
    runner = Runner(folder, 1 if options.case else options.jobs, keep=options.case is not None)
    started = time.monotonic()
    runner.prepare({case.kind.name: case.kind for case in cases}.values())
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page that it looks at
    print(
        f"{len(cases)} cases, seed {options.seed}, {options.jobs} at a time; prepared in {_since(started)}", flush=True
    )
    results: list[Result] = []
    interrupted = False
    try:
        for result in runner.run(cases, started + 60 * options.minutes):
            results.append(result)
            _tell(result, options.case is not None)
    except KeyboardInterrupt:
        interrupted = True
    print(table(results))
    load = os.getloadavg()[1]
    print(f"{len(results)} of {len(cases)} cases in {_since(started)}, load {load:.1f} on {os.cpu_count()} processors")
    if options.case:
        print(f"its files: {folder}")
    elif not any(result.verdict.outcome is Outcome.FAULT for result in results):
        _remove(folder)
    return _INTERRUPTED if interrupted else int(any(r.verdict.outcome is Outcome.FAULT for r in results))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="another seed is another search")
    parser.add_argument("--cases", type=int, default=2000, help="how many, shared among the kinds")
    parser.add_argument("--minutes", type=float, default=10.0, help="no case begins after so long")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"among {', '.join(KINDS)}")
    parser.add_argument("--case", help="one case alone, KIND:NUMBER; its files are kept")
    options = parser.parse_args(arguments)
    names = options.kinds.split(",")
    if unknown := [name for name in names if name not in KINDS]:
        parser.error(f"no such kind: {', '.join(unknown)}")
    options.kinds = [KINDS[name] for name in names]
    if options.case:
        kind, _, number = options.case.partition(":")
        if kind not in KINDS or not number.isdigit():
            parser.error(f"a case is KIND:NUMBER with a kind among {', '.join(KINDS)}: {options.case}")
        options.case = Case(KINDS[kind], int(number), options.seed)
    return options


def _quiet() -> None:
    """Keeps libraries quiet and to one thread: a process that has started others must not fork."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.update({"TOKENIZERS_PARALLELISM": "false", "TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1"})
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)


def spread(kinds: Sequence[Kind], count: int, seed: int) -> list[Case]:
    """Returns so many cases by the kinds' shares, mixed evenly, so that a search cut short has seen all kinds."""
    total = sum(kind.share for kind in kinds)
    numbers = {kind.name: math.ceil(count * kind.share / total) for kind in kinds}
    placed = [
        ((number + 0.5) / numbers[kind.name], Case(kind, number, seed))
        for kind in kinds
        for number in range(numbers[kind.name])
    ]
    return [case for _, case in sorted(placed, key=lambda item: item[0])][:count]


def table(results: Iterable[Result]) -> str:
    """Returns counts by kind and verdict; a refusal counts under its exit code."""
    rows: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    for result in results:
        verdict, kind = result.verdict, result.case.kind.name
        column = (
            f"exit {verdict.code}" if verdict.outcome is Outcome.REFUSED and verdict.code else verdict.outcome.value
        )
        rows.setdefault(kind, Counter())[column] += 1
        seconds[kind] += result.seconds  # type: ignore[assignment]
    used = {column for row in rows.values() for column in row}
    columns = ["right", *sorted(used - {"right", "fault"}), "fault"]
    lines = [["kind", "cases", *columns, "seconds"]]
    for kind, row in rows.items():
        lines.append([kind, str(row.total()), *(str(row[c]) for c in columns), f"{seconds[kind]:.0f}"])
    whole: Counter[str] = sum(rows.values(), Counter())
    lines.append(["all", str(whole.total()), *(str(whole[c]) for c in columns), f"{seconds.total():.0f}"])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(_row(line, widths) for line in lines)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])


def _tell(result: Result, alone: bool) -> None:
    """Prints a fault, with the command that repeats it; of a case by itself, whatever it is."""
    case, verdict = result.case, result.verdict
    if verdict.outcome is Outcome.FAULT:
        seed = f" SEED={case.seed}" if case.seed else ""
        print(f"FAULT  make fuzz{seed} CASE={case.name}  ({result.seconds:.1f} s)\n       {verdict.words}", flush=True)
    elif alone:
        print(f"{verdict.outcome.value}: {verdict.words}  ({result.seconds:.1f} s)")


def _since(started: float) -> str:
    seconds = time.monotonic() - started
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
