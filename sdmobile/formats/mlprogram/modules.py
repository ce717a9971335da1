"""The module that an operation of a program comes from, read off its name.

The exporter names each node `<path of its module>_<operator>`; coremltools keeps the name and appends to it, and gives
names of its own to the operations into which it decomposes one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sdmobile.formats.mlprogram.ir import Operation

_APPENDED = re.compile(r"(_cast_fp16|_cast_fp32|_to_fp16|_to_fp32|x|_\d+)$")
_OPERATORS = (
    "scaled_dot_product_attention",
    "upsample_nearest2d",
    "constant_pad_nd",
    "instance_norm",
    "native_group_norm",
    "group_norm",
    "layer_norm",
    "batch_norm",
    "_unsafe_view",
    "conv2d",
    "convolution",
    "linear",
    "matmul",
    "embedding",
    "unsqueeze",
    "squeeze",
    "transpose",
    "permute",
    "reshape",
    "expand",
    "softmax",
    "sigmoid",
    "split_with_sizes",
    "split",
    "chunk",
    "slice",
    "select",
    "view",
    "silu",
    "gelu",
    "tanh",
    "relu",
    "einsum",
    "clone",
    "mean",
    "rsqrt",
    "sqrt",
    "pow",
    "sub",
    "add",
    "mul",
    "div",
    "cat",
    "pad",
    "sin",
    "cos",
    "bmm",
    "mm",
)
"""Operators of exported graphs, those first that end in another."""


def module_of(name: str, modules: Iterable[str] = ()) -> str:
    """Returns the module path in the name of an operation, or "" if there is none.

    Args:
        name: of the operation.
        modules: dotted paths of the modules of the source, if they are known: the longest one in the name is returned.
            Without them the result has underscores where the path has dots, as the name does.
    """
    modules = tuple(modules)
    if modules:
        known = [path for path in modules if path and name.startswith(path.replace(".", "_") + "_")]
        return max(known, key=len, default="")
    base = name
    while _APPENDED.search(base) and not base.endswith(_OPERATORS):
        base = _APPENDED.sub("", base)
    operator = next((each for each in _OPERATORS if base == each or base.endswith("_" + each)), None)
    return "" if operator is None else base[: -len(operator)].rstrip("_")


def module_near(operations: Sequence[Operation], index: int, modules: Iterable[str] = ()) -> str:
    """Returns the module of an operation; if its name has none, as near as the operations around it tell.

    Args:
        operations: all operations in the order of the program.
        index: which one.
        modules: as in `module_of`; in the order in which the source computes them, each as often as it does, if the
            one between those before and after the operation is to be found. Else it is the one after.
    """
    modules = tuple(modules)
    module = module_of(operations[index].name, modules)
    if module:
        return module
    before, after = _before(operations, index, modules), _after(operations, index, modules)
    return _between(modules, before, after) or after


def _after(operations: Sequence[Operation], index: int, modules: tuple[str, ...]) -> str:
    """Returns the module of the first named operation that the result of one reaches."""
    reached = {output.name for output in operations[index].outputs}
    for operation in operations[index + 1 :]:
        if reached & set(_used(operation)):
            module = module_of(operation.name, modules)
            if module:
                return module
            reached |= {output.name for output in operation.outputs}
    return ""


def _before(operations: Sequence[Operation], index: int, modules: tuple[str, ...]) -> str:
    """Returns the module of the last named operation that an operation depends on."""
    needed = set(_used(operations[index]))
    for operation in reversed(operations[:index]):
        if needed & {output.name for output in operation.outputs}:
            module = module_of(operation.name, modules)
            if module:
                return module
            needed |= set(_used(operation))
    return ""


def _between(modules: tuple[str, ...], before: str, after: str) -> str:
    """Returns the one module that is computed between two others, "" if there is none or are several."""
    for start in (i for i, path in enumerate(modules) if path == before):
        if after in modules[start + 1 :]:
            inner = modules[start + 1 : modules.index(after, start + 1)]
            if len(set(inner)) == 1:
                return inner[0]
    return ""


def _used(operation: Operation) -> Iterable[str]:
    return (binding for bindings in operation.inputs.values() for binding in bindings if isinstance(binding, str))
