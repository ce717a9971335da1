"""Code that loads a bundle's files and calls them, with its own names and shapes: Swift, Kotlin, Python.

API: CompiledModel, Environment and TensorBuffer of google-ai-edge/LiteRT (litert/kotlin, v2.2); MLModel of Core ML as
apple/ml-stable-diffusion uses it; onnxruntime.InferenceSession.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdmobile.families.calls import Call, Tensor

_KOTLIN = """\
With the GPU, from LiteRT 2.3.0 on two artifacts. Without the second, `Accelerator.GPU` fails, and with
`Accelerator.CPU` beside it everything runs on the CPU and only the log says so.

```kotlin
dependencies { // of the app's build.gradle.kts; minSdk is 24
    implementation("com.google.ai.edge.litert:litert:2.3.0")
    implementation("com.google.ai.edge.litert:litert-gpu:2.3.0")
}
```

```kotlin
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.Environment
import com.google.ai.edge.litert.TensorBuffer
{import}import java.io.File

val environment = Environment.create() // one for all files: each one made keeps a context of the GPU

/** Compiles a file for the GPU, which takes long: keep the result while it is called, then close it. */
fun load(folder: File, file: String): CompiledModel {
    val options = CompiledModel.Options(Accelerator.GPU)
    // FP32 rounds as the checks of this bundle do; DEFAULT is FP16. Between them lies FP16_WITH_FP32_ACCUM, from
    // LiteRT 2.2 on: `sdmobile validate --precision` says for which of these files it will do, and `sdmobile profile`
    // what each of the three costs, as bounds.
    options.gpuOptions = CompiledModel.GpuOptions(precision = CompiledModel.GpuOptions.Precision.FP32)
    return CompiledModel.create(File(folder, file).path, options, environment)
}

/** Runs a signature: inputs by name to outputs by name. */
fun CompiledModel.call(signature: String, inputs: Map<String, Any>, outputs: List<String>): Map<String, {kind}> {
    val given = inputs.mapValues { (name, values) -> createInputBuffer(name, signature).also { write(it, values) } }
    val made = outputs.associateWith { createOutputBuffer(it, signature) }
    run(given, made, signature)
    val results = made.mapValues { (name, buffer) -> {read} }
    (given.values + made.values).forEach { it.close() }
    return results
}

fun write(buffer: TensorBuffer, values: Any) = when (values) {
{writes}    else -> buffer.writeFloat(values as FloatArray)
}
{sum}
fun picture(folder: File) {
{calls}
}
```"""
_KOTLIN_WRITES = {
    "int32": "    is IntArray -> buffer.writeInt(values)\n",
    "int64": "    is LongArray -> buffer.writeLong(values)\n",
    "bool": "    is BooleanArray -> buffer.writeBoolean(values)\n",
}
_KOTLIN_ARRAYS = {"float32": "FloatArray", "int32": "IntArray", "int64": "LongArray", "bool": "BooleanArray"}
_KOTLIN_SUM = """
/** Adds up what several control networks return under one name. */
fun sum(vararg maps: Any): FloatArray {
    val first = maps[0] as FloatArray
    return FloatArray(first.size) { index -> maps.sumOf { (it as FloatArray)[index].toDouble() }.toFloat() }
}
"""
_KOTLIN_READ = """\
when (getOutputTensorType(name, signature).elementType) {
            TensorType.ElementType.INT -> buffer.readInt()
            TensorType.ElementType.INT64 -> buffer.readLong()
            TensorType.ElementType.BOOLEAN -> buffer.readBoolean()
            else -> buffer.readFloat()
        }"""

_SWIFT = """\
```swift
import CoreML

/// Loads a compiled model, which takes long: keep the result while it is called.
func load(_ folder: URL, _ name: String) throws -> MLModel {
    let configuration = MLModelConfiguration()
    configuration.computeUnits = .cpuAndNeuralEngine
    return try MLModel(contentsOf: folder.appending(path: name), configuration: configuration)
}

extension MLModel {
    /// Inputs by name to outputs by name.
    func call(_ inputs: [String: MLMultiArray]) throws -> [String: MLMultiArray] {
        let outputs = try prediction(from: MLDictionaryFeatureProvider(dictionary: inputs))
        let names = outputs.featureNames
        return Dictionary(uniqueKeysWithValues: names.map { ($0, outputs.featureValue(for: $0)!.multiArrayValue!) })
    }
}

func zeros(_ shape: Int...) -> MLMultiArray {
    MLMultiArray(MLShapedArray<Float32>(repeating: 0, shape: shape))
}
{sum}
/// `folder` is what `compile.sh` makes, `Resources`.
func picture(_ folder: URL) throws {
{calls}
}
```"""

_SWIFT_SUM = """
/// Adds up what several control networks return under one name.
func sum(_ maps: MLMultiArray...) -> MLMultiArray {
    let scalars = maps.map { MLShapedArray<Float32>(converting: $0).scalars }
    let added = scalars[0].indices.map { index in scalars.reduce(0) { $0 + $1[index] } }
    return MLMultiArray(MLShapedArray<Float32>(scalars: added, shape: maps[0].shape.map { $0.intValue }))
}
"""

_PYTHON = """\
```python
import numpy as np
from onnxruntime import InferenceSession

def call(file, **inputs):  # inputs by name to outputs by name
    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    return dict(zip((one.name for one in session.get_outputs()), session.run(None, inputs)))

{calls}
```"""


def kotlin(calls: Sequence[Call]) -> str:
    """Returns Markdown with Kotlin for an Android app: every file by its signature, with arrays of zeros."""
    plain = all(one.dtype == "float32" for call in calls for one in call.outputs)
    kinds = {one.dtype for call in calls for one in call.inputs}
    text = _KOTLIN
    for name, value in {
        "{import}": "" if plain else "import com.google.ai.edge.litert.TensorType\n",
        "{kind}": "FloatArray" if plain else "Any",
        "{read}": "buffer.readFloat()" if plain else _KOTLIN_READ,
        "{sum}": _KOTLIN_SUM if _sums(calls) else "",
        "{writes}": "".join(line for kind, line in _KOTLIN_WRITES.items() if kind in kinds),
        "{calls}": "\n".join(line for call in calls for line in _kotlin_call(call)),
    }.items():
        text = text.replace(name, value)
    return text


def _sums(calls: Sequence[Call]) -> bool:
    return any(len(one.sources) > 1 for call in calls for one in call.inputs)


def _kotlin_call(call: Call) -> list[str]:
    def value(one: Tensor) -> str:
        if one.variable:
            return _camel(one.variable)
        outputs = [f"{_camel(source)}.getValue({_kotlin_text(one.name)})" for source in one.sources]
        found = outputs[0] if len(outputs) == 1 else f"sum({', '.join(outputs)})"
        return found if one.rows == 1 else " + ".join([f"({found} as FloatArray)"] * one.rows)

    def array(one: Tensor) -> str:
        return f"{_KOTLIN_ARRAYS[one.dtype]}({' * '.join(map(str, one.shape)) or 1})"

    return [
        f"    // {call.remark}",
        *(f"    val {_camel(one.variable)} = {array(one)} // {one.remark}" for one in call.given),
        f"    val {_camel(call.variable)} = load(folder, {_kotlin_text(call.file)}).call(",
        f"        {_kotlin_text(call.signature)},",
        *_in_lines("mapOf", [(f"{_kotlin_text(one.name)} to {value(one)}", "") for one in call.inputs]),
        *_in_lines("listOf", [(_kotlin_text(one.name), f" // {one.remark}") for one in call.outputs]),
        "    )",
    ]


def _in_lines(function: str, entries: Sequence[tuple[str, str]]) -> list[str]:
    """Returns a call of a function with its arguments and remarks, on one line where it has one."""
    if len(entries) == 1:
        return [f"        {function}({entries[0][0]}),{entries[0][1]}"]
    return [f"        {function}(", *(f"            {entry},{remark}" for entry, remark in entries), "        ),"]


def swift(calls: Sequence[Call]) -> str:
    """Returns Markdown with Swift for an iPhone's app: every compiled package by Core ML, with arrays of zeros."""
    text = _SWIFT.replace("{sum}", _SWIFT_SUM if _sums(calls) else "")
    return text.replace("{calls}", "\n".join(line for call in calls for line in _swift_call(call)))


def _swift_call(call: Call) -> list[str]:
    def value(one: Tensor) -> str:
        if one.variable:
            return _camel(one.variable)
        outputs = [f"{_camel(source)}[{json.dumps(one.name)}]!" for source in one.sources]
        found = outputs[0] if len(outputs) == 1 else f"sum({', '.join(outputs)})"
        if one.rows == 1:
            return found
        return f"MLMultiArray(concatenating: [{', '.join([found] * one.rows)}], axis: 0, dataType: .float32)"

    compiled = call.file.replace(".mlpackage", ".mlmodelc")
    return [
        f"    // {call.remark}",
        *(
            f"    let {_camel(one.variable)} = zeros({', '.join(map(str, one.shape))})  // {one.remark}"
            for one in call.given
        ),
        f"    let {_camel(call.variable)} = try load(folder, {json.dumps(compiled)}).call([",
        *(f"        {json.dumps(one.name)}: {value(one)}," for one in call.inputs),
        "    ])",
        *(
            f"    let {_camel(one.variable)} = {_camel(call.variable)}[{json.dumps(one.name)}]!  // {one.remark}"
            for one in call.outputs
            if one.variable
        ),
    ]


def python(calls: Sequence[Call]) -> str:
    """Returns Markdown with Python: every file by ONNX Runtime, with arrays of zeros."""
    return _PYTHON.replace("{calls}", "\n".join(_python_call(call) for call in calls))


def _python_call(call: Call) -> str:
    def value(one: Tensor) -> str:
        if one.variable:
            return f"np.zeros({one.shape}, np.{one.dtype})"
        found = " + ".join(f"{source}[{json.dumps(one.name)}]" for source in one.sources)
        return found if one.rows == 1 else f"np.repeat({found}, {one.rows}, 0)"

    arguments = [json.dumps(call.file), *(f"{one.name}={value(one)}" for one in call.inputs)]
    line = f"{call.variable} = call({', '.join(arguments)})"
    if len(line) > 100:
        line = f"{call.variable} = call(\n" + "".join(f"    {each},\n" for each in arguments) + ")"
    return f"# {call.remark}\n{line}"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def _kotlin_text(text: str) -> str:
    return json.dumps(text).replace("$", "\\$")
