"""A dozen cases of each kind, fixed: the campaign's cheap ones, so that the search itself cannot go blind unnoticed."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.fuzz.case import Kind, Outcome, Verdict
from tests.fuzz.kinds import KINDS
from tests.fuzz.runner import Case, Runner
from tests.synthetic import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:os.fork")  # JAX has threads; the children do not use it
_COUNT = 12


def _numbers(kind: Kind, cheap: tuple[str, ...], second: float = 1.0) -> list[int]:
    """Returns the first dozen case numbers whose first draw is among `cheap`, and whose second is below a level."""
    from importlib import import_module

    cases = import_module(f"tests.fuzz.kinds.{kind.name}").CASES
    numbers = []
    for number in range(500):
        chance = Case(kind, number, 0).chance()
        name = chance.choices([case.__name__ for _, case in cases], [weight for weight, _ in cases])[0]
        if name in cheap and chance.random() < second:
            numbers.append(number)
    return numbers[:_COUNT]


def _verdicts(kind: Kind, numbers: list[int], folder: Path) -> list[Verdict]:
    """Runs cases, with a tiny checkpoint as all that they share; those of checkpoints share a single file, too."""
    prepare = kind.prepare if kind.name == "checkpoints" else _tiny
    light = Kind(kind.name, kind.share, kind.seconds, kind.case, prepare, kind.memory)
    runner = Runner(folder)
    runner.prepare([light])
    return [result.verdict for result in runner.run([Case(light, number, 0) for number in numbers])]


def _tiny(shared: Path) -> None:
    write_checkpoint(shared / "tiny")


@pytest.mark.parametrize(
    ("kind", "cheap", "second"),
    [
        ("checkpoints", ("_folder", "_single", "_index", "_pickle"), 1.0),
        ("bundles", ("_hostile",), 1.0),
        ("processes", ("_killed", "_interrupted", "_full"), 0.5),  # made-up bundles
        ("processes", ("_two",), 1.0),
        ("resources", ("_odd_file", "_deep", "_number", "_option"), 1.0),
    ],
)
def test_cases_find_nothing(kind: str, cheap: tuple[str, ...], second: float, tmp_path: Path) -> None:
    numbers = _numbers(KINDS[kind], cheap, second)
    assert len(numbers) == _COUNT
    verdicts = _verdicts(KINDS[kind], numbers, tmp_path)
    assert [verdict.words for verdict in verdicts if verdict.outcome is Outcome.FAULT] == []
    assert len({verdict.words for verdict in verdicts}) > 1


@pytest.mark.parametrize("number", range(_COUNT))
def test_random_networks_stay_the_same_function(number: int, tmp_path: Path) -> None:
    from tests.fuzz.kinds.models import rewritten

    verdict = rewritten(Random(f"fixed/{number}"), most=1)
    assert verdict.outcome is Outcome.RIGHT, verdict.words


def test_the_networks_are_of_every_part_and_device() -> None:
    from tests.fuzz.kinds.models import draw_network, draw_rules

    networks = [draw_network(Random(number)) for number in range(200)]
    assert {type(part).__name__ for network in networks for part in network.parts} == {
        "Attention",
        "FeedForward",
        "Resample",
        "Residual",
    }
    drawn = [draw_rules(Random(number)) for number in range(60)]
    assert len({device for device, _, _ in drawn}) >= 4
    assert {options.plain_ops for _, options, _ in drawn} == {True, False}
