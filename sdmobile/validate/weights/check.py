"""Every parameter of the checkpoint against the arrays that a bundle stores, and every norm's epsilon.

    parameters of the component ─▶ arrays of its module in the file ─▶ which transform explains them ─▶ exact, or in
    the bounds of the scheme

The reference is the checkpoint as it is opened for the float32 reference; nothing is asked of the rules that rewrote
the graph. One pass over each file; one array is in memory at a time, beside the component's parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.metrics import json_number
from sdmobile.basics.words import describe
from sdmobile.validate.bisect.graph import ModuleNames
from sdmobile.validate.checks import ExtraCheck, Status
from sdmobile.validate.weights.agreement import is_exact, misfits
from sdmobile.validate.weights.diagnosis import diagnose, epsilon_findings, is_identity
from sdmobile.validate.weights.stored import FileConstants, Float, Use
from sdmobile.validate.weights.transforms import Form, Parameter, forms, parameters_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.validate.checks import Checker
    from sdmobile.validate.weights.stored import StoredArray

CHECKER = "weights"
_SHOWN = 5
_KEPT_BYTES = 1 << 16
_WHOLE = 1.0 - 1e-9


class Verdict(str, Enum):
    """What came of one parameter."""

    EXACT = "exact"  # but for the one rounding to the type that it is stored in
    WITHIN = "within its scheme"
    LEFT_OUT = "left out"  # it adds 0 or multiplies by 1
    DIFFERS = "differs"
    MISSING = "missing"

    def __str__(self) -> str:
        return self.value


BAD = (Verdict.DIFFERS, Verdict.MISSING)


@dataclass(frozen=True)
class TensorCheck:
    """One parameter.

    Args:
        parameter: its path in the checkpoint.
        verdict: what came of it.
        stored: names of the arrays in the file that hold it.
        transform: what was done to it, "" for nothing.
        max_error: largest |stored − exact|, None where nothing was compared.
        finding: what is wrong, in words.
    """

    parameter: str
    verdict: Verdict
    stored: tuple[str, ...] = ()
    transform: str = ""
    max_error: float | None = None
    finding: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        error = None if self.max_error is None else json_number(self.max_error)
        return {**vars(self), "verdict": self.verdict.value, "stored": list(self.stored), "max_error": error}


Tell = Callable[[str, int, int], None]


def weights_checker(checkpoint: Checkpoint, tell: Tell | None = None) -> Checker:
    """Returns the checker that compares every stored weight of a bundle with a checkpoint's parameters.

    Args:
        checkpoint: the reference.
        tell: sees (what, done, all).
    """
    return lambda bundle, components, _recording: check_weights(bundle, checkpoint, components, tell)


def check_weights(
    bundle: Bundle, checkpoint: Checkpoint, components: Sequence[str], tell: Tell | None = None
) -> list[ExtraCheck]:
    """Compares the stored weights of components with the checkpoint's parameters.

    Args:
        bundle: what is checked.
        checkpoint: its reference.
        components: canonical names.
        tell: sees (what, done, all).

    Returns:
        One check per component; what could not be read is an error.
    """
    checks = []
    for index, name in enumerate(components):
        if tell is not None:
            tell(f"weights of {name}", index, len(components))
        try:
            checks.append(_check_component(bundle.components[name], bundle.target, checkpoint))
        except Exception as error:
            checks.append(ExtraCheck(CHECKER, name, Status.ERROR, reason=describe(error)))
    return checks


def _check_component(component: BundleComponent, target: str, checkpoint: Checkpoint) -> ExtraCheck:
    from sdmobile.reference.subject import wrapped_component

    started = time.perf_counter()
    module = wrapped_component(checkpoint, target, component.name, component.record)
    parameters = parameters_of(module)
    names = _names(module, parameters)
    constants = read_constants(component, target, names)
    comparison = Comparison(constants, correction_of(component.record))
    tensors = tuple(comparison.check(parameter) for parameter in parameters)
    epsilons = epsilon_findings(module, constants.scalars)
    findings = [*(t.finding for t in tensors if t.finding is not None), *epsilons.faults]
    more = len(findings) - _SHOWN
    figures = {
        "parameters": len(tensors),
        "exact": sum(t.verdict is Verdict.EXACT for t in tensors),
        "elements": sum(parameter.array.size for parameter in parameters),
        "epsilons": epsilons.compared,
        "seconds": round(time.perf_counter() - started, 3),
    }
    wrong = sum(t.verdict in BAD for t in tensors)
    reason = _reason(wrong, len(tensors), len(epsilons.faults), max(0, more)) if findings else None
    return ExtraCheck(
        CHECKER,
        component.name,
        Status.FAILED if findings else Status.PASSED,
        reason=reason,
        findings=tuple(findings[:_SHOWN]),
        figures=figures,
        tensors=tuple(t.to_json() for t in tensors),
    )


def _reason(wrong: int, parameters: int, epsilons: int, more: int) -> str:
    parts = [f"{wrong} of {parameters} parameters are not in the file as the checkpoint has them"] if wrong else []
    parts += [f"{epsilons} norms have another epsilon"] if epsilons else []
    parts += [f"{more} more"] if more else []
    return ", ".join(parts)


def _names(module: nn.Module, parameters: Sequence[Parameter]) -> ModuleNames:
    paths = {name.removeprefix("component.") for name, _ in module.named_modules()} - {"", "component"}
    return ModuleNames(sorted(paths), {parameter.module for parameter in parameters})


def read_constants(component: BundleComponent, target: str, names: ModuleNames) -> FileConstants:
    """Returns what all files of a component store.

    Args:
        component: of the bundle.
        target: of the bundle.
        names: of the component's modules.
    """
    if target == "ios":
        from sdmobile.validate.weights.coreml import read_package as read
    elif target == "android":
        from sdmobile.validate.weights.litert import read_file as read
    else:
        from sdmobile.validate.weights.onnx import read_file as read
    files = [read(part.path, names) for part in component.chain or (component,)]
    return FileConstants(
        tuple(array for file in files for array in file.arrays),
        tuple(scalar for file in files for scalar in file.scalars),
    )


def correction_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the factors that `--correct` put on the compressed weights of modules, as the manifest notes them."""
    details = (record.get("compression") or {}).get("details") or {}
    return dict((details.get("correction") or {}).get("scales") or {})


class Comparison:
    """Looks for parameters among the arrays of a component's files.

    Args:
        constants: of the files.
        correction: factors on compressed weights, by module.
    """

    def __init__(self, constants: FileConstants, correction: Mapping[str, float]) -> None:
        self._correction = correction
        self._powers: dict[str, set[float]] = {}
        for scalar in constants.scalars:
            if 0 < scalar.value < 1 and math.frexp(scalar.value)[0] == 0.5:
                for module in scalar.modules:
                    self._powers.setdefault(module, set()).add(scalar.value)
        self._placeless = [array for array in constants.arrays if not array.modules]
        self._by_module: dict[str, list[StoredArray]] = {}
        for array in constants.arrays:
            for module in array.modules:
                self._by_module.setdefault(module, []).append(array)
        self._small: dict[int, NDArray[Any]] = {}
        self._last: tuple[StoredArray, NDArray[Any]] | None = None

    def check(self, parameter: Parameter) -> TensorCheck:
        """Returns what came of one parameter, as it is or as the converter may have expanded it."""
        found = self._check(parameter)
        if found.verdict is not Verdict.MISSING or parameter.expanded is None:
            return found
        other = self._check(replace(parameter, array=parameter.expanded, expanded=None))
        return found if other.verdict in BAD else replace(other, transform="its rows, looked up")

    def _check(self, parameter: Parameter) -> TensorCheck:
        parameter = self._with_powers(parameter)
        pieces: list[tuple[Form, StoredArray, TensorCheck]] = []
        for stored in self._candidates(parameter):
            for form in forms(parameter, stored):
                check = self._compared(parameter, stored, form)
                if check is None:
                    continue
                if form.part == (0.0, 1.0):
                    return check
                pieces.append((form, stored, check))
                break
        if covered(form.part for form, _, _ in pieces):
            return _joined(parameter, [check for _, _, check in pieces])
        own = [stored for stored in self._by_module.get(parameter.module, []) if stored.size == parameter.array.size]
        own = sorted((stored for stored in own if stored.may_be(parameter.name)), key=lambda s: Use.OTHER in s.uses)
        if not own and is_identity(parameter):
            return TensorCheck(parameter.name, Verdict.LEFT_OUT)
        finding = diagnose(parameter, own, self._read, self._elsewhere(parameter))
        return TensorCheck(
            parameter.name, Verdict.DIFFERS if own else Verdict.MISSING, tuple(s.name for s in own), finding=finding
        )

    def _with_powers(self, parameter: Parameter) -> Parameter:
        """Adds the powers of two that the file takes out again around the parameter's module, as attention does."""
        around = parameter.module.rpartition(".")[0]
        return replace(parameter, factors=(*parameter.factors, *sorted(self._powers.get(around, ()))))

    def _candidates(self, parameter: Parameter) -> Iterable[StoredArray]:
        """Yields arrays of the parameter's module, of the modules around it, then those of unknown origin.

        A matrix whose module has an array of its size is that one or none.
        """
        path = parameter.module
        vector = parameter.array.ndim == 1
        while path:
            own = [s for s in self._by_module.get(path, []) if not vector or s.may_be(parameter.name)]
            yield from own
            if path == parameter.module and not vector and any(s.size == parameter.array.size for s in own):
                return
            path = path.rpartition(".")[0]
        yield from (s for s in self._placeless if not vector or s.may_be(parameter.name))

    def _compared(self, parameter: Parameter, stored: StoredArray, form: Form) -> TensorCheck | None:
        """Returns the check of a parameter that an array holds under a transform, None if it does not."""
        values, exact = self._read(stored), form.values
        if not isinstance(stored.coding, Float) and parameter.module in self._correction:
            exact = exact * self._correction[parameter.module]
        if misfits(values, exact, stored.coding).any():
            return None
        verdict = Verdict.EXACT if is_exact(values, exact, stored.coding) else Verdict.WITHIN
        error = float(np.abs(values - exact).max(initial=0.0))
        return TensorCheck(parameter.name, verdict, (stored.name,), form.transform, error)

    def _elsewhere(self, parameter: Parameter) -> list[StoredArray]:
        """Returns the arrays of the parameter's size that lie with other modules."""
        every = (array for arrays in self._by_module.values() for array in arrays)
        return [s for s in every if s.size == parameter.array.size and parameter.module not in s.modules]

    def _read(self, stored: StoredArray) -> NDArray[Any]:
        """Returns the values of an array; the last one is kept, and small ones."""
        if self._last is not None and self._last[0] is stored:
            return self._last[1]
        if id(stored) in self._small:
            return self._small[id(stored)]
        values = stored.read()
        if values.nbytes <= _KEPT_BYTES:
            self._small[id(stored)] = values
        self._last = (stored, values)
        return values


def covered(parts: Iterable[tuple[float, float]]) -> bool:
    """Whether pieces of a parameter make up the whole of it."""
    reached = 0.0
    for start, end in sorted(parts):
        if start > reached + 1e-9:
            return False
        reached = max(reached, end)
    return reached >= _WHOLE


def _joined(parameter: Parameter, checks: Sequence[TensorCheck]) -> TensorCheck:
    verdict = Verdict.EXACT if all(c.verdict is Verdict.EXACT for c in checks) else Verdict.WITHIN
    return TensorCheck(
        parameter.name,
        verdict,
        tuple(name for check in checks for name in check.stored),
        "; ".join(dict.fromkeys(check.transform for check in checks)),
        max(check.max_error or 0.0 for check in checks),
    )
