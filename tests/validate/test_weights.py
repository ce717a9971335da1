"""Stored values against exact ones, each scheme with its bound, and parameters looked for among arrays."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from sdmobile.validate.bisect.graph import ModuleNames
from sdmobile.validate.weights.agreement import is_exact, misfits
from sdmobile.validate.weights.check import Comparison, Verdict, covered
from sdmobile.validate.weights.diagnosis import epsilon_findings
from sdmobile.validate.weights.litert import place_of
from sdmobile.validate.weights.stored import (
    NATURAL,
    Coding,
    Epsilon,
    FileConstants,
    Float,
    Palette,
    Steps,
    StoredArray,
    Use,
)
from sdmobile.validate.weights.transforms import Parameter, forms
from tests.validate.faults import weight_faults
from tests.validate.patients import Anatomy

DRAW = np.random.RandomState(0)
EXACT = (0.05 * DRAW.standard_normal((16, 12))).astype(np.float32)
HALF, SINGLE = Float(16), Float(32)


def array(
    values: np.ndarray,
    module: str = "a.to_q",
    use: Use = Use.WEIGHT,
    order: tuple[int, ...] = NATURAL,
    coding: Coding = HALF,
    name: str = "stored",
) -> StoredArray:
    uses, modules = frozenset({use}), frozenset({module} if module else ())
    return StoredArray(name, modules, uses, frozenset({order}), values.shape, coding, lambda: values)


def half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float32)


def linear(values: np.ndarray, bits: int) -> tuple[np.ndarray, Steps]:
    steps = np.abs(values).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.round(values / steps) * steps, Steps(steps, bits, False)


def compared(parameter: Parameter, arrays: Iterable[StoredArray], scalars: tuple[Epsilon, ...] = ()) -> Verdict:
    return Comparison(FileConstants(tuple(arrays), scalars), {}).check(parameter).verdict


def test_a_rounding_is_exact_and_the_next_number_is_not() -> None:
    values = half(EXACT)
    assert not misfits(values, EXACT, HALF).any()
    assert is_exact(values, EXACT, HALF)
    assert not is_exact(EXACT, EXACT, HALF)
    assert misfits(values * np.float32(1.002), EXACT, HALF).all()
    assert misfits(half(EXACT), EXACT, SINGLE).any()


@pytest.mark.parametrize("coding", [HALF, SINGLE, Palette(1, 4), Steps(np.full((1, 1), 0.01, np.float32), 8, False)])
def test_nothing_is_right_that_is_not_a_number(coding: Coding) -> None:
    values = EXACT.copy()
    values[3, 4] = np.nan
    assert misfits(values, EXACT, coding)[3, 4]


def test_what_float16_cannot_hold_is_its_largest_number_or_infinite() -> None:
    exact = np.array([1e6, -1e6], np.float32)
    for values in ([65504.0, -65504.0], [np.inf, -np.inf]):
        assert not misfits(np.array(values, np.float32), exact, HALF).any()
    assert misfits(np.array([100.0, -65504.0], np.float32), exact, HALF).tolist() == [True, False]


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_may_be_half_a_step_off(bits: int) -> None:
    values, coding = linear(EXACT, bits)
    assert not misfits(values, EXACT, coding).any()
    grown = Steps(coding.steps * np.float32(1.1), bits, False)
    assert misfits(values * np.float32(1.1), EXACT, grown).any()
    values[2, 3] += coding.steps[2, 0]
    assert misfits(values, EXACT, coding).sum() == 1


def test_a_palettes_entry_is_the_mean_of_its_values() -> None:
    from sdmobile.quantize.palettes import palettize
    from sdmobile.quantize.schemes import Palette as Scheme

    for group, tables in ((0, 1), (4, 4)):
        values = palettize(EXACT, Scheme(4, group)).decode().astype(np.float32)
        coding = Palette(tables, 4)
        assert not misfits(values, EXACT, coding).any()
        entry = np.abs(values).max()
        changed = np.where(np.abs(values) == entry, values * np.float32(1.1), values)
        assert misfits(changed, EXACT, coding).any()
        assert misfits(np.roll(values, 1, axis=1), EXACT, coding).any()


def test_more_values_than_a_palette_has_are_none_of_it() -> None:
    assert misfits(half(EXACT), EXACT, Palette(1, 4)).all()


def test_a_matrix_lies_as_its_operation_takes_it() -> None:
    weight = Parameter("a.to_q.weight", EXACT)
    assert compared(weight, [array(half(EXACT))]) is Verdict.EXACT
    assert compared(weight, [array(half(EXACT.T.copy()), order=(1, 0))]) is Verdict.EXACT
    assert compared(weight, [array(half(EXACT.T.copy()).reshape(16, 12))]) is Verdict.DIFFERS
    kernel = EXACT.reshape(4, 12, 2, 2)
    stored = array(half(kernel.transpose(0, 2, 3, 1)), order=(0, 2, 3, 1))
    assert compared(Parameter("a.to_q.weight", kernel), [stored]) is Verdict.EXACT


def test_only_the_scale_of_its_attention_may_be_in_a_weight() -> None:
    weight = Parameter("a.to_q.weight", EXACT, (0.25,))
    assert compared(weight, [array(half(EXACT * np.float32(0.25)))]) is Verdict.EXACT
    assert compared(weight, [array(half(EXACT * np.float32(0.5)))]) is Verdict.DIFFERS
    taken_out_again = Epsilon("mul", frozenset({"a"}), 0.5, False)
    assert compared(weight, [array(half(EXACT * np.float32(0.5)))], (taken_out_again,)) is Verdict.EXACT


def test_pieces_must_make_up_the_whole() -> None:
    weight = Parameter("a.to_q.weight", EXACT)
    upper, lower = (array(half(part), name=name) for part, name in ((EXACT[:8], "upper"), (EXACT[8:], "lower")))
    assert compared(weight, [upper, lower]) is Verdict.EXACT
    assert compared(weight, [upper, upper]) is Verdict.MISSING
    assert covered([(0.5, 1.0), (0.0, 0.5)])
    assert not covered([(0.0, 0.5), (0.6, 1.0)])


def test_columns_of_a_table() -> None:
    table = Parameter("a.to_q.weight", EXACT)
    pieces = [array(half(EXACT[:, i : i + 4].copy())) for i in (0, 4, 8)]
    assert compared(table, pieces) is Verdict.EXACT
    assert compared(table, pieces[:2]) is Verdict.MISSING


def test_winograds_kernels_are_those_of_the_rule() -> None:
    import torch

    from sdmobile.rewrites.winograd.conv import transform_bias, transform_weight
    from sdmobile.rewrites.winograd.transforms import transforms

    kernel = torch.from_numpy(0.1 * DRAW.standard_normal((5, 4, 3, 3)).astype(np.float32))
    for tile in (2, 4):
        stored = transform_weight(kernel, transforms(tile)).permute(0, 2, 3, 1).float().numpy()
        weight = Parameter("a.to_q.weight", kernel.numpy())
        assert compared(weight, [array(half(stored), order=(0, 2, 3, 1))]) in (Verdict.EXACT, Verdict.WITHIN)
        assert compared(weight, [array(half(stored[::-1].copy()), order=(0, 2, 3, 1))]) is Verdict.MISSING
    bias = transform_bias(kernel[:, 0, 0, 0], transforms(4)).numpy()
    (form,) = forms(Parameter("a.to_q.bias", kernel[:, 0, 0, 0].numpy()), array(bias, use=Use.BIAS))
    assert not misfits(bias, form.values, SINGLE).any()


def test_a_bias_is_no_weight_though_both_are_vectors() -> None:
    gamma, beta = EXACT[0], EXACT[1]
    weight, bias = array(half(gamma)), array(half(beta), use=Use.BIAS)
    assert compared(Parameter("a.to_q.weight", gamma), [weight, bias]) is Verdict.EXACT
    exchanged = [array(half(beta)), array(half(gamma), use=Use.BIAS)]
    assert compared(Parameter("a.to_q.weight", gamma), exchanged) is Verdict.DIFFERS


def test_values_in_another_module_are_another_modules() -> None:
    other = array(half(EXACT), module="a.to_k", name="of_k")
    check = Comparison(FileConstants((array(half(EXACT[::-1].copy())), other), ()), {}).check(
        Parameter("a.to_q.weight", EXACT)
    )
    assert check.verdict is Verdict.DIFFERS
    assert check.finding is not None
    assert "the values are those of of_k" in check.finding
    assert compared(Parameter("a.to_q.weight", EXACT), [array(half(EXACT), module="")]) is Verdict.EXACT


def test_what_changes_nothing_may_be_left_out() -> None:
    zeros = Parameter("a.to_q.bias", np.zeros(4, np.float32))
    assert compared(zeros, []) is Verdict.LEFT_OUT
    assert compared(zeros, [array(np.ones(4, np.float32), use=Use.BIAS)]) is Verdict.DIFFERS
    assert compared(Parameter("a.to_q.bias", np.ones(4, np.float32)), []) is Verdict.MISSING


def test_a_composites_decomposition_has_the_epsilon_too() -> None:
    from torch import nn

    module = nn.ModuleDict({"norm": nn.LayerNorm(4, eps=1e-5)})
    of = frozenset({"norm"})
    named, inside = Epsilon("epsilon", of, 1e-5, True), Epsilon("scalar", of, 1e-5, False, True)
    assert epsilon_findings(module, (named, inside)).faults == ()
    assert len(epsilon_findings(module, (named, Epsilon("scalar", of, 1e-3, False, True))).faults) == 1
    assert len(epsilon_findings(module, (Epsilon("epsilon", of, 1e-6, True), inside)).faults) == 1
    assert len(epsilon_findings(module, (Epsilon("epsilon", frozenset(), 1e-6, True),)).faults) == 1


@pytest.fixture(scope="module")
def anatomy(onnx_bundle: Path, tiny_checkpoint: Path) -> Anatomy:
    from sdmobile.checkpoints import open_checkpoint

    return Anatomy(onnx_bundle, open_checkpoint(tiny_checkpoint))


@pytest.mark.parametrize("component", ["text_encoder", "vae_decoder"])
def test_damage_in_an_onnx_file(anatomy: Anatomy, component: str, tmp_path: Path) -> None:
    good = anatomy.patient(tmp_path / "good").check(component)
    assert good.status == "passed"
    assert {tensor["verdict"] for tensor in good.tensors} == {"exact"}
    for number, fault in enumerate(weight_faults(anatomy, component)):
        patient = anatomy.patient(tmp_path / str(number))
        fault.apply(patient)
        check = patient.check(component)
        assert check.status == "failed", fault.kind
        assert check.findings


def test_a_location_of_several_places_is_the_module_that_holds_the_weight() -> None:
    """As the converter names a projection that shares its input's layout with another, and a fused activation."""
    paths = ["attn1", "attn1.to_q", "attn1.to_k", "conv1", "nonlinearity"]
    names = ModuleNames(paths, ["attn1.to_q", "attn1.to_k", "conv1"])
    assert place_of("attn1;;attn1.to_q;_dequant", names) == "attn1.to_q"
    assert place_of("attn1;;attn1.to_q;;attn1.to_k;_dequant", names) == "attn1.to_k"
    assert place_of("of.the.file.Encoder;;attn1.to_q;;attn1.to_k;_dequant", names) == "attn1.to_k"
    assert place_of("nonlinearity;conv1", names) == "conv1"
    assert place_of("conv1;attn1.to_q", names) == "conv1"
    assert place_of("nonlinearity", names) == "nonlinearity"


@pytest.mark.parametrize(("stored", "faults"), [(1e-6, 0), (1e-5, 1)])
def test_the_epsilon_of_transformers_norms_is_known(stored: float, faults: int) -> None:
    """T5's and Qwen's norms keep it under another name than PyTorch's."""
    import torch
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    module = torch.nn.ModuleDict({"norm": T5LayerNorm(4, eps=1e-6)})
    scalar = Epsilon("epsilon of odml.rms_norm", frozenset({"norm"}), stored, True)
    found = epsilon_findings(module, [scalar])
    assert (found.compared, len(found.faults)) == (1, faults)
