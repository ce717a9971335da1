"""What the components of a bundle need in memory, whether an app may use that much, and what would help.

Counted are weights and intermediate tensors. Not counted are the app itself, compiled kernels and what a driver keeps.
On iPhones it is not published which part of a model on the Neural Engine counts towards the app's own limit; here all
of it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sdmobile.basics.words import gigabytes
from sdmobile.device_profiles.model import Fact
from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.kernels import Kernel
from sdmobile.prediction.memory import MemoryPlan, Storage, plan_graph

LoadingPlan = Literal["all at once", "one at a time"]
PALETTE_BITS = 6
FEWEST_BITS = 8.5
"""Stored bits per number above which 6-bit palettes are worth an advice."""

_SCORES = ("softmax", "matmul", "einsum", "batch_matmul")


@dataclass(frozen=True)
class ComponentMemory:
    """Memory of one component, in bytes.

    Args:
        name: of the component.
        numbers: how many weights it has.
        stored: weights as in the file.
        decompressed: weights at the precision in which the runtime computes, with what it keeps transformed.
        resident: of the two, what the runtime is taken to hold.
        activations: plan of the intermediate tensors.
        scores: bytes of attention scores that are alive where the intermediate tensors need most.
    """

    name: str
    numbers: int
    stored: int
    decompressed: int
    resident: int
    activations: MemoryPlan
    scores: int

    @property
    def peak(self) -> int:
        """Weights in memory and the arena."""
        return self.resident + self.activations.arena


@dataclass(frozen=True)
class Advice:
    """A change, and what would be needed with it.

    Args:
        text: the change.
        needed: bytes with it.
        core_ml: whether only Core ML's files can be changed so.
    """

    text: str
    needed: int
    core_ml: bool = False


@dataclass(frozen=True)
class BudgetCheck:
    """Whether a bundle fits the memory that an app may use.

    Args:
        needed: bytes for the loading plan.
        allowed: bytes an app may use; None if that is not known.
        loading: the loading plan.
        advice: what would lower the need, the most useful first; empty if the bundle fits.
        source: where `allowed` comes from.
    """

    needed: int
    allowed: int | None
    loading: LoadingPlan
    advice: tuple[Advice, ...]
    source: str

    @property
    def fits(self) -> bool | None:
        """None where it is not known what an app may use."""
        return None if self.allowed is None else self.needed <= self.allowed

    @property
    def sentence(self) -> str:
        """Both numbers in plain words."""
        if self.allowed is None:
            return f"needs {gigabytes(self.needed)}; it is not known how much an app may use"
        return f"needs {gigabytes(self.needed)}, an app may use {gigabytes(self.allowed)}"

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object; every need in it is predicted."""
        return {
            "predicted": True,
            "loading": self.loading,
            "needed_bytes": self.needed,
            "allowed_bytes": self.allowed,
            "fits": self.fits,
            "sentence": self.sentence,
            "advice": [{"text": advice.text, "needed_bytes": advice.needed} for advice in self.advice],
            "source": self.source,
        }


def component_memory(
    name: str,
    graph: FileGraph,
    storage: Storage,
    weights: Literal["stored", "decompressed"],
    kernels: Sequence[Kernel] | None = None,
) -> ComponentMemory:
    """Returns what one component needs.

    Args:
        name: of the component.
        graph: of its file.
        storage: how the runtime keeps tensors.
        weights: whether the runtime holds them as stored or decompressed.
        kernels: what the runtime launches; gives the tensors that never reach memory and transformed weights.
    """
    constants = [tensor for tensor in graph.tensors.values() if tensor.constant]
    stored = sum(tensor.stored_bytes for tensor in constants)
    # A blob that two names share is stored once and held once.
    held = [tensor for tensor in constants if tensor.stored_bytes]
    decompressed = sum(storage.bytes_of(tensor) for tensor in held) + _transformed(graph, storage, kernels or ())
    activations = plan_graph(graph, storage, kernels)
    return ComponentMemory(
        name=name,
        numbers=sum(tensor.elements for tensor in held),
        stored=stored,
        decompressed=decompressed,
        resident=stored if weights == "stored" else decompressed,
        activations=activations,
        scores=_score_bytes(graph, activations),
    )


def needed(components: Sequence[ComponentMemory], loading: LoadingPlan) -> int:
    """Returns the peak in bytes: of the sum, as every runtime keeps its arena, or of the largest component."""
    peaks = [component.peak for component in components]
    return sum(peaks) if loading == "all at once" else max(peaks, default=0)


def check_budget(components: Sequence[ComponentMemory], allowed: Fact | None, loading: LoadingPlan) -> BudgetCheck:
    """Compares what is needed with what an app may use.

    Args:
        components: of the bundle.
        allowed: bytes an app may use, in unit "GB", "MB" or "bytes"; None or without a value if not known.
        loading: how the app loads the components.
    """
    total = needed(components, loading)
    limit = allowed_bytes(allowed)
    fits = limit is not None and total <= limit
    advice = () if fits else tuple(sorted(_advice(components, loading), key=lambda item: item.needed))
    source = "no profile names it" if allowed is None else allowed.source
    return BudgetCheck(total, limit, loading, advice, source)


def allowed_bytes(fact: Fact | None) -> int | None:
    """Returns a fact about memory in bytes, None where it is not known."""
    if fact is None or fact.value is None:
        return None
    return int(float(fact.value) * {"GB": 1e9, "MB": 1e6, "bytes": 1}[fact.unit])


def _advice(components: Sequence[ComponentMemory], loading: LoadingPlan) -> Iterator[Advice]:
    total = needed(components, loading)
    if loading == "all at once" and len(components) > 1:
        yield Advice("load one component at a time", needed(components, "one at a time"))
    changes: tuple[tuple[str, Callable[[ComponentMemory], int], bool], ...] = (
        (f"store weights as {PALETTE_BITS}-bit palettes", _with_palettes, True),
        ("compute attention in blocks of queries", lambda component: component.peak - component.scores, False),
    )
    for text, changed, core_ml in changes:
        peaks = [changed(component) for component in components]
        after = sum(peaks) if loading == "all at once" else max(peaks, default=0)
        if after < total:
            yield Advice(text, after, core_ml)
    if loading == "one at a time" and components:
        largest = max(components, key=lambda component: component.peak)
        others = [component.peak for component in components if component is not largest]
        halves = largest.resident // 2 + largest.activations.arena
        yield Advice(f"split {largest.name} into two chunks, loaded in turn", max([halves, *others]), True)


def _with_palettes(component: ComponentMemory) -> int:
    bits = 8 * component.stored / component.numbers if component.numbers else 0
    palettes = component.numbers * PALETTE_BITS // 8
    return component.activations.arena + (
        min(component.resident, palettes) if bits > FEWEST_BITS else component.resident
    )


def _transformed(graph: FileGraph, storage: Storage, kernels: Sequence[Kernel]) -> int:
    """Bytes that Winograd's transformed weights take beyond the plain ones."""
    extra = 0
    for kernel in kernels:
        if kernel.category == "winograd":
            names = {name for index in kernel.operations for name in graph.operations[index].inputs}
            plain = sum(storage.bytes_of(graph.tensors[name]) for name in names if graph.tensors[name].constant)
            extra += max(0, kernel.weight_bytes - plain)
    return extra


def _score_bytes(graph: FileGraph, plan: MemoryPlan) -> int:
    """Bytes of products that a softmax reads or writes, alive at the step that needs most."""
    scores: set[str] = set()
    for operation in graph.operations:
        if operation.kind == "softmax":
            scores.update((*operation.inputs, *operation.outputs))
    made = {name: operation.kind for operation in graph.operations for name in operation.outputs}
    alive = (usage for usage in plan.alive(plan.peak_step) if usage.name in scores)
    return sum(usage.size for usage in alive if made.get(usage.name) in _SCORES)
