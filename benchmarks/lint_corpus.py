"""Compares `sdmobile lint` with Google's accelerator on the corpus of small models.

    python -m benchmarks.lint_corpus record    asks the accelerator about every model and stores its answers
    python -m benchmarks.lint_corpus report    writes the confusion matrix into docs/lint.md from the stored answers

`record` needs the Vulkan driver of `make gpu-setup`, or VK_DRIVER_FILES, and takes two minutes on two cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from tests.lint.corpus import corpus
from tests.lint.corpus.accelerator import Answer, ask, mesa_version
from tests.lint.corpus.answers import ANSWERS, Comparison, Recorded, compare, read_answers, verdict_of

_PAGE = Path(__file__).parents[1] / "docs" / "lint.md"
_BEGIN, _END = "<!-- corpus: begin -->", "<!-- corpus: end -->"
_VERDICTS = ("accepted", "refused", "miscomputed")


def record() -> None:
    """Stores what the accelerator says to every model; models that LiteRT's own CPU refuses are named apart."""
    mesa = mesa_version()
    if mesa is None:
        sys.exit("no Vulkan driver: run make gpu-setup, or set VK_DRIVER_FILES")
    cases = corpus()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{index}.tflite") for index in range(len(cases))]
        for case, path in zip(cases, paths, strict=True):
            path.write_bytes(case.build())
        found: dict[str, Answer] = {}
        for case, answer in zip(cases, ask(paths), strict=True):
            found[case.name] = verdict_of(case, answer)
            print(f"\r{len(found)} of {len(cases)}", end="", file=sys.stderr)
    groups = {v: sorted(n for n, a in found.items() if a.verdict == v) for v in ("accepted", "invalid")}
    rest = {n: [a.verdict, a.reason] for n, a in sorted(found.items()) if a.verdict not in groups}
    recorded = {"ai_edge_litert": version("ai-edge-litert"), "mesa": mesa, **groups, "rest": rest}
    ANSWERS.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"\n{Counter(answer.verdict for answer in found.values())}", file=sys.stderr)


def report() -> None:
    """Writes the table between the marks of docs/lint.md."""
    recorded = read_answers()
    text = _PAGE.read_text("utf-8")
    before, rest = text.split(_BEGIN)
    _PAGE.write_text(f"{before}{_BEGIN}\n{_table(recorded, compare(recorded))}\n{_END}{rest.split(_END)[1]}", "utf-8")


def _table(recorded: Recorded, comparison: Comparison) -> str:
    cells = Counter((row.accelerator, row.lint) for row in comparison.rows)
    total, agreed = len(comparison.rows), sum(cells[v, v] for v in _VERDICTS)
    lines = [
        f"{total} models, ai-edge-litert {recorded.litert} on Mesa {recorded.mesa} (lavapipe), float32. "
        f"{recorded.invalid} further models are refused by LiteRT's CPU itself and left out.",
        "",
        "| accelerator ↓, lint → | " + " | ".join(_VERDICTS) + " |",
        "|---" * (len(_VERDICTS) + 1) + "|",
        *(f"| {true} | " + " | ".join(str(cells[true, said]) for said in _VERDICTS) + " |" for true in _VERDICTS),
        "",
        f"Agreement: {agreed} of {total} ({agreed / total:.1%}). "
        f'False "accepted": {sum(cells[true, "accepted"] for true in _VERDICTS[1:])}.',
        "",
        "Disagreements: " + ("; ".join(row.told() for row in comparison.disagreements) or "none."),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    commands = {"record": record, "report": report}
    if sys.argv[1:] not in (["record"], ["report"]):
        sys.exit(__doc__)
    commands[sys.argv[1]]()
