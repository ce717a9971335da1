"""Which module of the source model a node comes from, as far as its tensor names say.

litert_torch names a tensor by the modules it was computed in, each as class and attribute, and a counter:
"package.Net/package.Block_0/torch.nn.GroupNorm_norm;11". A name of several parts belongs to an operator that replaced
several; the longest part says most. The outermost module is the whole model and says nothing. This project's exporter
gives the path instead: "down_blocks.0.norm;11", and first where the operator is.
"""

from __future__ import annotations

import re

from sdmobile.formats.tflite.model import Node

_COUNTER = re.compile(r"^\d*(_\w+)?$")
_PATH = re.compile(r"^(?:\w+\.)*_*[a-z0-9]\w*$")  # a class begins with a capital letter
_SCOPE = re.compile(r"^(?P<type>_*[A-Za-z0-9]+)_(?P<attribute>.+)$")


def module_of(node: Node) -> str | None:
    """Returns the innermost module that the names of a node's outputs mention, None where they mention none."""
    parts = _parts(node)
    if parts and ";" in node.outputs[0].name and _PATH.match(parts[0]):
        return parts[0]
    inner = max(parts, key=len).split("/")[1:] if parts else []
    return "/".join(_short(scope) for scope in inner if scope) or None


def source_name(node: Node) -> str:
    """Returns the path of the module in the names of a node's outputs, "" if there is none."""
    if any("/" in tensor.name for tensor in node.outputs):
        return module_of(node) or ""
    return max(_parts(node), key=len, default="")


def first_place(name: str) -> str:
    """Returns the first of the places that a tensor's name lists: in this project's files, a module's path."""
    return name.split(";")[0]


def _parts(node: Node) -> list[str]:
    """Returns the places that the names of a node's outputs list, without the counters."""
    names = [tensor.name for tensor in node.outputs]
    return [part for name in names for part in name.split(";") if part and not _COUNTER.match(part)]


def _short(scope: str) -> str:
    """Returns "norm (GroupNorm)" for "torch.nn.modules.normalization.GroupNorm_norm"."""
    last = scope.rsplit(".", 1)[-1]
    match = _SCOPE.match(last)
    return last if match is None else f"{match['attribute']} ({match['type']})"
