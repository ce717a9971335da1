"""Stored graphs: nothing is lost, they are small, and they do the arithmetic that was published for their models."""

from __future__ import annotations

import json

import pytest

from benchmarks.calibration.macs import graph_macs
from benchmarks.calibration.rows import published_rows
from benchmarks.calibration.stored import GRAPHS, stored_graph, stored_graphs, write_graph
from sdmobile.errors import UnsupportedError
from sdmobile.prediction.graph_json import decode, encode

# Relative differences from the published multiply-accumulates beyond their rounding; docs/latency-model.md names them.
DISAGREE = {"mobilenet_v4_conv_l": 0.09, "mobilenet_v4_hybrid_m": 0.06, "multi_hardware_avg_150": 0.06}


@pytest.mark.parametrize("name", ["efficientvit_b1", "sd15_512_unet"])
def test_a_graph_survives_writing_and_reading(name: str, tmp_path) -> None:
    graph = stored_graph(name)

    assert decode(json.loads(json.dumps(encode(graph)))) == graph
    write_graph(graph, tmp_path / "a.json.gz")
    assert (tmp_path / "a.json.gz").read_bytes() == (GRAPHS / f"{name}.json.gz").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json.gz"]


def test_graphs_are_small() -> None:
    sizes = [path.stat().st_size for path in GRAPHS.glob("*.json.gz")]

    assert len(sizes) >= 20
    assert max(sizes) < 60_000
    assert sum(sizes) < 1_500_000


def test_every_row_has_its_graph() -> None:
    assert {row.graph for row in published_rows("adreno_740")} <= set(stored_graphs())


def test_an_unknown_graph_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no_such_model"):
        stored_graph("no_such_model")


@pytest.mark.parametrize("row", [row for row in published_rows("adreno_740") if row.gmacs], ids=lambda row: row.graph)
def test_multiply_accumulates_are_the_published_ones(row) -> None:
    own = graph_macs(stored_graph(row.graph)) / 1e9

    if row.graph in DISAGREE:
        assert row.gmacs_rounding < abs(own - row.gmacs) < DISAGREE[row.graph] * row.gmacs
    else:
        assert own == pytest.approx(row.gmacs, abs=row.gmacs_rounding + 1e-9)


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [("sd15_512_unet", 803.28), ("sd15_512_vae_decoder", 1257.26), ("sd15_512_text_encoder", 6.65)],
)
def test_stable_diffusion_does_what_its_architecture_says(name: str, gmacs: float) -> None:
    """Counts from the public architecture, by formula and not from a file."""
    assert graph_macs(stored_graph(name)) / 1e9 == pytest.approx(gmacs, abs=0.006)
