"""The timestep embedding from a table: against float64, in float16, between integers, beyond the table, in a file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers.models.embeddings import Timesteps
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.rewrites.engine import Rewritten, rewrite
from sdmobile.rewrites.rule import Match
from sdmobile.rewrites.timestep_sinusoid import TimestepSinusoid, timestep_embedding
from tests.rewrites.litert_files import litert_file

WIDTH = 64


class Embedding(nn.Module):
    """Diffusers' embedding and the layer behind it."""

    def __init__(self, width: int = WIDTH, flip: bool = True, shift: float = 0.0) -> None:
        super().__init__()
        self.time_proj = Timesteps(width, flip, shift)
        self.linear = nn.Linear(width, 8)

    def forward(self, timestep: Tensor) -> Tensor:
        return self.linear(self.time_proj(timestep))


def captured(module: nn.Module, batch: int = 2) -> torch.export.ExportedProgram:
    return torch.export.export(module.eval(), (torch.full((batch,), 500.0),))


def match_of(module: nn.Module) -> Match:
    return next(iter(TimestepSinusoid().matches(captured(module).graph)))


def exact(timestep: Tensor, width: int = WIDTH) -> Tensor:
    """Returns Diffusers' embedding, cosines first, in float64."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / half)
    phase = timestep.double()[:, None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], 1)


def as_captured(timestep: Tensor) -> Tensor:
    """Returns the captured form with every result rounded to float16."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(WIDTH // 2) / (WIDTH // 2)).half()
    phase = (timestep.half()[:, None] * frequencies).float()
    return torch.cat([phase.cos(), phase.sin()], 1).half()


def from_table(timestep: Tensor) -> Tensor:
    """Returns the rule's form in float16."""
    options = match_of(Embedding()).options
    table, partner = (tuple(half.half() for half in options[name]) for name in ("table", "partner"))
    return timestep_embedding(timestep.half(), table, partner, options["frequencies"].half())  # type: ignore[arg-type]


@pytest.mark.parametrize(("first", "last"), [(0, 1000), (990, 1000)])
def test_float16_keeps_the_embedding(first: int, last: int) -> None:
    timestep = torch.arange(first, last).float()
    assert psnr(exact(timestep), as_captured(timestep)) < 35
    assert psnr(exact(timestep), from_table(timestep)) > 75


def test_float16_between_integers() -> None:
    """Those that float16 has; near 1000 these are the halves."""
    timestep = (torch.rand(500, generator=torch.Generator().manual_seed(0)) * 1000).half().float()
    assert psnr(exact(timestep), as_captured(timestep)) < 35
    assert psnr(exact(timestep), from_table(timestep)) > 73


@given(
    values=st.lists(st.floats(0, 3000, width=32), min_size=2, max_size=2),
    width=st.sampled_from([32, 64, 320]),
    flip=st.booleans(),
    shift=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=20, deadline=None)
def test_any_timestep_in_float32(values: list[float], width: int, flip: bool, shift: float) -> None:
    """Also beyond the table; a phase of 3000 has lost four digits in either form."""
    module = Embedding(width, flip, shift)
    rewritten = rewrite(captured(module), [TimestepSinusoid()])
    timestep = torch.tensor(values)
    torch.testing.assert_close(rewritten.program.module()(timestep), module(timestep), rtol=0, atol=2e-3)


class FromTheEnd(Embedding):
    """Z-Image's embedding, whose time runs the other way."""

    def forward(self, timestep: Tensor) -> Tensor:
        return super().forward(1000 - timestep)


@given(
    values=st.lists(st.floats(0, 1000, width=32), min_size=2, max_size=2),
    width=st.sampled_from([32, 64, 256]),
    flip=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_a_timestep_that_is_counted_from_the_end(values: list[float], width: int, flip: bool) -> None:
    module = FromTheEnd(width, flip)
    rewritten = rewrite(captured(module), [TimestepSinusoid()])
    assert outcomes(rewritten) == ["applied"]
    timestep = torch.tensor(values)
    torch.testing.assert_close(rewritten.program.module()(timestep), module(timestep), rtol=0, atol=1e-3)
    plain = Embedding(width, flip)
    frequencies = TimestepSinusoid().matches(captured(plain).graph)
    wanted = next(iter(frequencies)).options["frequencies"]
    torch.testing.assert_close(-match_of(module).options["frequencies"], wanted, rtol=1e-4, atol=1e-7)


def outcomes(rewritten: Rewritten) -> list[str]:
    return [record.outcome for record in rewritten.records]


def test_integers_give_the_embedding_of_float32_phases_to_22_bits() -> None:
    """PyTorch's own exp is off by one bit for some frequencies, by processor; 1000 times that is 6e-5."""
    module = nn.Sequential(Timesteps(WIDTH, True, 0.0), nn.Identity())
    rewritten = rewrite(captured(module, batch=3), [TimestepSinusoid()])
    timestep = torch.tensor([0.0, 999.0, 1000.0])
    found = rewritten.program.module()(timestep)
    exponents = -math.log(10000) * torch.arange(WIDTH // 2, dtype=torch.float32) / (WIDTH // 2)
    phases = (timestep[:, None] * exponents.double().exp().float()).double()
    torch.testing.assert_close(found, torch.cat([phases.cos(), phases.sin()], 1).float(), rtol=0, atol=2**-22)
    torch.testing.assert_close(found, module(timestep), rtol=0, atol=6e-5)


def test_a_file_with_float16_weights_is_still_right_in_float32(tmp_path: Path) -> None:
    from sdmobile.quantize.tflite_float16 import cast_weights

    module = nn.Sequential(Timesteps(WIDTH, True, 0.0), nn.Identity())
    case = litert_file(module, (torch.tensor([951.0, 3.0]),), [TimestepSinusoid()], tmp_path)
    small = tmp_path / "float16.tflite"
    cast_weights(case.path, small)
    assert small.stat().st_size < 0.6 * case.path.stat().st_size
    assert psnr(case.expected, case.run(small)) > 100


class Chirp(nn.Module):
    """A sine and a cosine of a square: not an embedding of this kind."""

    def forward(self, timestep: Tensor) -> Tensor:
        phase = timestep[:, None] ** 2 * (1e-4 * torch.arange(1, 3))
        return torch.cat([phase.sin(), phase.cos()], 1)


class NoTime(nn.Module):
    """A rotary embedding: sine and cosine of constants and of a matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin() + x.cos()


def test_other_sines_are_left_alone() -> None:
    rewritten = rewrite(captured(Chirp()), [TimestepSinusoid()])
    assert outcomes(rewritten) == ["refused"]
    assert "differs from cos(t·f + φ) by" in (rewritten.records[0].reason or "")
    program = torch.export.export(NoTime(), (torch.randn(2, 3),))
    assert outcomes(rewrite(program, [TimestepSinusoid()])) == ["unmatched"]


def test_the_file_has_operators_of_the_gpu_only(tmp_path: Path) -> None:
    case = litert_file(Embedding(), (torch.tensor([951.0, 3.5]),), [TimestepSinusoid()], tmp_path)
    assert psnr(case.expected, case.run()) > 90
    floats = {"FLOOR", "SUB", "ABS", "MUL", "ADD", "COS", "SIN", "FULLY_CONNECTED", "RESHAPE", "RELU"}
    clamp = {"MINIMUM", "MAXIMUM"}
    assert set(case.facts.operators) <= floats | clamp
    assert set(case.facts.tensor_types) <= {"FLOAT32", "INT32"}


class Sizes(nn.Module):
    """What Stable Diffusion XL's UNet makes of a picture's sizes (N, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.time_proj = Timesteps(WIDTH, True, 0.0)
        self.linear = nn.Linear(6 * WIDTH, 8)

    def forward(self, sizes: Tensor) -> Tensor:
        return self.linear(self.time_proj(sizes.flatten()).reshape(len(sizes), -1))


def test_sizes_of_a_picture_are_taken_from_a_table_of_their_own() -> None:
    sizes = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024], [832, 1216, 3, 517, 1999, 2048]])
    program = torch.export.export(Sizes().eval(), (sizes,))
    (match,) = TimestepSinusoid().matches(program.graph)
    assert TimestepSinusoid().check(match) is None
    assert match.options["table"][0].shape == (WIDTH, 2049)
    rewritten = rewrite(program, [TimestepSinusoid()], [(sizes,)])
    assert [record.outcome.value for record in rewritten.records] == ["applied"]

    flat = sizes.flatten()
    ours = timestep_embedding(flat.half(), *_halved(match))
    assert psnr(exact(flat), ours.double()) > 65
    assert psnr(exact(flat), as_captured(flat).double()) < 35


def _halved(match: Match) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Returns table, partner and frequencies of a match in float16."""
    table, partner = ((high.half(), low.half()) for high, low in (match.options["table"], match.options["partner"]))
    return table, partner, match.options["frequencies"].half()
