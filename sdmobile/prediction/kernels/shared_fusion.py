"""How Google's GPU engines merge nodes into kernels.

The three passes of google-ai-edge/ml-drift@393e0e9 `ml_drift/common/merge_nodes.cc` (MergeReorderNodes,
MergeElementwiseNodes, LinkNodes), of which google-ai-edge/LiteRT@f674577 `tflite/delegates/gpu/common/gpu_model.cc` has
the last two. A convolution, for example, takes over the activation and the residual sum that follow it; so does a norm
the SiLU behind it, sigmoid and product being one elementwise node by then.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from sdmobile.prediction.kernels.shared_nodes import Draft, Node

_Uses = dict[str, list[tuple[int, Node]]]


def merge_reorders(draft: Draft) -> None:
    """Makes a reshape or transpose whose result only another one reads part of that one."""
    uses = _uses(draft.nodes)
    gone: set[int] = set()
    for node in draft.nodes:
        following = uses[node.outputs[0]]
        if not node.reorder or len(following) != 1 or node.outputs[0] in draft.outputs:
            continue
        _, second = following[0]
        if second.reorder and len(second.inputs) == 1:
            second.inputs = node.inputs
            second.operations = node.operations + second.operations
            uses[node.inputs[0]] = [(0, second) if user is node else (k, user) for k, user in uses[node.inputs[0]]]
            gone.add(id(node))
    draft.nodes = [node for node in draft.nodes if id(node) not in gone]


def merge_elementwise(draft: Draft) -> None:
    """Merges elementwise nodes with each other: chains of one input, and pairs whose inputs go back to one value."""
    producers = {name: node for node in draft.nodes for name in node.outputs[:1]}
    counts = Counter({name: len(found) for name, found in _uses(draft.nodes).items()})
    counts.update(draft.outputs)  # a result of the graph is read outside
    gone: set[int] = set()
    for root in draft.nodes:
        if not root.linkable or len(root.inputs) not in (1, 2):
            continue
        before = [producers.get(name) for name in root.inputs]
        merged = _chain(root, before, counts) or _pair(root, before, counts, producers)
        gone.update(id(node) for node in merged)
    draft.nodes = [node for node in draft.nodes if id(node) not in gone]


def _chain(root: Node, before: list[Node | None], counts: Counter[str]) -> list[Node]:
    """Merges root with the one elementwise node in front of it."""
    first = before[0]
    if len(root.inputs) != 1 or not _simple(first) or counts[root.inputs[0]] != 1:
        return []
    assert first is not None
    _prepend(root, [first], first.inputs[0])
    return [first]


def _pair(root: Node, before: list[Node | None], counts: Counter[str], producers: dict[str, Node]) -> list[Node]:
    """Merges a node of two inputs with what is in front of one or both, if both are functions of one value."""
    if len(root.inputs) != 2 or None in before:
        return []
    first, second = before
    assert first is not None
    assert second is not None
    if _simple(first) and not second.linkable:
        inner, source, own = [first], root.inputs[1], [root.inputs[0]]
    elif _simple(second) and not first.linkable:
        inner, source, own = [second], root.inputs[0], [root.inputs[1]]
    elif _simple(first) and _simple(second) and first is not second:
        inner, source, own = [first, second], first.inputs[0], root.inputs
    else:
        return []
    if any(node.inputs[0] != source for node in inner) or source not in producers:
        return []
    if any(counts[name] != 1 for name in own):
        return []
    _prepend(root, inner, source)
    counts[source] -= 1
    return inner


def _simple(node: Node | None) -> bool:
    return node is not None and node.linkable and len(node.inputs) == 1 and len(node.outputs) == 1


def _prepend(root: Node, inner: list[Node], source: str) -> None:
    for node in inner:
        root.operations = node.operations + root.operations
        root.weight_bytes += node.weight_bytes
    root.inputs = [source]


def link(draft: Draft) -> None:
    """Makes an elementwise node the last lines of the kernel that writes its first input.

    That input must be read by nothing else, and the other inputs must exist when the kernel runs.
    """
    uses = _uses(draft.nodes)
    ready = set(draft.inputs)
    gone: set[int] = set()
    for node in draft.nodes:
        if id(node) in gone:
            continue
        ready.update(node.outputs)
        while (following := _linked(node, uses, ready, draft)) is not None:
            node.linked += following.inputs[1:] + following.linked
            node.absorb(following)
            gone.add(id(following))
            ready.update(node.outputs)
    draft.nodes = [node for node in draft.nodes if id(node) not in gone]


def _linked(node: Node, uses: _Uses, ready: set[str], draft: Draft) -> Node | None:
    """Returns the node that can be linked to a node, None if there is none."""
    if len(node.outputs) != 1 or node.outputs[0] in draft.outputs:
        return None
    following = uses[node.outputs[0]]
    if len(following) != 1 or following[0][0] != 0:
        return None
    other = following[0][1]
    return other if other.linkable and ready.issuperset(other.inputs) else None


def _uses(nodes: list[Node]) -> _Uses:
    """Returns who reads a value, and as which input."""
    uses: _Uses = defaultdict(list)
    for node in nodes:
        for position, name in enumerate(node.inputs):
            uses[name].append((position, node))
    return uses
