"""Composites in a real `.tflite`: names and attributes as the GPU engine reads them, numbers from the decomposition."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdmobile.basics.metrics import psnr
from sdmobile.formats.tflite.graph import read_facts
from sdmobile.lint import lint_file
from sdmobile.quantize.tflite_float16 import cast_weights
from sdmobile.rewrites import engine
from sdmobile.rewrites.composites.attention import AttentionComposite
from sdmobile.rewrites.composites.group_norm import GroupNormComposite
from sdmobile.rewrites.composites.layer_norm import LayerNormComposite
from sdmobile.rewrites.engine import rewrite
from tests.rewrites.litert_files import LitertFile, litert_file

RULES = (GroupNormComposite(), LayerNormComposite(), AttentionComposite())
WIDTH, HEADS, SIDE = 64, 2, 8


def test_equal_places_are_traced_once_and_are_composites_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[str] = []
    trace = engine._trace
    monkeypatch.setattr(engine, "_trace", lambda rule, match: traced.append(rule.name) or trace(rule, match))
    network = nn.Sequential(*(nn.LayerNorm(4) for _ in range(3)), nn.Linear(4, 6), nn.LayerNorm(6))
    program = torch.export.export(network, (torch.zeros(1, 2, 4),))
    rewritten = rewrite(program, [LayerNormComposite()]).program
    assert traced == ["layer_norm_composite"] * 2
    marks = [node for node in rewritten.graph.nodes if "mark_tensor" in str(node.target)]
    assert len({node.args[3] for node in marks}) == 4
    assert len(marks) == 4 * 4


class Attention(nn.Module):
    """Projections, attention, projection."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_k = nn.Linear(context, WIDTH, bias=False)
        self.to_v = nn.Linear(context, WIDTH, bias=False)
        self.to_out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, context: Tensor, causal: bool = False) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.view(y.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)

        q, k, v = heads(self.to_q(x)), heads(self.to_k(context)), heads(self.to_v(context))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.to_out(out.transpose(1, 2).reshape(x.shape))


class Transformer(nn.Module):
    """What a transformer block of a UNet does: GroupNorm on an image, two LayerNorms, self- and cross-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, WIDTH, 3, padding=1)
        self.norm = nn.GroupNorm(8, WIDTH)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, elementwise_affine=False)])
        self.attn = nn.ModuleList([Attention(WIDTH), Attention(24)])
        self.plain = nn.GroupNorm(4, WIDTH, affine=False)
        for p in [*self.norm.parameters(), *self.norms.parameters()]:
            nn.init.normal_(p, 0.5)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm(self.conv(x.permute(0, 3, 1, 2)))
        h = h.permute(0, 2, 3, 1).reshape(x.shape[0], -1, WIDTH)
        y = self.norms[0](h)
        h = h + self.attn[0](y, y, causal=True)
        h = h + self.attn[1](self.norms[1](h), context)
        return self.plain(h.transpose(1, 2)).transpose(1, 2)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> LitertFile:
    torch.manual_seed(0)
    inputs = (torch.randn(2, SIDE, SIDE, 4), torch.randn(2, 5, 24))
    return litert_file(Transformer(), inputs, RULES, tmp_path_factory.mktemp("composites"))


@dataclass(frozen=True)
class Node:
    """A composite as it is in the file."""

    name: str
    attributes: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]


def composites(path: Path) -> list[Node]:
    """Returns the composites of the main graph, in order."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import flexbuffers

    model: Any = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph, found = model.Subgraphs(0), []
    for op in (graph.Operators(i) for i in range(graph.OperatorsLength())):
        if op.BuiltinOptions2Type() != schema.BuiltinOptions2.StableHLOCompositeOptions:
            continue
        options: Any = schema.StableHLOCompositeOptions()
        options.Init(op.BuiltinOptions2().Bytes, op.BuiltinOptions2().Pos)
        tensors = [graph.Tensors(op.Inputs(i)) for i in range(op.InputsLength())]
        shapes = tuple(tuple(t.Shape(i) for i in range(t.ShapeLength())) for t in tensors)
        attributes: Any = flexbuffers.Loads(bytes(options.CompositeAttributesAsNumpy()))
        found.append(Node(options.Name().decode(), attributes, shapes))
    return found


def test_the_decomposition_computes_the_function(case: LitertFile) -> None:
    assert psnr(case.expected, case.run()) > 110


def test_every_operation_is_one_node_of_the_main_graph(case: LitertFile) -> None:
    assert {record.outcome for record in case.records} == {"applied"}
    facts = case.facts
    assert facts.operators["odml.group_norm"] == 4
    assert facts.operators["odml.scaled_dot_product_attention"] == 2
    assert not {"BATCH_MATMUL", "SOFTMAX", "MEAN", "TRANSPOSE", "RSQRT"} & set(facts.operators)
    assert facts.decomposed > 40
    assert lint_file(case.path).accepted


def test_group_norm_is_told_from_layer_norm_by_its_axes(case: LitertFile) -> None:
    norms = [node for node in composites(case.path) if node.name == "odml.group_norm"]
    of_image, first, second, of_sequence = norms
    for node, groups, shape in ((of_image, 8, (2, SIDE, SIDE, WIDTH)), (of_sequence, 4, (2, 1, SIDE * SIDE, WIDTH))):
        assert node.attributes["num_groups"] == groups
        assert node.attributes["epsilon"] == pytest.approx(1e-5)
        assert node.attributes["channel_axis"] == 3
        assert "_TENSOR_V1_reduction_axes" in node.attributes
        assert node.shapes == (shape, (WIDTH,), (WIDTH,))
    for node in (first, second):
        assert node.shapes == ((2, SIDE * SIDE, WIDTH), (WIDTH,), (WIDTH,))
        assert node.attributes["channel_axis"] == 2
        assert not [name for name in node.attributes if "axes" in name or name == "sub_type"]


def test_attention_takes_heads_behind_positions_and_its_scale(case: LitertFile) -> None:
    own, cross = (node for node in composites(case.path) if node.name == "odml.scaled_dot_product_attention")
    width = WIDTH // HEADS
    n = SIDE * SIDE
    assert own.shapes == (*[(2, n, HEADS, width)] * 3, (1, 1, n, n))
    assert cross.shapes == ((2, n, HEADS, width), *[(2, 5, HEADS, width)] * 2)
    for node in (own, cross):
        assert node.attributes["scale"] == pytest.approx(width**-0.5)


def test_float16_weights_keep_the_composites(case: LitertFile, tmp_path: Path) -> None:
    half = tmp_path / "half.tflite"
    cast_weights(case.path, half)
    facts = read_facts(half)
    names = ("odml.group_norm", "odml.scaled_dot_product_attention")
    assert {name: facts.operators[name] for name in names} == {name: case.facts.operators[name] for name in names}
    assert psnr(case.expected, case.run(half)) > 55


class OneHead(nn.Module):
    """Masked attention of one head over another number of keys."""

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        mask = torch.linspace(-3.0, 3.0, k.shape[1]).expand(1, 1, q.shape[1], -1)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], k[:, None], mask)[:, 0]


def test_one_head_of_several_pictures_is_right_with_and_without_the_cpu_delegate(tmp_path: Path) -> None:
    """XNNPACK takes one head of keys for one that all queries share, and loses the batch: 11 dB, or no result."""
    torch.manual_seed(0)
    inputs = (torch.randn(2, 8, 16), torch.randn(2, 5, 16))
    file = litert_file(OneHead(), inputs, [AttentionComposite()], tmp_path)
    assert [node.shapes[:2] for node in composites(file.path)] == [((1, 8, 2, 16), (1, 5, 2, 16))]
    for delegate in (True, False):
        assert psnr(file.expected, file.run(delegate=delegate)) > 110


class Norms(nn.Module):
    """Two equal norms: the second must not become the first's composite."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(2, 4), nn.GroupNorm(2, 4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[1](self.norms[0](x))


def test_every_composite_has_an_identity_of_its_own() -> None:
    program = torch.export.export(Norms(), (torch.randn(1, 4, 3, 3),))
    graph = rewrite(program, [GroupNormComposite()]).program.graph
    marks = [node for node in graph.nodes if "mark_tensor" in str(node.target)]
    # Three operands and a result each.
    assert len(marks) == 8
    assert len({node.args[3] for node in marks}) == 2


class Uneven(nn.Module):
    """Attention whose value is wider than its key, and one of rank 3."""

    def forward(self, q: Tensor, v: Tensor) -> Tensor:
        wide = F.scaled_dot_product_attention(q, q, v)
        return wide.sum() + F.scaled_dot_product_attention(q[0], q[0], q[0]).sum()


def test_what_the_kernel_cannot_take_is_refused_with_the_value() -> None:
    program = torch.export.export(Uneven(), (torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 16)))
    reasons = [record.reason or "" for record in rewrite(program, [AttentionComposite()]).records]
    assert "(1, 2, 4, 16) differ" in reasons[0]
    assert "rank 3" in reasons[1]


def test_the_first_composite_of_a_process_brings_nothing_of_its_library_into_the_graph() -> None:
    """litert_torch draws random tensors when it is imported; inside tracing they would become nodes."""
    code = """
import torch
from sdmobile.rewrites.composites.layer_norm import LayerNormComposite
from sdmobile.rewrites.engine import rewrite
import sys
assert "litert_torch" not in sys.modules
program = torch.export.export(torch.nn.LayerNorm(8), (torch.zeros(2, 8),))
print(sorted({str(n.target) for n in rewrite(program, [LayerNormComposite()]).program.graph.nodes}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mark_tensor" in done.stdout
    assert "rand" not in done.stdout
