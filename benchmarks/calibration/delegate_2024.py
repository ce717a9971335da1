"""What the classic TFLite GPU delegate of early 2024 leaves to the CPU, which is why FastViT is slow on a fast GPU.

The delegate refused GELU: "GELU: Operation is not supported. 16 operations will run on the GPU, and the remaining 166
operations will run on the CPU" (leondgarse/keras_cv_attention_models issue 137, September 2023). It takes one partition
of a graph only (`max_delegated_partitions` = 1: google-ai-edge/LiteRT@f674577 `tflite/delegates/gpu/delegate.cc`). A
model with GELUs throughout therefore runs on the CPU but for the longest stretch between two of them. This is inferred,
not published, for FastViT in the MobileNetV4 paper's table; what speaks for it: its 28-36 GMAC/s "on the GPU" are what
the same phone's CPU reaches with float32 there (EfficientViT-B1 and -B3: 28.7 and 31.4 GMAC/s).
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.calibration.macs import graph_macs
from sdmobile.formats.graph import FileGraph, Operation

REFUSED = frozenset({"gelu"})


def on_gpu(graph: FileGraph) -> FileGraph:
    """Returns the one stretch of operations that the delegate takes: the whole graph if it refuses nothing."""
    stretches: list[list[Operation]] = [[]]
    for operation in graph.operations:
        if operation.kind in REFUSED:
            stretches.append([])
        else:
            stretches[-1].append(operation)
    if len(stretches) == 1:
        return graph
    taken = max(stretches, key=len)
    written = {name for operation in taken for name in operation.outputs}
    read = {name for operation in taken for name in operation.inputs}
    inputs = tuple(sorted(name for name in read - written if not graph.tensors[name].constant))
    outside = {n for operation in graph.operations if operation not in taken for n in operation.inputs}
    outputs = tuple(sorted(written & (outside | set(graph.outputs))))
    return replace(graph, operations=tuple(taken), inputs=inputs, outputs=outputs)


def cpu_macs(graph: FileGraph) -> int:
    """Returns the multiply-accumulates that stay on the CPU."""
    return graph_macs(graph) - graph_macs(on_gpu(graph))
