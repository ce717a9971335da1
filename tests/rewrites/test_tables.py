"""Tables that depend on no input become constants; what depends on an input or on a parameter does not."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel

from sdmobile.rewrites.engine import agreement
from sdmobile.rewrites.folding import fill
from sdmobile.rewrites.program import run
from sdmobile.rewrites.tables import fold_tables
from sdmobile.rewrites.tidy import tidy

aten = torch.ops.aten


def captured(module: nn.Module, *inputs: Tensor) -> ExportedProgram:
    with torch.no_grad():
        return tidy(torch.export.export(module.eval(), inputs, strict=False))[0]


class T5(nn.Module):
    """A text encoder whose attention adds a bias by buckets of distances."""

    def __init__(self) -> None:
        super().__init__()
        config = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0)
        self.component = T5EncoderModel(config)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.component(input_ids=ids, attention_mask=mask).last_hidden_state


def test_buckets_of_t5_are_one_constant_and_its_bias_still_is_a_weight() -> None:
    torch.manual_seed(0)
    inputs = (torch.randint(0, 50, (1, 40)), torch.zeros(1, 1, 1, 40))
    before = captured(T5(), *inputs)
    after, count = fold_tables(before)
    assert count == 1
    assert [tuple(table.shape) for table in after.constants.values() if isinstance(table, Tensor)] == [(40, 40)]
    assert not after.graph.find_nodes(op="call_function", target=aten.log.default)
    assert not after.graph.find_nodes(op="call_function", target=aten.add_.Tensor)
    assert len(after.graph.find_nodes(op="call_function", target=aten.embedding.default)) == 2
    assert agreement(run(before, inputs), run(after, inputs)) == math.inf


def test_graphs_without_such_tables_are_the_same_program() -> None:
    """The causal mask and the positions of CLIP depend on no input either."""
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    program = captured(CLIPTextModel(config), torch.randint(0, 50, (1, 77)))
    assert fold_tables(program) == (program, 0)


class Waves(nn.Module):
    """A parameter's wave is learned; a buffer's is a table; an input's is computed."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.learned = nn.Parameter(torch.randn(4))
        self.register_buffer("frequencies", torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        own = torch.outer(torch.arange(3.0), self.frequencies.double()).cos().float()
        return x * own[None] + (x * self.frequencies).cos() + self.learned.sin()


def test_parameters_and_inputs_stay() -> None:
    x = (torch.randn(2, 3, 4),)
    before = captured(Waves(), *x)
    after, count = fold_tables(before)
    assert count == 1
    waves = [n.target for n in after.graph.nodes if n.target in (aten.cos.default, aten.sin.default)]
    assert waves == [aten.cos.default, aten.sin.default]
    assert agreement(run(before, x), run(after, x)) == math.inf


def test_a_table_of_a_buffer_that_is_yet_to_come_is_computed_when_it_comes() -> None:
    real = Waves()
    x = (torch.randn(2, 3, 4),)
    expected = real(*x)
    with FakeTensorMode(allow_non_fake_inputs=True):
        hollow = Waves()
    after, count = fold_tables(captured(hollow, *x))
    assert count == 1
    filled = fill(after, lambda names: ((name, real.state_dict()[name]) for name in names))
    torch.testing.assert_close(run(filled, x)[0], expected)
