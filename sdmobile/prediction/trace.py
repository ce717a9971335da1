"""The predicted timeline as a trace for Perfetto or Chrome.

Format: the JSON object of complete events ("ph": "X", times in microseconds) of Chrome's "Trace Event Format".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdmobile.prediction.assess import Assessment
    from sdmobile.prediction.component_cost import ComponentCost

_THREAD = 1


def chrome_trace(result: Assessment) -> dict[str, Any]:
    """Returns the trace: a process per component, one thread for the unit, an event per kernel.

    Each component runs once, one after the other; `calls` of its process says how often an image runs it. The events
    of a component add up to its predicted time, the fixed cost of a call being an event of its own.
    """
    events: list[dict[str, Any]] = []
    start = 0.0
    for number, part in enumerate(result.components, 1):
        events += _process(part, number, result.device.name)
        for event in _events(part, number, start):
            events.append(event)
            start = event["ts"] + event["dur"]
    about = {
        "predicted": True,
        "bundle": result.name,
        "device": result.device.profile.name,
        "unit": result.device.name,
        "reliability": result.device.reliability,
        "calls": {part.name: part.calls for part in result.components},
    }
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _process(part: ComponentCost, number: int, unit: str) -> list[dict[str, Any]]:
    calls = f", {part.calls} calls per image" if part.calls > 1 else ""
    named = {"process_name": f"{part.name} (predicted{calls})", "thread_name": unit}
    return [
        {"ph": "M", "name": kind, "pid": number, "tid": _THREAD, "args": {"name": name}} for kind, name in named.items()
    ]


def _events(part: ComponentCost, number: int, start: float) -> Iterator[dict[str, Any]]:
    common = {"ph": "X", "pid": number, "tid": _THREAD}
    fixed = 1e6 * part.prediction.fixed
    if fixed:
        yield {**common, "name": "fixed cost of a call", "cat": "fixed", "ts": start, "dur": fixed, "args": {}}
        start += fixed
    for time in part.prediction.times:
        took = 1e6 * time.seconds
        yield {
            **common,
            "name": time.kernel.name or time.kernel.category,
            "cat": time.kernel.category,
            "ts": start,
            "dur": took,
            "args": time.to_json(),
        }
        start += took
