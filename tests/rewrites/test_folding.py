"""A graph that is rewritten without its weights becomes, when they come, what it is with them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.nn import functional as F

from sdmobile.checkpoints import Checkpoint
from sdmobile.device_profiles import load_profile
from sdmobile.families.contracts import contract_for
from sdmobile.reference.capture import capture
from sdmobile.reference.geometry import geometry_for
from sdmobile.reference.subject import hollow_component, wrapped_component
from sdmobile.rewrites.embedding_columns import EmbeddingColumns
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.folding import Read, absent, fill
from sdmobile.rewrites.geglu import GegluSplit
from sdmobile.rewrites.options import RewriteOptions
from sdmobile.rewrites.program import run
from sdmobile.rewrites.registry import rules_for
from sdmobile.rewrites.rule import Rule


class Gate(nn.Module):
    """A GEGLU and a table, with a buffer that no checkpoint holds."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table, self.projection = nn.Embedding(8, 16), nn.Linear(16, 12)
        self.register_buffer("shift", torch.linspace(-1, 1, 6), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        value, gate = self.projection(self.table(ids)).chunk(2, -1)
        return value * F.gelu(gate) + self.shift


class TwiceFolded(EmbeddingColumns):
    """Cuts tables into smaller pieces than the rule before it did."""

    name = "twice_folded"


RULES = (GegluSplit(), EmbeddingColumns(budget_bytes=8 * 8 * 4), TwiceFolded(budget_bytes=8 * 4 * 4))


def gate() -> Gate:
    torch.manual_seed(0)
    return Gate().eval().requires_grad_(False)


def hollow() -> Gate:
    module = gate()
    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes = {name: torch.empty(one.shape) for name, one in module.state_dict().items()}
    module.load_state_dict(fakes, assign=True)
    return module.requires_grad_(False)


def rewritten(module: nn.Module, rules: tuple[Rule, ...] = RULES) -> ExportedProgram:
    return rewrite(torch.export.export(module, (torch.arange(8)[None],), strict=False), rules).program


def tensors(program: ExportedProgram) -> dict[str, Any]:
    return {**program.state_dict, **program.constants}


def reading(weights: dict[str, Tensor], asked: list[str] | None = None) -> Read:
    def read(names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        (asked if asked is not None else []).extend(names)
        yield from ((name, tensor) for name, tensor in weights.items() if name in names)

    return read


def assert_equal(found: ExportedProgram, expected: ExportedProgram) -> None:
    # Composites have an identity that is drawn.
    assert re.sub(r"\b[0-9a-f]{32}\b", "", str(found.graph)) == re.sub(r"\b[0-9a-f]{32}\b", "", str(expected.graph))
    ours, theirs = tensors(found), tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
        assert isinstance(tensor, nn.Parameter) == isinstance(theirs[name], nn.Parameter)


def test_constants_of_weights_and_of_constants_are_computed_when_the_weights_come() -> None:
    expected, empty = rewritten(gate()), rewritten(hollow())
    assert len([name for name in absent(empty) if name.startswith("twice_folded")]) == 4
    assert not any(name.endswith("shift") for name in absent(empty))  # what no file holds is there from the start
    asked: list[str] = []
    found = fill(empty, reading(gate().state_dict(), asked))
    assert sorted(asked) == ["projection.bias", "projection.weight", "table.weight"]
    assert absent(found) == frozenset()
    assert_equal(found, expected)
    ids = torch.arange(8)[None]
    assert torch.equal(run(found, (ids,))[0], run(expected, (ids,))[0])
    assert absent(empty) != frozenset()  # it can be filled again


def test_a_weight_that_does_not_come_is_named() -> None:
    weights = {name: one for name, one in gate().state_dict().items() if name != "projection.weight"}
    with pytest.raises(RuntimeError, match=r"projection_weight.* is no weight of the checkpoint"):
        fill(rewritten(hollow()), reading(weights))


@pytest.mark.parametrize(
    ("device", "component"),
    [("galaxy-s23-ultra", "unet"), ("android-cpu", "unet"), ("iphone-15-pro", "text_encoder")],
)
def test_whatever_the_rules_do_a_filled_component_is_that_of_the_loaded_one(
    checkpoint: Checkpoint, device: str, component: str
) -> None:
    profile = load_profile(device)
    contract = contract_for(checkpoint.family, profile.target, component, geometry_for(checkpoint, None))
    rules = rules_for(profile, RewriteOptions())
    module, names = hollow_component(checkpoint, profile.target, component)
    loaded = wrapped_component(checkpoint, profile.target, component)
    weights = loaded.state_dict()
    assert names.keys() == dict(loaded.named_parameters()).keys()
    empty = rewrite(capture(module, contract)[0], rules)
    expected = rewrite(capture(loaded, contract)[0], rules)
    assert [r.to_json() for r in empty.records] == [r.to_json() for r in expected.records]
    assert_equal(fill(empty.program, reading(weights)), expected.program)


def test_a_wrapper_of_half_a_model_knows_where_its_weights_are(checkpoint: Checkpoint, tiny_checkpoint: Path) -> None:
    module, names = hollow_component(checkpoint, "ios", "vae_decoder")
    assert names.keys() == dict(module.named_parameters()).keys()
    assert all(one == name for name, one in names.items())  # that of the UNet puts a word first
    _, names = hollow_component(checkpoint, "ios", "unet")
    assert names["component.conv_in.weight"] == "conv_in.weight"
