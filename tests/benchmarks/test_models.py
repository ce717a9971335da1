"""The table of families: it is that of the stored rows, every family is in it, and nothing failed."""

from __future__ import annotations

from benchmarks.models import BEGIN, END, PAGE, TARGETS, stored, table
from sdmobile.families import FAMILIES


def test_the_page_has_the_stored_rows() -> None:
    _, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    written, _, _ = rest.partition(END)
    assert written.strip() == table(stored())


def test_every_family_has_a_row_for_each_phone() -> None:
    assert [(row["family"], row["target"]) for row in stored()] == [
        (family.name, target) for family in FAMILIES for target in TARGETS
    ]


def test_no_row_failed() -> None:
    """A row that fails is stored as it is; then the page must not go out."""
    for row in stored():
        assert row["export"]["code"] == 0
        assert row["lint"] == "accepted"
        assert all(check["code"] == 0 for check in row["validate"].values())
        if row["target"] == "android":
            assert row["gpu"]["accepted"] == row["gpu"]["of"]


def test_a_row_that_failed_says_so() -> None:
    line = table([{"family": "f", "target": "ios", "export": {"code": 5}}]).splitlines()[-1]
    assert line.startswith("| `f` | iPhone | exit code 5 |")
