"""Which module of the source model a node comes from, as far as its tensor names say."""

from __future__ import annotations

import re

from sdmobile.validate.lint.tflite.model import Node

_COUNTER = re.compile(r"^\d*(_\w+)?$")
_SCOPE = re.compile(r"^(?P<type>.*?)_(?P<path>[\w.]+)$")


def module_of(node: Node) -> str | None:
    """Returns the innermost module that the names of a node's outputs mention, None where they mention none.

    litert_torch names a tensor by the modules it was computed in: "Outer/Block_blocks.0/torch.nn.GroupNorm_norm;7".
    A name of several parts belongs to an operator that replaced several; the longest part says most.
    """
    parts = [part for tensor in node.outputs for part in tensor.name.split(";") if part and not _COUNTER.match(part)]
    if not parts:
        return None
    scopes = [scope for scope in max(parts, key=len).split("/") if scope]
    shown = [_short(scope) for scope in scopes[1:] or scopes]
    return "/".join(part for part in shown if part) or None


def _short(scope: str) -> str:
    """Returns "norm (GroupNorm)" for "torch.nn.modules.normalization.GroupNorm_norm"."""
    match = _SCOPE.match(scope)
    if match is None or "." not in match["type"]:
        return scope.rsplit(".", 1)[-1]
    return f"{match['path']} ({match['type'].rsplit('.', 1)[-1]})"
