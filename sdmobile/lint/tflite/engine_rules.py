"""What holds for some builds of LiteRT, or on some makers' GPUs, only.

Nearly all of it comes from others' phones (google-ai-edge's issues and samples), and the build that is at hand here, of
LiteRT 2.3.0 on a software GPU, neither shows nor refutes it. So it objects where the engine is said to be such a one,
and warns elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sdmobile.formats.tflite.gpu_bytes import gpu_bytes
from sdmobile.formats.tflite.model import Graph, Node
from sdmobile.lint.engine import Engine, Where
from sdmobile.lint.report import Finding, Severity

_LARGE_MAP = 65_536
_METAL_BUFFER = 0x7000000
_LARGE_GRAPH = 1_000_000_000
_VERBS: dict[Severity, str] = {
    "refused": "refused by",
    "miscomputed": "computed wrongly by",
    "warning": "takes minutes to compile on",
}
Found = Iterator[tuple[Node | None, str]]


@dataclass(frozen=True)
class EngineRule:
    """A rule with its reach.

    Args:
        name: of the rule.
        where: it holds.
        severity: there.
        find: yields each node that breaks it, None for the whole file, with the value that does.
        fix: what to do.
        source: how it is known.
    """

    name: str
    where: Where
    severity: Severity
    find: Callable[[Graph], Found]
    fix: str
    source: str


def engine_problems(graph: Graph, engine: Engine) -> Iterator[tuple[Node | None, Finding]]:
    """Yields what an engine is known for, and as a warning what another might be; the node and the finding.

    Args:
        graph: of the file.
        engine: that runs it.
    """
    for rule in RULES:
        holds = rule.where.holds(engine)
        if holds is False:
            continue
        severity: Severity = rule.severity if holds else "warning"
        verb = _VERBS[rule.severity]
        for node, detail in rule.find(graph):
            yield node, Finding(severity, rule.name, f"{detail}: {verb} {rule.where}", rule.fix, rule.source)


def _named(*names: str) -> Callable[[Graph], Found]:
    def find(graph: Graph) -> Found:
        yield from ((node, node.op) for node in graph.nodes if node.op in names)

    return find


def _masked_scores(graph: Graph) -> Found:
    """ADD of a batched product and a mask that is the same for all heads."""
    products = {tensor.index for node in graph.nodes if node.op == "BATCH_MATMUL" for tensor in node.outputs}
    for node in graph.nodes:
        scores = next((t for t in node.inputs if t is not None and t.index in products), None)
        if node.op != "ADD" or scores is None or scores.rank != 4 or scores.shape[1] == 1:
            continue
        for mask in node.inputs:
            if mask is not None and mask is not scores and mask.bhwc[1] == 1 and mask.elements > 1:
                yield node, f"{scores} plus a mask {mask} that is shared by its heads"


def _large_reductions(graph: Graph) -> Found:
    for node in graph.nodes:
        data, axes = node.input(0), node.input(1)
        if node.op not in ("MEAN", "SUM") or data is None or axes is None or (values := axes.values()) is None:
            continue
        reduced = math.prod(data.shape[int(axis)] for axis in values.reshape(-1) if abs(int(axis)) <= data.rank - 1)
        if values.size > 1 and reduced > _LARGE_MAP:
            yield node, f"{node.op} of {data} over {values.size} axes, {reduced} elements"


def _rank_3_products(graph: Graph) -> Found:
    for node in graph.nodes:
        if node.op == "BATCH_MATMUL" and len(node.runtime) == 2 and node.outputs[0].rank == 3:
            yield node, f"a product {node.outputs[0]} with heads on the batch axis"


def _rank_3_outputs(graph: Graph) -> Found:
    read = {tensor.index for node in graph.nodes for tensor in node.inputs if tensor is not None}
    for node in graph.nodes:
        for made in node.outputs:
            if made.index in graph.outputs and made.index in read and made.rank == 3:
                yield node, f"the output {made} is read inside as well"


def _uneven_upsampling(graph: Graph) -> Found:
    for node in graph.nodes:
        data = node.input(0)
        if node.op != "RESIZE_NEAREST_NEIGHBOR" or data is None or data.rank != 4:
            continue
        made = node.outputs[0]
        if any(large % small for large, small in zip(made.shape[1:3], data.shape[1:3], strict=True)):
            yield node, f"{data} to {made}, no whole factor"


def _infinite_padding(graph: Graph) -> Found:
    for node in graph.nodes:
        value = node.input(2) if node.op == "PADV2" else None
        stored = None if value is None else value.values()
        if stored is not None and stored.size == 1 and math.isinf(float(stored.reshape(-1)[0])):
            yield node, f"padding with {float(stored.reshape(-1)[0])}"


def _computed_powers(graph: Graph) -> Found:
    yield from ((node, "POW of computed values") for node in graph.nodes if node.op == "POW" and node.runtime)


def _rope(graph: Graph) -> Found:
    for node in graph.nodes:
        if node.composite is not None and node.composite.name == "odml.rope":
            yield node, "the composite odml.rope"


def _large_graph(graph: Graph) -> Found:
    if graph.file_bytes > _LARGE_GRAPH:
        yield None, f"{graph.file_bytes / 1e9:.2f} GB in one file"


def _metal_buffers(graph: Graph) -> Found:
    for node in graph.nodes:
        for made in node.outputs:
            if made.rank <= 4 and (size := gpu_bytes(made.shape, made.dtype, 2)) > _METAL_BUFFER:
                yield node, f"{made} takes {size} bytes; {_METAL_BUFFER} at most"


_21X = Where(before=(2, 2))
_MALI_21X = Where(before=(2, 2), makers=("arm",))
_MALI = Where(makers=("arm",))
_SAMPLES = "google-ai-edge/litert-samples, skills (gpu-clean-conversion, architecture-walls.md)"
RULES: tuple[EngineRule, ...] = (
    EngineRule(
        "shared-mask",
        Where(before=(2, 1, 6)),
        "miscomputed",
        _masked_scores,
        "Store the mask once per head, [1, H, S, S], or use the composite of attention",
        "google-ai-edge/LiteRT#8593; right on the accelerator of 2.3.0",
    ),
    EngineRule(
        "older-runtime",
        _21X,
        "refused",
        _named("SELECT", "SELECT_V2", "PRELU", "ELU"),
        "Write it as arithmetic, or ship a runtime of 2.2 or newer with the app",
        _SAMPLES,
    ),
    EngineRule(
        "transpose-conv-2.1",
        _MALI_21X,
        "refused",
        _named("TRANSPOSE_CONV"),
        "Put zeros between the pixels and use CONV_2D",
        _SAMPLES,
    ),
    EngineRule(
        "pow-2.1", _MALI_21X, "refused", _computed_powers, "Write it as EXP of the exponent times LOG", _SAMPLES
    ),
    EngineRule(
        "infinite-padding", _MALI_21X, "refused", _infinite_padding, "Pad with a finite number of that sign", _SAMPLES
    ),
    EngineRule(
        "large-reduction",
        _MALI,
        "miscomputed",
        _large_reductions,
        "Reduce one axis after the other, or divide by the largest value first",
        f"{_SAMPLES}: NaN or wrong, even in float32 graphs",
    ),
    EngineRule(
        "rank-3-attention",
        _MALI,
        "miscomputed",
        _rank_3_products,
        "Keep heads on an axis of their own: [1, H, N, D]",
        "google-ai-edge/LiteRT#8619",
    ),
    EngineRule(
        "rank-3-output",
        _MALI,
        "miscomputed",
        _rank_3_outputs,
        "Make a copy of rank 4 the output",
        _SAMPLES,
    ),
    EngineRule(
        "uneven-upsampling",
        _MALI,
        "miscomputed",
        _uneven_upsampling,
        "Choose sizes that are whole multiples",
        f"{_SAMPLES}: shifted by one pixel",
    ),
    EngineRule(
        "rope-composite",
        Where(before=(2, 2)),
        "refused",
        _rope,
        "Export with plain operators (--plain-ops), or ship 2.2 or newer",
        "LiteRT's release notes: odml.rope on the GPU since 2.2.0",
    ),
    EngineRule(
        "metal-buffer",
        Where(makers=("apple",)),
        "refused",
        _metal_buffers,
        "Export in more --chunks, or compute in blocks",
        "john-rocky/LiteRT-Models, klein-sample: loading fails above 0x7000000 bytes on iPhones",
    ),
    EngineRule(
        "large-graph",
        Where(),
        "warning",
        _large_graph,
        "Export in parts of 0.4 to 1 GB: --chunks",
        "john-rocky/LiteRT-Models: 16 s to compile 866 MB on a Pixel 8a, over ten minutes for 1.8 GB",
    ),
)
