"""Random small networks: through a device's rules; some further through a converter into a file, which is then run.

module ─▶ captured ─▶ rules of a device ─▶ compared in PyTorch                    most cases
                          └─▶ converter ─▶ file ─▶ evaluator, or LiteRT with and without its CPU delegate
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from sdmobile.device_profiles import list_profiles, load_profile
from tests.fuzz.case import Kind, Verdict, fault, right
from tests.rewrites.networks import Attention, FeedForward, Network, Part, Resample, Residual

if TYPE_CHECKING:
    from sdmobile.rewrites.options import RewriteOptions
    from sdmobile.rewrites.rule import Rule

# Levels in dB below which a case is a fault. Rules and LiteRT compute in float32; an exchange of operands leaves 10 to
# 60 dB. A package's constants are float16 numbers, at least 84 dB were seen; its values rounded to float16, 43.
RULES_DB, LITERT_DB, PACKAGE_DB, PACKAGE_FLOAT16_DB = 95.0, 95.0, 75.0, 30.0
# A conversion takes about 3 (Core ML) and 12 seconds (LiteRT) of one processor, a rewriting well below one.
_COREML, _LITERT = 0.05, 0.02


def _attention(chance: Random) -> Attention:
    return Attention(
        heads=chance.choice([1, 2, 4]),
        normalised=chance.random() < 0.5,
        context=chance.choice([0, 0, 0, 5, 7, 77]),
        mask=chance.choice(["none", "none", "causal", "added"]),
        spelling=chance.choice(["operator", "operator", "matmul", "bmm"]),
        tied=chance.random() < 0.2,
    )


def _residual(chance: Random) -> Residual:
    return Residual(chance.choice([1, 2, 4, 8, 16]), chance.choice([1, 3, 3, 5]), chance.random() < 0.4)


_PARTS: tuple[Callable[[Random], Part], ...] = (
    _attention,
    _attention,
    _residual,
    lambda chance: FeedForward(chance.choice(["gelu", "tanh", "silu"])),
    lambda chance: Resample(chance.random() < 0.5),
)


def draw_network(chance: Random, most: int = 3) -> Network:
    """Returns a network of one to `most` parts, a small picture and its seed."""
    parts = tuple(chance.choice(_PARTS)(chance) for _ in range(chance.randint(1, most)))
    size = chance.choice([(6, 6), (8, 8), (5, 9), (10, 7), (16, 16), (1, 8)])
    return Network(parts, size, chance.randint(1, 2), chance.getrandbits(31))


def draw_rules(chance: Random, target: str | None = None) -> tuple[str, RewriteOptions, tuple[Rule, ...]]:
    """Returns a device, of one target if named, options, and the rules that they select, in half of the cases all."""
    from sdmobile.rewrites.options import RewriteOptions
    from sdmobile.rewrites.registry import rules_for

    profiles = [load_profile(name) for name in list_profiles()]
    profile = chance.choice([p for p in profiles if target is None or p.target == target])
    options = RewriteOptions(chance.random() < 0.3)
    names = [rule.name for rule in rules_for(profile, options)]
    if names and chance.random() < 0.5:
        options = RewriteOptions(
            options.plain_ops, without=tuple(chance.sample(names, chance.randint(1, min(3, len(names)))))
        )
    return profile.name, options, rules_for(profile, options)


def case(chance: Random, folder: Path, shared: Path) -> Verdict:
    """Draws a network and what is done to it."""
    way = chance.random()
    if way < _COREML:
        return _package(chance, folder)
    return _tflite(chance, folder) if way < _COREML + _LITERT else rewritten(chance)


def _level(levels: dict[str, tuple[float, float]], told: str) -> Verdict:
    """Returns the verdict on levels, each with the least that is right, in dB."""
    words = ", ".join(f"{name} {level:.1f} dB" for name, (level, _) in levels.items())
    wrong = [name for name, (level, least) in levels.items() if not level >= least]
    return fault(f"{words} (wrong: {', '.join(wrong)}): {told}") if wrong else right(f"{words}: {told}")


def rewritten(chance: Random, most: int = 3) -> Verdict:
    """Compares a network of at most so many parts with itself after a device's rules."""
    from sdmobile.rewrites.engine import agreement, rewrite
    from sdmobile.rewrites.program import run
    from tests.rewrites.networks import build

    network = draw_network(chance, most)
    device, options, rules = draw_rules(chance)
    told = f"{device} {options}, {network}"
    program, inputs = build(network)
    expected = run(program, inputs)
    after = rewrite(program, rules).program
    return _level({"rewritten": (agreement(expected, run(after, inputs)), RULES_DB)}, told)


def _package(chance: Random, folder: Path) -> Verdict:
    from sdmobile.basics.metrics import psnr
    from sdmobile.exporters.coreml.lower import lower
    from sdmobile.exporters.lowering import LoweringOptions, Provenance
    from sdmobile.formats.bundle.contracts import Contract
    from sdmobile.rewrites.engine import rewrite
    from sdmobile.runtimes.mlprogram import MLProgram
    from tests.rewrites.attention.reference import captured
    from tests.rewrites.litert_files import spec_of
    from tests.rewrites.networks import inputs_of, module_of

    network = draw_network(chance, most=3)
    device, options, rules = draw_rules(chance, "ios")
    module, inputs = module_of(network), tuple(x.half().float() for x in inputs_of(network))
    expected = module(*inputs)
    specs = tuple(spec_of(f"x{i}", x) for i, x in enumerate(inputs))
    contract = Contract("ios", "unet", "file.mlpackage", "main", specs, (spec_of("y", expected),))
    target = load_profile(device).deployment_target
    path = folder / contract.file_name
    program = rewrite(captured(module, *inputs), rules).program
    lower(program, contract, path, LoweringOptions(Provenance("small", "0", None, 1.0, "epsilon", "0"), target))
    arrays = {spec.name: x.numpy() for spec, x in zip(specs, inputs, strict=True)}
    levels = {
        "float32": (psnr(expected, MLProgram(path, "float32").predict(arrays)["y"]), PACKAGE_DB),
        "float16": (psnr(expected, MLProgram(path, "float16-float32acc").predict(arrays)["y"]), PACKAGE_FLOAT16_DB),
    }
    return _level(levels, f"{device} {options}, {network}")


def _tflite(chance: Random, folder: Path) -> Verdict:
    from sdmobile.quantize.tflite_float16 import cast_weights
    from tests.rewrites.litert_files import litert_file
    from tests.rewrites.networks import inputs_of, module_of

    network = draw_network(chance, most=2)
    device, options, rules = draw_rules(chance, "android")
    file = litert_file(module_of(network), inputs_of(network), rules, folder)
    cast = folder / "float16.tflite"
    cast_weights(file.path, cast, False)
    levels = {
        f"{name} {'with' if delegate else 'without'} the delegate": (_litert(file, path, delegate), enough)
        # Weights that a rule has folded are no float16 numbers any more.
        for name, path, enough in (("float32", file.path, LITERT_DB), ("float16 weights", cast, PACKAGE_DB))
        for delegate in (True, False)
    }
    return _level(levels, f"{device} {options}, {network}")


def _litert(file: Any, path: Path, delegate: bool) -> float:
    from sdmobile.basics.metrics import psnr

    return psnr(file.expected, file.run(path, delegate))


def prepare(shared: Path) -> None:
    """Imports the converters, which takes longer than most cases."""
    for name in ("ai_edge_litert.interpreter", "coremltools", "litert_torch", "tests.rewrites.litert_files"):
        importlib.import_module(name)


KIND = Kind("models", share=0.15, seconds=300.0, case=case, prepare=prepare)
