"""The trace of a prediction: events as the format wants them, and the prediction's own sums."""

from __future__ import annotations

import json

import pytest

from sdmobile.formats.bundle.reading import Bundle
from sdmobile.prediction.assess import assess
from sdmobile.prediction.assess_device import choose_unit
from sdmobile.prediction.trace import chrome_trace
from tests.prediction.assessed import sd15

__all__ = ["sd15"]

# The keys of a complete event and of a metadata event in Chrome's "Trace Event Format", with their types.
_COMPLETE = {"ph": str, "name": str, "cat": str, "pid": int, "tid": int, "ts": float, "dur": float, "args": dict}
_METADATA = {"ph": str, "name": str, "pid": int, "tid": int, "args": dict}


def test_the_trace_is_the_prediction(sd15: Bundle) -> None:
    result = assess(sd15, choose_unit("galaxy-s23-ultra"))
    trace = json.loads(json.dumps(chrome_trace(result), allow_nan=False))
    assert set(trace) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["otherData"]["predicted"] is True
    complete = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    named = [event for event in trace["traceEvents"] if event["ph"] == "M"]
    assert len(complete) + len(named) == len(trace["traceEvents"])
    for events, schema in ((complete, _COMPLETE), (named, _METADATA)):
        for event in events:
            assert set(event) == set(schema)
            for key, kind in schema.items():
                assert isinstance(event[key], (int, float) if kind is float else kind), (key, event)
    for number, part in enumerate(result.components, 1):
        own = [event for event in complete if event["pid"] == number]
        assert sum(event["dur"] for event in own) == pytest.approx(1e6 * part.prediction.seconds, rel=1e-9)
        assert sum(event["args"].get("macs", 0) for event in own) == sum(
            time.kernel.macs for time in part.prediction.times
        )
        assert [e["args"]["name"] for e in named if e["pid"] == number][1] == "gpu"
    ends = 0.0
    for event in complete:  # one after the other: none begins before the one before it ends
        assert event["ts"] == pytest.approx(ends, rel=1e-9)
        ends = event["ts"] + event["dur"]
