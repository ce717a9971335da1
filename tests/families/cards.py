"""Reads the code in a bundle's model card, and what the bundle's files really take and return."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdmobile.families.calls import files_of
from sdmobile.families.model_card import model_card

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Type and shape by name."""


@dataclass(frozen=True)
class Interface:
    """What a file takes and returns."""

    signature: str
    inputs: Shapes
    outputs: Shapes


@dataclass(frozen=True)
class Source:
    """An input that other calls returned: their variables, the output's name, how often the sum is repeated."""

    calls: tuple[str, ...]
    name: str
    rows: int


@dataclass(frozen=True)
class Called:
    """A call in the code: outputs that it names, and inputs as arrays of zeros or from a call before."""

    variable: str
    file: str
    signature: str | None
    inputs: dict[str, tuple[str, tuple[int, ...]] | Source]
    outputs: tuple[str, ...]


def blocks(card: str, language: str) -> list[str]:
    """Returns the blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


def read_kotlin(code: str) -> list[Called]:
    kinds = {"Float": "float32", "Int": "int32", "Boolean": "bool"}
    arrays = {
        name: (kinds[kind], tuple(int(size) for size in sizes.split(" * ")))
        for name, kind, sizes in re.findall(r"val (\w+) = (\w+)Array\(([\d* ]+)\)", code)
    }
    called = []
    pattern = r'val (\w+) = load\(folder, "([^"]+)"\)\.call\(\n +"(\w+)",\n +mapOf\((.*?)\n +listOf\((.*?)\n    \)'
    for variable, file, signature, given, made in re.findall(pattern, code, re.DOTALL):
        pairs = re.findall(r'"([^"]+)" to (.+?)\)?,$', given, re.MULTILINE)
        inputs = {name: _value(text, arrays, r'(\w+)\.getValue\("([^"]+)"') for name, text in pairs}
        outputs = tuple(re.findall(r'"([^"]+)"\)?, //', made))
        called.append(Called(variable, file, signature, inputs, outputs))
    return called


def read_swift(code: str) -> list[Called]:
    arrays = {
        name: ("float32", tuple(int(size) for size in sizes.split(", ")))
        for name, sizes in re.findall(r"let (\w+) = zeros\(([\d, ]+)\)", code)
    }
    called = []
    pattern = r'let (\w+) = try load\(folder, "([^"]+)\.mlmodelc"\)\.call\(\[\n(.*?)\n    \]\)'
    for variable, file, given in re.findall(pattern, code, re.DOTALL):
        pairs = re.findall(r'^ +"([^"]+)": (.+),$', given, re.MULTILINE)
        inputs = {name: _value(text, arrays, r'(\w+)\["([^"]+)"\]!') for name, text in pairs}
        outputs = tuple(re.findall(rf'= {variable}\["([^"]+)"\]!', code))
        called.append(Called(variable, f"{file}.mlpackage", None, inputs, outputs))
    return called


def _value(text: str, arrays: Mapping[str, Any], pattern: str) -> Any:
    found = re.findall(pattern, text)
    return _source(found, len(found)) if found else arrays[text]


def _source(found: list[tuple[str, str]], mentioned: int) -> Source:
    calls = tuple(dict.fromkeys(call for call, _ in found))
    (name,) = {name for _, name in found}
    return Source(calls, name, mentioned // len(calls))


def read_python(code: str) -> list[Called]:
    called = []
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name):
            inputs = {str(word.arg): _python_value(word.value) for word in node.value.keywords}
            called.append(Called(node.targets[0].id, ast.literal_eval(node.value.args[0]), None, inputs, ()))
    return called


def _python_value(node: ast.expr) -> Any:
    text = ast.unparse(node)
    if zeros := re.fullmatch(r"np\.zeros\((\(.*\)), np\.(\w+)\)", text):
        return zeros[2], ast.literal_eval(zeros[1])
    repeated = re.fullmatch(r"np\.repeat\((.*), (\d+), 0\)", text)
    found = re.findall(r"(\w+)\['([^']+)'\]", text)
    return _source(found, len(found) * (int(repeated[2]) if repeated else 1))


READERS = {"ios": ("swift", read_swift), "android": ("kotlin", read_kotlin), "onnx": ("python", read_python)}


def check_calls(card: str, target: str, files: Mapping[str, Interface]) -> list[Called]:
    """Asserts that the code calls every file once, by its signature, with all its inputs in type and shape; what one
    file passes on to another must be an output of it with the shape that the other takes."""
    language, read = READERS[target]
    called = read(blocks(card, language)[-1])
    assert [call.file for call in called] == list(files)
    made: dict[str, Shapes] = {}
    for call in called:
        real = files[call.file]
        assert call.signature in (None, real.signature)
        assert call.inputs.keys() == real.inputs.keys(), call.file
        for name, value in call.inputs.items():
            if isinstance(value, Source):
                ((kind, shape),) = {made[other][value.name] for other in value.calls}
                value = kind, (value.rows * shape[0], *shape[1:])
            assert value == real.inputs[name], (call.file, name)
        assert set(call.outputs) <= real.outputs.keys()
        if target == "android":
            assert set(call.outputs) == real.outputs.keys()
        made[call.variable] = real.outputs
    return called


def check_bundle(bundle: Path) -> None:
    """Asserts that the code in an exported bundle's card fits the files that lie beside it."""
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    files = [one["file_name"] for record in manifest["components"].values() for one in files_of(record)]
    card = model_card(manifest)
    if "import StableDiffusion" in card:
        assert re.findall(r"`([\w-]+)\.mlmodelc`", card) == [file.removesuffix(".mlpackage") for file in files]
        assert all((bundle / file).is_dir() for file in files)
    else:
        check_calls(card, manifest["target"], {file: interface(bundle / file) for file in files})


def interface(path: Path) -> Interface:
    """Returns what a file says of itself, as the library of its runtime reads it."""
    return _READ[path.suffix](path)


def _tflite(path: Path) -> Interface:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    (signature,) = interpreter.get_signature_list()
    runner = interpreter.get_signature_runner(signature)

    def shapes(details: Mapping[str, Any]) -> Shapes:
        return {name: (np.dtype(one["dtype"]).name, tuple(map(int, one["shape"]))) for name, one in details.items()}

    return Interface(signature, shapes(runner.get_input_details()), shapes(runner.get_output_details()))


def _package(path: Path) -> Interface:
    from coremltools.models.utils import load_spec

    kinds = {65568: "float32", 131104: "int32"}

    def shapes(features: Any) -> Shapes:
        arrays = {feature.name: feature.type.multiArrayType for feature in features}
        return {name: (kinds[array.dataType], tuple(map(int, array.shape))) for name, array in arrays.items()}

    described = load_spec(str(path)).description  # pyright: ignore[reportAttributeAccessIssue]
    return Interface("main", shapes(described.input), shapes(described.output))


def _onnx(path: Path) -> Interface:
    from onnxruntime import InferenceSession

    kinds = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(bool)": "bool"}
    session = InferenceSession(path, providers=["CPUExecutionProvider"])

    def shapes(values: Any) -> Shapes:
        return {one.name: (kinds[one.type], tuple(one.shape)) for one in values}

    return Interface("main", shapes(session.get_inputs()), shapes(session.get_outputs()))


_READ: dict[str, Callable[[Path], Interface]] = {".tflite": _tflite, ".mlpackage": _package, ".onnx": _onnx}
