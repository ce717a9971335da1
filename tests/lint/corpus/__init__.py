"""Small models, each with one thing that a GPU runtime may refuse, and what Google's accelerator said to them."""

from __future__ import annotations

from tests.lint.corpus import drawn, elementwise, filters, joining, layers, layout, merging, models, outputs, reductions
from tests.lint.corpus.case import Case


def corpus() -> list[Case]:
    """Returns all cases; names are unique."""
    found = [
        case
        for part in (elementwise, layers, filters, layout, joining, reductions, outputs, merging, models, drawn)
        for case in part.cases()
    ]
    names = [case.name for case in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"cases of the same name: {twice}")
    return found
