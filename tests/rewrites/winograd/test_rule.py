"""The rule in the engine: what it changes, what it refuses and why, and what the file then holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.program import run
from sdmobile.rewrites.winograd.rule import WinogradConv
from sdmobile.rewrites.winograd.selection import Policy

GENEROUS = Policy(weight_growth=10.0)
FORCED = Policy(tiles=(4,), weight_growth=10.0, min_speedup=0.0)  # whatever the prediction for a small layer


def program_of(module: nn.Module, *shape: int) -> Any:
    return torch.export.export(module.eval(), (example(*shape),))


def example(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def applied(module: nn.Module, shape: tuple[int, ...], rule: WinogradConv) -> Any:
    """Rewrites with the rule in check mode and returns the result."""
    torch.manual_seed(1)
    return rewrite(program_of(module, *shape), [rule], [(example(*shape),)])


def reason(module: nn.Module, *shape: int, rule: WinogradConv | None = None) -> str:
    (record,) = applied(module, shape, rule or WinogradConv(GENEROUS)).records
    assert record.outcome == "refused"
    assert record.reason is not None
    return record.reason


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("batch", "height", "width", "padding"), [(1, 64, 64, 1), (2, 37, 29, 0), (1, 26, 107, 1)])
def test_numbers(bias: bool, batch: int, height: int, width: int, padding: int) -> None:
    module = nn.Conv2d(128, 192, 3, padding=padding, bias=bias)
    result = applied(module, (batch, 128, height, width), WinogradConv(GENEROUS))
    assert [r.outcome for r in result.records] == ["applied"]
    assert result.checks[0].psnr_db > 115
    x = example(batch, 128, height, width)
    exact = module.double()(x.double()).detach().numpy()
    assert psnr(exact, run(result.program, (x,))[0].numpy()) > 115


def test_weights_are_folded_and_named_after_their_origin() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_in_block = nn.Conv2d(128, 128, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv_in_block(x)

    program = applied(Block(), (1, 128, 64, 64), WinogradConv(FORCED)).program
    shapes = {n.name: tuple(n.meta["val"].shape) for n in program.graph.find_nodes(op="placeholder")}
    assert (36 * 128, 128, 1, 1) in shapes.values()
    assert (128, 128, 3, 3) not in shapes.values()
    assert "conv_in_block" in next(name for name, shape in shapes.items() if shape == (36 * 128, 128, 1, 1))
    names = {
        node.target for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._to_copy.default)
    }
    assert not names
    assert all(node.meta["val"].dtype == torch.float32 for node in program.graph.nodes if node.op == "call_function")


def test_details_hold_the_three_answers() -> None:
    (record,) = applied(nn.Conv2d(320, 320, 3, padding=1), (1, 320, 64, 64), WinogradConv(GENEROUS)).records
    assert record.details["tile"] == 4
    assert record.details["chosen_by_runtime"]["ml-drift/adreno7xx"]
    assert record.details["float16_db"] == pytest.approx(54.8, abs=0.5)


REFUSED = [
    (nn.Conv2d(128, 128, 1), 32, "the kernel is 1×1"),
    (nn.Conv2d(128, 128, 3, stride=2, padding=1), 32, "the stride is 2×2"),
    (nn.Conv2d(128, 128, 3, dilation=2), 32, "the dilation is 2×2"),
    (nn.Conv2d(128, 128, 3, groups=4), 32, "4 groups"),
    (nn.Conv2d(128, 128, 3, padding=3), 32, "padding of 3"),
    (nn.Conv2d(4, 320, 3, padding=1), 64, "predicted 0"),
    (nn.Conv2d(32, 32, 3, padding=1), 64, "predicted 0"),
]


@pytest.mark.parametrize(("module", "size", "begins"), REFUSED, ids=[r[2] + str(i) for i, r in enumerate(REFUSED)])
def test_refusals(module: nn.Conv2d, size: int, begins: str) -> None:
    assert reason(module, 1, module.in_channels, size, size).startswith(begins)


def test_a_budget_refuses() -> None:
    rule = WinogradConv(Policy(weight_growth=0.25, spare_bytes=2_000_000))
    assert reason(nn.Conv2d(320, 320, 3, padding=1), 1, 320, 64, 64, rule=rule) == (
        "3 MB of weights more, beyond what is left of 25% of the component or 2 MB"
    )


def test_a_runtime_with_winograd_keeps_its_layers() -> None:
    large, small = nn.Conv2d(320, 320, 3, padding=1), nn.Conv2d(320, 320, 3, padding=1)
    rule = WinogradConv(GENEROUS, runtime="ml-drift", gpu=Gpu.ADRENO_7XX)
    assert reason(large, 1, 320, 64, 64, rule=rule).endswith("by Winograd's method itself")
    assert reason(small, 1, 320, 16, 16, rule=rule).endswith("directly: 16 tiles; ml-drift wants 128 on adreno7xx")


def test_weights_made_at_run_time_are_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(128, 128, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.weight * x.mean(), padding=1)

    assert reason(Scaled(), 1, 128, 32, 32).startswith("the weight is computed at run time")


@pytest.mark.parametrize("size", [64, 30])
def test_litert_file_is_small_of_rank_four_and_right(size: int, tmp_path: Path) -> None:
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter

    from sdmobile.formats.tflite.graph import read_facts
    from sdmobile.quantize.tflite_float16 import cast_weights

    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(128, 128, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    module = ChannelsLast()
    x = example(1, size, size, 128)
    program = rewrite(torch.export.export(module.eval(), (x,)), [WinogradConv(FORCED)]).program
    callable_module = program.module(check_guards=False)
    callable_module.training = False
    callable_module.eval = lambda: callable_module  # type: ignore[method-assign]
    path = tmp_path / "full.tflite"
    litert_torch.convert(callable_module, (x,)).export(str(path))
    cast_weights(path, tmp_path / "half.tflite")
    facts = read_facts(tmp_path / "half.tflite")
    assert facts.max_rank == 4
    assert facts.operators["TRANSPOSE"] == 2
    assert sum(facts.operators.values()) <= (14 if size == 64 else 16)
    assert (tmp_path / "half.tflite").stat().st_size < 1.1 * 2 * 36 * 128 * 128
    exact = module.double()(x.double()).detach().numpy()
    for name, least in (("full", 110.0), ("half", 65.0)):
        runner = Interpreter(model_path=str(tmp_path / f"{name}.tflite")).get_signature_runner()
        (found,) = runner(**{next(iter(runner.get_input_details())): x.numpy()}).values()
        assert psnr(exact, found) > least
