"""Damages values in the files of a bundle, found by the parameter of the checkpoint that they hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sdmobile.checkpoints import Checkpoint
from sdmobile.formats.bundle.reading import Bundle, open_bundle
from sdmobile.formats.mlprogram.blob import BLOB_TYPES
from sdmobile.formats.tflite.reader import read_model
from sdmobile.validate.checks import ExtraCheck
from sdmobile.validate.weights import check_weights
from tests.validate.breakage import BLOB, Package, seal

Change = Callable[[np.ndarray], np.ndarray]
_TYPES = {"FLOAT16": np.float16, "FLOAT32": np.float32, "INT8": np.int8}


class Anatomy:
    """Where a good bundle keeps the parameters of its checkpoint."""

    def __init__(self, folder: Path, checkpoint: Checkpoint) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self.bundle: Bundle = open_bundle(folder)
        self._tensors: dict[str, dict[str, Mapping[str, Any]]] = {}

    def stored(self, component: str, parameter: str) -> str:
        """Returns the name of the array that holds a parameter, of its first piece if there are several."""
        if component not in self._tensors:
            (check,) = check_weights(self.bundle, self.checkpoint, [component])
            assert check.status == "passed", check.failure
            self._tensors[component] = {tensor["parameter"]: tensor for tensor in check.tensors}
        return self._tensors[component][parameter]["stored"][0]

    def patient(self, folder: Path) -> Patient:
        """Returns a copy of the bundle that can be damaged."""
        shutil.copytree(self.folder, folder)
        return Patient(folder, self)


class Patient:
    """A copy of a bundle that is being damaged.

    Args:
        folder: of the copy.
        anatomy: of the whole one.
    """

    def __init__(self, folder: Path, anatomy: Anatomy) -> None:
        self.folder, self.anatomy, self.target = folder, anatomy, anatomy.bundle.target

    def change(self, component: str, parameter: str, change: Change) -> None:
        """Rewrites the array that holds a parameter, in the type and shape that it has there."""
        self.change_stored(component, self.anatomy.stored(component, parameter), change)

    def exchange(self, component: str, first: str, second: str) -> None:
        """Exchanges the arrays of two parameters."""
        kept: list[np.ndarray] = []
        self.change(component, first, lambda array: kept.append(array.copy()) or array)
        self.change(component, second, lambda array: kept.append(array.copy()) or kept[0].reshape(array.shape))
        self.change(component, first, lambda array: kept[1].reshape(array.shape))

    def change_stored(self, component: str, name: str, change: Change) -> None:
        """Rewrites a stored array by its name in the file."""
        for file in self.files(component):
            if _CHANGES[self.target](file, name, change):
                return
        raise AssertionError(f"no array {name}")

    def change_table(self, component: str, parameter: str, change: Change) -> None:
        """Rewrites the palette or the scales of a compressed weight."""
        name = self.anatomy.stored(component, parameter)
        if self.target == "ios":
            (file,) = self.files(component)
            assert _change_argument(Package(file), name, ("lut", "scale"), change)
        else:
            (file,) = self.files(component)
            _change_scales(file, name, change)

    def files(self, component: str) -> list[Path]:
        """Returns the files of a component."""
        record = self.anatomy.bundle.components[component]
        return [self.folder / part.path.name for part in record.chain or (record,)]

    def change_json(self, name: str, change: Callable[[Any], object]) -> None:
        """Changes a JSON file in place, or replaces it by what `change` returns."""
        file = self.folder / name
        document = json.loads(file.read_text("utf-8"))
        replaced = change(document)
        file.write_text(json.dumps(document if replaced is None else replaced), "utf-8")

    @cached_property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer's files."""
        return self.folder if self.target == "ios" else self.folder / "tokenizer"

    def sealed(self) -> Bundle:
        """Writes hashes that fit the damage, and opens the bundle."""
        return open_bundle(seal(self.folder))

    def check(self, component: str) -> ExtraCheck:
        """Returns what comparing the weights of a component says."""
        (check,) = check_weights(self.sealed(), self.anatomy.checkpoint, [component])
        return check


def _change_package(path: Path, name: str, change: Change) -> bool:
    package = Package(path)
    operation = package.by_output.get(name)
    if operation is None:
        return False
    if operation.type == "const":
        _rewrite(package, operation.attributes["val"], change)
        return True
    return _change_argument(package, name, ("data", "quantized_data", "indices"), change)


def _change_argument(package: Package, name: str, parameters: tuple[str, ...], change: Change) -> bool:
    """Rewrites one of the arrays that a compressed weight is decoded from."""
    operation = package.by_output[name]
    for parameter in parameters:
        if parameter in operation.attributes:
            _rewrite(package, operation.attributes[parameter], change)
            return True
        if parameter in operation.inputs:
            binding = operation.inputs[parameter].arguments[0]
            held = binding.value if binding.WhichOneof("binding") == "value" else None
            _rewrite(package, held or package.by_output[binding.name].attributes["val"], change)
            return True
    return False


def _rewrite(package: Package, value: Any, change: Change) -> None:
    """Rewrites the array of a Value message, in the weight file or in the program."""
    shape = [item.constant.size for item in value.type.tensorType.dimensions]
    if value.HasField("blobFileValue"):
        raw = bytearray(package.weights.read_bytes())
        _, number, size, start, _ = BLOB.unpack_from(raw, value.blobFileValue.offset)
        dtype = np.dtype(BLOB_TYPES[number] if BLOB_TYPES[number] in ("float16", "float32", "int8") else np.uint8)
        array = np.frombuffer(bytes(raw[start : start + size]), dtype)
        array = array.reshape(shape) if array.size == int(np.prod(shape)) else array
        raw[start : start + size] = np.ascontiguousarray(change(array)).astype(dtype).tobytes()
        package.weights.write_bytes(raw)
        return
    tensor = value.immediateValue.tensor
    if tensor.WhichOneof("value") == "bytes":
        array = np.frombuffer(tensor.bytes.values, np.float16).reshape(shape)
        tensor.bytes.values = np.ascontiguousarray(change(array)).astype(np.float16).tobytes()
    else:
        array = np.array(tensor.floats.values, np.float32).reshape(shape)
        tensor.floats.values[:] = np.asarray(change(array), np.float32).reshape(-1).tolist()
    package.save()


def _change_tflite(path: Path, name: str, change: Change) -> bool:
    """Rewrites the bytes of a constant where they lie; the file keeps its size."""
    for graph in read_model(path).graphs:
        for tensor in graph.tensors:
            if tensor.name != name or tensor.data is None or tensor.dtype not in _TYPES:
                continue
            values = np.frombuffer(tensor.data, _TYPES[tensor.dtype]).reshape(tensor.shape)
            whole: Any = tensor.data.obj
            start = values.ctypes.data - np.frombuffer(whole, np.uint8).ctypes.data
            changed = np.ascontiguousarray(change(values.copy())).astype(values.dtype).tobytes()
            raw = bytearray(path.read_bytes())
            raw[start : start + len(changed)] = changed
            path.write_bytes(raw)
            return True
    return False


def _change_scales(path: Path, name: str, change: Change) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    model: Any = flatbuffer_utils.read_model(str(path))
    (tensor,) = [t for graph in model.subgraphs for t in graph.tensors if t.name.decode() == name]
    tensor.quantization.scale = np.asarray(change(np.asarray(tensor.quantization.scale, np.float32)), np.float32)
    flatbuffer_utils.write_model(model, str(path))


def _change_onnx(path: Path, name: str, change: Change) -> bool:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor)
            changed = np.ascontiguousarray(change(values.copy())).astype(values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(changed, name))
            onnx.save(model, str(path))
            return True
    return False


_CHANGES: dict[str, Callable[[Path, str, Change], bool]] = {
    "ios": _change_package,
    "android": _change_tflite,
    "onnx": _change_onnx,
}
