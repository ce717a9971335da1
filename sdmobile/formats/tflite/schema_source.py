"""Takes the `.tflite` schema out of ai-edge-litert's generated code; `make tflite-schema` writes `tflite_schema.json`.

Source: `tflite/converter/schema/schema.fbs`, as `flatc --python --gen-object-api` turned it into
`ai_edge_litert/schema_py_generated.py`; only what a file can hold below its root table is kept.
"""

from __future__ import annotations

import ast
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sdmobile.formats.tflite.schema import SCHEMA

_ROOT = "Model"
_ENUMERATIONS = ("BuiltinOperator", "TensorType", "QuantizationDetails")
_CLASS = re.compile(r"^class (\w+)\(object\):\n((?:(?:[ ].*)?\n)+)", re.MULTILINE)
_METHOD = re.compile(r"    def (\w+)\(self(, j)?\):\n((?:        .*\n)+)")
_ATTRIBUTE = re.compile(r"^        self\.(\w+) = \1 ", re.MULTILINE)
_HELD = re.compile(r"^        self\.(\w+) = (\w+)Creator\(", re.MULTILINE)
_SLOT = re.compile(r"self\._tab\.Offset\((\d+)\)")
_UNION = re.compile(r"^def (\w+)Creator\(unionType, table\):\n((?:    .*\n)+)", re.MULTILINE)
_MEMBER = re.compile(r"unionType == \w+\.(\w+):\n        return (\w+)T\.InitFromBuf")


def schema_of(source: str) -> dict[str, Any]:
    """Returns enumerations, unions and tables of a generated schema, as `schema` reads them.

    Args:
        source: the generated Python code.
    """
    bodies = {match[1]: match[2] for match in _CLASS.finditer(source)}
    members = {match[1]: dict(_MEMBER.findall(match[2])) for match in _UNION.finditer(source)}
    unions = {
        union: {str(_numbers(bodies[union])[name]): table for name, table in tables.items()}
        for union, tables in members.items()
    }
    tables: dict[str, dict[str, list[Any]]] = {}
    waiting = [_ROOT]
    while waiting:
        name = waiting.pop()
        if name in tables:
            continue
        tables[name] = _fields(bodies[name], bodies[f"{name}T"])
        for _, kind, *_ in tables[name].values():
            waiting += unions[kind[1:]].values() if kind[0] == "|" else [kind.lstrip("[*")] * ("*" in kind)
    enumerations = {name: _numbers(bodies[name]) for name in _ENUMERATIONS}
    return {"enumerations": enumerations, "unions": unions, "tables": dict(sorted(tables.items()))}


def _numbers(body: str) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(r"^    (\w+) = (-?\d+)$", body, re.MULTILINE)}


def _fields(body: str, unpacked: str) -> dict[str, list[Any]]:
    """Returns slot, kind and default of each field, by its name in the object API, which has the same order."""
    methods = {
        match[1]: match
        for match in _METHOD.finditer(body)
        if "self._tab.Offset(" in match[3] and not match[1].endswith(("AsNumpy", "IsNone")) and not _counts(match[3])
    }
    names, held = _ATTRIBUTE.findall(unpacked), dict(_HELD.findall(unpacked))
    if [name.lower() for name in names] != [name.lower() for name in methods]:
        raise ValueError(f"the attributes {names} are not the fields {list(methods)}")
    return {
        name: [int(_SLOT.findall(match[3])[0]), *([f"|{held[name]}"] if name in held else _kind(match))]
        for name, match in zip(names, methods.values(), strict=True)
    }


def _counts(code: str) -> bool:
    return "self._tab.VectorLen" in code


def _kind(match: re.Match[str]) -> list[Any]:
    """Returns the kind of a field, and its default where it is a number."""
    vector, code = "[" if match[2] else "", match[3]
    if "self._tab.String" in code:
        return [f"{vector}string"]
    if (table := re.search(r"obj = (\w+)\(\)", code)) is not None:
        return [f"{vector}*{table[1]}"]
    flags = re.search(r"number_types\.(\w+)Flags, [ao] \+", code)
    if flags is None:
        raise ValueError(f"unknown field {match[1]}")
    if vector:
        return [f"[{flags[1].lower()}"]
    return [flags[1].lower(), ast.literal_eval(code.rstrip().rpartition("return ")[2])]


def generated() -> str:
    """Returns ai-edge-litert's generated code."""
    spec = find_spec("ai_edge_litert")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'ai_edge_litert'", name="ai_edge_litert")
    return (Path(spec.submodule_search_locations[0]) / "schema_py_generated.py").read_text("utf-8")


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(schema_of(generated()), separators=(",", ":")) + "\n", "utf-8")
    print(f"{SCHEMA.name}: {SCHEMA.stat().st_size} bytes")
