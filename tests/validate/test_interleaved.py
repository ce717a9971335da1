"""Contenders take turns, are loaded once a round and warmed up before they are timed."""

from __future__ import annotations

from sdmobile.validate.ablation import Run, interleaved


def test_order_and_number_of_runs() -> None:
    seen: list[str] = []

    def loader(name: str):
        def load() -> Run:
            seen.append(f"load {name}")
            return lambda: seen.append(name)

        return load

    found = interleaved({"a": loader("a"), "b": loader("b")}, rounds=2, repeats=2)
    one_round = ["load a", "a", "a", "a", "load b", "b", "b", "b"]
    assert seen == one_round * 2
    assert {name: len(times) for name, times in found.items()} == {"a": 4, "b": 4}
    assert all(ms >= 0 for times in found.values() for ms in times)
