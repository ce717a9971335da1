"""Runs a graph with every value rounded to float16, as a phone's memory holds it.

Google's GPU engine with float32 sums adds up four products in float16 before it converts them (google-ai-edge/ml-drift
`ml_drift/common/precision.h`). Their roundings are drawn from a normal distribution, since a graph's products cannot be
had one by one:

    y = Σ xᵢ·wᵢ + ε·√(Σ xᵢ²·wᵢ²)·n,   n ~ N(0, 1),   ε = 2.07·10⁻⁴·√3.25

2.07·10⁻⁴ is the root mean square of a rounding's relative error where mantissas are log-uniform; each product is
rounded once, and the sums of two, three and four hold a product of random sign 2.25 times on average.

A GroupNorm or LayerNorm that reaches that engine as a composite is one kernel, whose inner values are no tensors in
memory: only its result is rounded. In float16 the kernel was right in the browser at a standard deviation of 100, where
squares overflow (galaxy-s23-ultra, forms.group_norm). That of RMSNorm was not measured in float16 and is rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves, tree_map

from sdmobile.device_profiles.runtime_rules.tflite_operators import GROUP_NORM
from sdmobile.rewrites.operators import ancestors

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

_PARTIAL_SUMS = 2.07e-4 * 3.25**0.5
_aten = torch.ops.aten
_PRODUCTS = (
    _aten.linear.default,
    _aten.conv2d.default,
    _aten.einsum.default,
    _aten.matmul.default,
    _aten.bmm.default,
    _aten.mm.default,
)
_CONVOLUTION_GROUPS = 6  # which argument of conv2d they are
_MARK = ("x", "name", "pos", "id", "is_input")  # what `litert_torch.mark_tensor` takes
_TRIGONOMETRIC = (torch.ops.aten.sin.default, torch.ops.aten.cos.default)


class _Rounded(Interpreter):
    """Rounds the result of every node, weights included, and computes each operator in float32."""

    def __init__(self, module: torch.fx.GraphModule, exact: set[Node], noise: torch.Generator | None) -> None:
        super().__init__(module)
        self._exact, self._noise = exact, noise
        self.largest = 0.0

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._exact:
            return value
        if self._noise is not None and n.target in _PRODUCTS and not _is_grouped(n):
            value = value + self._partial_sums(n, value.shape)
        for leaf in tree_leaves(value):
            if _is_float(leaf) and (finite := leaf[leaf.isfinite()]).numel():  # masks hold -inf on purpose
                self.largest = max(self.largest, float(finite.abs().max()))
        return tree_map(_round, value)

    def _partial_sums(self, n: Node, shape: torch.Size) -> Tensor:
        """Returns the error of a product whose sums of four are float16."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.target in (_aten.linear.default, _aten.conv2d.default):
            args = (*args[:2], None, *args[3:])  # the bias is added to the whole sum
        squares = tree_map(lambda one: one.square() if _is_float(one) else one, args)
        size = n.target(*squares, **kwargs).sqrt()  # pyright: ignore[reportCallIssue]
        return _PARTIAL_SUMS * size * torch.randn(shape, generator=self._noise)


def _is_grouped(n: Node) -> bool:
    """Whether a node is a convolution in groups: a depthwise one has one product of a channel at a time."""
    grouped = len(n.args) > _CONVOLUTION_GROUPS and n.args[_CONVOLUTION_GROUPS] != 1
    return n.target is _aten.conv2d.default and bool(grouped)


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _round(value: Any) -> Any:
    """Returns a floating-point tensor rounded to float16 and back; anything else as it is."""
    return value.half().to(value.dtype) if _is_float(value) else value


def run_rounded(
    program: ExportedProgram, inputs: tuple[Tensor, ...], exact_sinusoids: bool = False
) -> tuple[Tensor, ...]:
    """Returns a program's outputs where every intermediate value is a float16 number; see `rounded_range`."""
    return rounded_range(program, inputs, exact_sinusoids)[0]


def rounded_range(
    program: ExportedProgram, inputs: tuple[Tensor, ...], exact_sinusoids: bool = False, sums_of_four: bool = False
) -> tuple[tuple[Tensor, ...], float]:
    """Returns a program's outputs where every intermediate value is a float16 number, and the largest one before.

    The largest is that of finite values, whatever their sign.

    Each operator computes in float32 and rounds its result once, so sums inside an operator do not overflow: it is the
    storage precision of a phone, and an accumulation that is at least as good as the phone's. With `sums_of_four`, that
    of products is the one of Google's GPU engine with float32 sums, and norms that are composites are computed whole.

    Args:
        program: captured or rewritten.
        inputs: float32, rounded too.
        exact_sinusoids: keep what the timestep's sinusoids are made of in float32, as the Core ML export does.
        sums_of_four: add the errors of float16 sums of four products, the same in every run; norms as that engine's.
    """
    module = program.module(check_guards=False)
    assert isinstance(module, torch.fx.GraphModule)
    exact = _feeding_sinusoids(module) if exact_sinusoids else set()
    exact |= _inside_norms(module) if sums_of_four else set()
    interpreter = _Rounded(module, exact, torch.Generator().manual_seed(0) if sums_of_four else None)
    with torch.no_grad():
        output = interpreter.run(*inputs)
    return (output if isinstance(output, tuple) else (output,)), interpreter.largest


def _feeding_sinusoids(module: torch.fx.GraphModule) -> set[Node]:
    """Returns the sines and cosines, and everything that they are computed from."""
    return ancestors(node for node in module.graph.nodes if node.target in _TRIGONOMETRIC)


def _inside_norms(module: torch.fx.GraphModule) -> set[Node]:
    """Returns the decompositions of norms that are composites, without their marks."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        if (mark := _mark(node)).get("name") != GROUP_NORM or mark["is_input"]:
            continue
        behind = [mark["x"]]
        while behind:
            inner = behind.pop()
            if inner not in found and not _mark(inner):
                found.add(inner)
                behind += inner.all_input_nodes
    return found


def _mark(node: Node) -> dict[str, Any]:
    """Returns the arguments of a composite's mark; empty for all other nodes."""
    if not str(node.target).startswith("litert_torch.mark_tensor"):
        return {}
    return {**dict(zip(_MARK, node.args, strict=False)), **node.kwargs}
