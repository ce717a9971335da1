"""Makes `.tflite` files of small modules, rewritten by given rules, and runs them with LiteRT's interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sdmobile.exporters.litert.lower import lower
from sdmobile.exporters.lowering import LoweringOptions, Provenance
from sdmobile.formats.bundle.contracts import Contract, TensorSpec
from sdmobile.formats.tflite.graph import FileFacts, read_facts
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.rule import RewriteRecord, Rule
from sdmobile.rewrites.tables import fold_tables
from sdmobile.rewrites.tidy import tidy


@dataclass(frozen=True)
class LitertFile:
    """A file, what PyTorch says it should compute, and what the rules said."""

    path: Path
    inputs: tuple[Tensor, ...]
    expected: np.ndarray
    records: tuple[RewriteRecord, ...]

    @property
    def facts(self) -> FileFacts:
        return read_facts(self.path)

    def run(self, path: Path | None = None, delegate: bool = True) -> np.ndarray:
        """Returns what the file, or another one with the same signature, makes of the inputs.

        Args:
            path: the other file.
            delegate: let XNNPACK compute, as LiteRT does by itself; else LiteRT's own kernels.
        """
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kernels = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = Interpreter(str(path or self.path), experimental_op_resolver_type=kernels)
        runner = interpreter.get_signature_runner("run")
        return runner(**{f"x{i}": x.numpy() for i, x in enumerate(self.inputs)})["y"]


def litert_file(module: nn.Module, inputs: tuple[Tensor, ...], rules: Sequence[Rule], folder: Path) -> LitertFile:
    """Captures, rewrites and lowers a module as the exporter does."""
    module = module.eval().requires_grad_(False)
    with torch.no_grad():
        expected = module(*inputs).numpy()
        program, _ = tidy(torch.export.export(module, inputs, strict=False))
    rewritten = rewrite(fold_tables(program)[0], rules)
    specs = tuple(spec_of(f"x{i}", x) for i, x in enumerate(inputs))
    output = spec_of("y", torch.from_numpy(expected))
    contract = Contract("android", "unet", "file.tflite", "run", specs, (output,))
    provenance = Provenance("small", "0", None, 1.0, "epsilon", "0")
    path = folder / "file.tflite"
    lower(rewritten.program, contract, path, LoweringOptions(provenance))
    return LitertFile(path, inputs, expected, rewritten.records)


def spec_of(name: str, x: Tensor) -> TensorSpec:
    """Returns the specification of a file's input or output that is taken as it is."""
    return TensorSpec(name, tuple(x.shape), str(x.dtype).removeprefix("torch."), "", name, "as it is")
