"""The thin decoder that ships draws what the teacher's draws: the gate of its stage."""

from __future__ import annotations

from benchmarks.mobile_decoder import likeness


def test_the_thin_decoder_is_near_the_teachers() -> None:
    found = likeness(16)
    assert found["thin decoder to the teacher's"] >= 35
    assert found["the same, worst picture"] >= 30
    assert found["teacher's decoder to the renderings"] - found["thin decoder to the renderings"] < 1
