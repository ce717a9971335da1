"""Applies rules to a captured graph.

    captured program ──▶ for each rule, in order: match ─▶ check ─▶ trace the replacement ─▶ splice ──▶ fold ──▶ lint
                                                             └─▶ record why not                          ──▶ compare

A replacement is traced to the same ATen operators that torch.export yields, so every backend takes the result.
What depends on weights alone is folded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map

from sdmobile.errors import ParityError
from sdmobile.rewrites.folding import fold
from sdmobile.rewrites.program import Draft, fresh_value, run
from sdmobile.rewrites.rule import Exactness, Outcome, RewriteRecord, Rule, source_module

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

    from sdmobile.rewrites.program import Draft
    from sdmobile.rewrites.rule import Match, Rule


# What a new node inherits from the node it replaces, so that records and files can still name the source module.
PROVENANCE = ("nn_module_stack", "stack_trace", "torch_fn")
_aten = torch.ops.aten
# What tracing puts around a tensor that the replacement itself makes.
_IDENTITIES = (_aten.lift_fresh_copy.default, _aten.detach.default, _aten.detach_.default, _aten.alias.default)
_PRODUCTS = (_aten.mul.Tensor, _aten.mul.Scalar)


class Tracer:
    """Traces replacements into graphs of ATen operators; equal calls of a rule are traced once."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[int, str], GraphModule] = {}
        self._first: dict[tuple[int, str], GraphModule] = {}  # of those that differ in strides alone

    def trace(self, rule: Rule, match: Match) -> GraphModule:
        """Returns the graph of `rule.replacement` for a match; its placeholders are the match's distinct tensors."""
        if rule.unique:
            return _trace(rule, match)
        key = (id(rule), _key(match))
        if key not in self._bodies:
            self._bodies[key] = _trace(rule, match)
            alike = (id(rule), _key(match, strides=False))
            _share_constants(self._bodies[key], self._first.setdefault(alike, self._bodies[key]))
        return self._bodies[key]


def _key(match: Match, strides: bool = True) -> str:
    """Returns what the traced graph depends on: shapes, strides, types, which operands are the same, options."""
    distinct = operands(match)
    tensors = [(distinct.index(t), _shape(t, strides)) if t is not None else None for t in match.tensors]
    return f"{tensors} {sorted(match.options.items())}"


def _shape(node: Node, strides: bool) -> tuple[Any, ...]:
    value = node.meta["val"]
    return tuple(value.shape), value.stride() if strides else None, value.dtype


def _share_constants(body: GraphModule, other: GraphModule) -> None:
    """Lets a body hold the very tensors of another one where they are equal, so that a program keeps them once."""
    names = [str(node.target) for node in other.graph.find_nodes(op="get_attr")]
    for node in body.graph.find_nodes(op="get_attr") if body is not other else ():
        own = getattr(body, str(node.target))
        for theirs in (getattr(other, name) for name in names):
            if own.dtype == theirs.dtype and torch.equal(own, theirs):
                setattr(body, str(node.target), theirs)


def operands(match: Match) -> list[Node]:
    """Returns the distinct tensors of a match in order."""
    return list(dict.fromkeys(t for t in match.tensors if t is not None))


def _trace(rule: Rule, match: Match) -> GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    rule.prepare()
    distinct = operands(match)

    def call(*values: torch.Tensor) -> torch.Tensor:
        traced_values = dict(zip(distinct, values, strict=True))
        tensors = (None if t is None else traced_values[t] for t in match.tensors)
        return rule.replacement(*tensors, **match.options)

    # pre_dispatch keeps composite operators such as instance_norm whole, as torch.export does. The nodes' own fake
    # tensors make all values belong to one mode.
    traced = make_fx(call, pre_dispatch=True, tracing_mode="fake", _allow_non_fake_inputs=True)
    with torch.no_grad():
        return traced(*(n.meta["val"] for n in distinct))


def splice(draft: Draft, match: Match, body: GraphModule, name: str, shared: bool = True) -> tuple[Node, list[Node]]:
    """Puts a traced body in the place of a match's root; returns the node that has its value now, and all new nodes.

    Args:
        draft: the program under change.
        match: what is replaced.
        body: from `Tracer.trace`.
        name: prefix of the names of constants that the replacement made.
        shared: those constants are the same for all copies of the body.
    """
    placeholders = iter(operands(match))
    owners = Owners(draft, match)
    mapped: dict[Node, Node] = {}
    added: list[Node] = []
    result = match.root
    for inner in body.graph.nodes:
        if inner.op == "placeholder":
            mapped[inner] = next(placeholders)
        elif inner.op == "get_attr":
            constant = getattr(body, str(inner.target))
            mapped[inner] = draft.add_constant(f"{name}_constant", constant if shared else constant.clone())
        elif inner.op == "output":
            result = mapped[inner.args[0]]
        elif inner.target in _IDENTITIES:
            mapped[inner] = mapped[inner.args[0]]
        else:
            with draft.graph.inserting_before(match.root):
                mapped[inner] = _copy_node(draft, inner, mapped)
            _inherit(mapped[inner], owners.of(mapped[inner]))
            added.append(mapped[inner])
    draft.replace(match.root, result)
    return result, added


def _copy_node(draft: Draft, inner: Node, mapped: dict[Node, Node]) -> Node:
    """Copies one node of a traced body into the graph, with fake tensors of its own: a body is copied many times."""
    new = draft.graph.node_copy(inner, lambda n: mapped[n])
    mode = draft.fake_mode

    def adopt(value: Any) -> Any:
        return fresh_value(value, mode) if isinstance(value, torch.Tensor) else value

    new.meta = {"val": tree_map(adopt, inner.meta["val"])}
    return new


def _inherit(new: Node, owner: Node) -> None:
    """Gives a new node the provenance of the node whose work it does."""
    new.meta.update({key: owner.meta[key] for key in PROVENANCE if key in owner.meta})


def remap(match: Match, replaced: dict[Node, Node]) -> Match:
    """Returns the match with operands that were replaced meanwhile exchanged for what replaced them."""

    def latest(node: Node) -> Node:
        while node in replaced:
            node = replaced[node]
        return node

    return replace(match, tensors=map_arg(match.tensors, latest))


class Owners:
    """Follows weights through the nodes that come in the place of a match, and says which covered node each belongs to.

    A match may cover several modules: attention takes the four projections around it along. What is computed from the
    weight of one of them, or with it, is named after that one, so that a file still tells whose weight a constant is.

    Args:
        draft: the program under change.
        match: what is replaced.
    """

    def __init__(self, draft: Draft, match: Match) -> None:
        self._root = match.root
        self._weights: dict[Node, Node] = {}
        self._layers: dict[Node, Node] = {}
        weights = draft.weight_names()
        for node in match.covers:
            for operand in node.all_input_nodes:
                if operand not in self._weights and operand.name in weights:
                    self._weights[operand] = node

    def of(self, new: Node) -> Node:
        """Returns the covered node that a new one belongs to; asked of every new node in graph order.

        That is the one that took its weight; also for what is computed from the weight alone, and for the product of
        such a layer's result and a number, which converters fold into the weight. All else belongs to the root.
        """
        inputs = new.all_input_nodes
        sources = {self._weights[node] for node in inputs if node in self._weights}
        if len(sources) == 1:
            owner = sources.pop()
            known = self._weights if all(node in self._weights for node in inputs) else self._layers
            known[new] = owner
            return owner
        if new.target in _PRODUCTS and not isinstance(new.args[1], Node) and inputs[0] in self._layers:
            return self._layers.setdefault(new, self._layers[inputs[0]])
        return self._root


Inputs = Sequence[tuple["Tensor", ...]]


@dataclass(frozen=True)
class RuleCheck:
    """What check mode measured of one rule.

    Args:
        rule: the rule's name.
        psnr_db: least PSNR between the program before and after the rule, over all inputs and outputs, in float32;
            infinite where they are equal.
        bound_db: what the rule promises; None if it changes the function.
        seconds: time of the comparison.
    """

    rule: str
    psnr_db: float
    bound_db: float | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object; a level without bound is null."""
        levels = {name: getattr(self, name) for name in ("psnr_db", "bound_db")}
        finite = {name: value if value is not None and math.isfinite(value) else None for name, value in levels.items()}
        return {**asdict(self), **finite}


@dataclass(frozen=True)
class Rewritten:
    """A rewritten program, what each rule did to each match, and what check mode measured (empty without it)."""

    program: ExportedProgram
    records: tuple[RewriteRecord, ...]
    checks: tuple[RuleCheck, ...] = ()


def rewrite(program: ExportedProgram, rules: Sequence[Rule], check_inputs: Inputs = ()) -> Rewritten:
    """Returns a program with the rules applied in order, and what each rule did.

    Args:
        program: a captured program; it is left as it was (the weights are shared).
        rules: the selected rules, in the order of application.
        check_inputs: turns check mode on: after every rule the program is run on each of these tuples of inputs and
            compared with the program before the rule.

    Raises:
        ParityError: in check mode, a rule broke its own bound.
    """
    records: list[RewriteRecord] = []
    checks: list[RuleCheck] = []
    if not check_inputs:
        draft = Draft(program)
        draft.clean()
        for rule in rules:
            records += _apply(draft, rule)
        return Rewritten(draft.finish(), tuple(records))
    for rule in rules:
        before, (program, rule_records) = program, apply_rule(program, rule)
        records += rule_records
        if check_inputs and any(record.outcome == Outcome.APPLIED for record in rule_records):
            checks.append(compare(rule, before, program, check_inputs))
    return Rewritten(program, tuple(records), tuple(checks))


def apply_rule(program: ExportedProgram, rule: Rule) -> tuple[ExportedProgram, list[RewriteRecord]]:
    """Applies one rule to everything that it matches."""
    draft = Draft(program)
    records = _apply(draft, rule)
    return draft.finish(), records


def _apply(draft: Draft, rule: Rule) -> list[RewriteRecord]:
    """Applies one rule to everything that it matches, and leaves the draft clean."""
    matches, tracer = list(rule.matches(draft.graph)), Tracer()
    if not matches:
        return [RewriteRecord(rule.name, rule.exactness, Outcome.UNMATCHED)]
    records: list[RewriteRecord] = []
    replaced: dict[Node, Node] = {}
    added: dict[str, list[Node]] = {}
    for match in matches:
        current, name, module = remap(match, replaced), match.root.name, source_module(match.root)
        reason = rule.check(current)
        if reason is not None:
            details = rule.details(current) if rule.selective else {}
            records.append(
                RewriteRecord(rule.name, rule.exactness, Outcome.REFUSED, name, module, reason, details=details)
            )
            continue
        removed, details = len(match.covers), rule.details(current)
        records.append(
            RewriteRecord(rule.name, rule.exactness, Outcome.APPLIED, name, module, None, removed, 0, details)
        )
        body = tracer.trace(rule, current)
        replaced[match.root], added[name] = splice(draft, current, body, rule.name, not rule.composite)
        rule.renew(added[name])
    if rule.folds:
        fold(draft, [node for nodes in added.values() for node in nodes], rule.name)
    if replaced:
        draft.clean()
        alive = set(draft.graph.nodes)
        records = [replace(r, added=len(alive.intersection(added.get(r.node or "", ())))) for r in records]
        draft.renew()
    return records


def compare(rule: Rule, before: ExportedProgram, after: ExportedProgram, inputs: Inputs) -> RuleCheck:
    """Runs two programs on the same inputs and holds the rule to its bound.

    Raises:
        ParityError: they differ by more than the rule promises.
    """
    started = time.perf_counter()
    worst = min(agreement(run(before, arguments), run(after, arguments)) for arguments in inputs)
    bound = None if rule.exactness == Exactness.CHANGES_FUNCTION else rule.bound_db
    if bound is not None and not worst >= bound:
        raise ParityError(
            f"the rewrite {rule.name} promises {bound:g} dB in float32",
            f"{worst:.1f} dB",
            f"Export with --without {rule.name}, and report this checkpoint's architecture",
        )
    return RuleCheck(rule.name, worst, bound, time.perf_counter() - started)


def agreement(expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Returns the least PSNR in dB over pairs of outputs; infinite where all are equal."""
    from sdmobile.basics.metrics import psnr

    pairs = [(a.numpy(), b.numpy()) for a, b in zip(expected, outputs, strict=True)]
    return min(math.inf if (a == b).all() else psnr(a, b) for a, b in pairs)
