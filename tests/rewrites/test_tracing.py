"""What comes in the place of several modules keeps the names of those whose weights it takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdmobile.rewrites.attention.split_einsum import AttentionSplitEinsum
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.naming import name_by_module
from sdmobile.rewrites.rule import source_module


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(12, 12, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(12, 12)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(1, -1, 3, 4).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, -1, 12))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1 = Attention()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn1(x)


def test_each_kernel_is_named_after_its_projection() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 5, 12)
    program = name_by_module(rewrite(torch.export.export(Block(), (x,)), [AttentionSplitEinsum()]).program)
    specs = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    nodes = {node.name: node for node in program.graph.nodes if node.op == "call_function"}
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        convolution = nodes[f"attn1_{name.replace('.', '_')}_conv2d"]
        kernel = convolution.args[1]
        assert isinstance(kernel, torch.fx.Node)
        assert source_module(kernel) == source_module(convolution) == f"attn1.{name}"
        assert [specs[source.name] for source in kernel.all_input_nodes] == [f"attn1.{name}.weight"]
    # The converter folds the scale into the query's kernel and gives that the name of the product.
    assert nodes["attn1_to_q_mul"].args[0] is nodes["attn1_to_q_conv2d"]
    assert {source_module(node) for name, node in nodes.items() if "einsum" in name} == {"attn1.to_out.0"}
    assert torch.allclose(program.module()(x), Block.forward(_same(program), x), atol=1e-5)


def _same(program: torch.export.ExportedProgram) -> Block:
    block = Block()
    block.load_state_dict(program.state_dict)
    return block
