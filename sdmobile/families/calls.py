"""The calls of a bundle's files for one picture, in order: from them the code in its model card is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.basics.words import title
from sdmobile.families.component import Role
from sdmobile.formats.bundle.contracts import OPAQUE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdmobile.families.family import Family

_WHEN = {
    Role.TEXT_ENCODER: "once per text",
    Role.DENOISER: "at every step",
    Role.CONTROL: "at every step",
    Role.PLUGIN: "once per picture",
    Role.DECODER: "once per picture, at the end",
    Role.IMAGE_ENCODER: "once per picture that is put in",
}


@dataclass(frozen=True)
class Tensor:
    """An input or output of a file.

    Args:
        name: in the file.
        shape: in the file.
        dtype: at the file's interface.
        remark: shape and meaning, for a comment of one line.
        variable: the code's name of an input that the app gives, or of an output that it takes; empty for what one
            file passes on to another.
        sources: the code's names of the calls that returned it, where other files did; of several it is the sum.
        rows: how often it is repeated along the first axis, from that file to this one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    remark: str
    variable: str = ""
    sources: tuple[str, ...] = ()
    rows: int = 1


@dataclass(frozen=True)
class Call:
    """The call of one file.

    Args:
        variable: the code's name of its results.
        remark: what it is for, for a comment of one line.
        file, signature: names in the bundle.
        inputs, outputs: in order.
        given: the inputs that the app gives and no call before this one took.
    """

    variable: str
    remark: str
    file: str
    signature: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    given: tuple[Tensor, ...]


_Returned = tuple[tuple[str, ...], tuple[int, ...]]
"""The calls whose outputs of one name make up an input, and the shape of each."""


def files_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the contracts of a component's files in order, of one or of the parts it was cut into.

    Args:
        record: the component's entry in manifest.json.
    """
    return list(record.get("chain") or [record["contract"]])


def calls_of(manifest: Mapping[str, Any], family: Family) -> list[Call]:
    """Returns the calls of all files of a bundle, components in the order of its manifest.

    Args:
        manifest: the bundle's manifest.json.
        family: the bundle's.
    """
    names = _Names()
    calls: list[Call] = []
    added: dict[str, _Returned] = {}  # by control networks
    for component, record in manifest["components"].items():
        role, files = family.component(component).role, files_of(record)
        returned = dict(added) if role is Role.DENOISER else {}
        for number, contract in enumerate(files, 1):
            part = f", part {number} of {len(files)}" if len(files) > 1 else ""
            variable = names.fresh(f"{component}_{number}" if part else component)
            known = set(names.given)
            inputs = tuple(_input(spec, returned, names) for spec in contract["inputs"])
            on = {spec["name"]: ((variable,), tuple(spec["shape"])) for spec in _passed_on(contract, role)}
            outputs = tuple(
                _tensor(spec, variable="" if spec["name"] in on else names.fresh(spec["name"]))
                for spec in contract["outputs"]
            )
            given = tuple(one for one in inputs if one.variable and one.variable not in known)
            remark = f"{title(component)}{part}: {_WHEN[role]}"
            calls.append(Call(variable, remark, contract["file_name"], contract["signature"], inputs, outputs, given))
            returned |= on
            if role in (Role.CONTROL, Role.PLUGIN):
                added |= {name: _joined(added.get(name), one) for name, one in on.items()}
    return calls


def _joined(before: _Returned | None, one: _Returned) -> _Returned:
    return one if before is None else ((*before[0], *one[0]), one[1])


def _passed_on(contract: Mapping[str, Any], role: Role) -> Iterator[Mapping[str, Any]]:
    """Yields the outputs that files after it take under the same name."""
    every = role in (Role.CONTROL, Role.PLUGIN)
    yield from (spec for spec in contract["outputs"] if every or spec["layout"] == OPAQUE)


def _input(spec: Mapping[str, Any], returned: Mapping[str, _Returned], names: _Names) -> Tensor:
    tensor = _tensor(spec)
    if tensor.name not in returned:
        return _tensor(spec, variable=names.of(tensor))
    sources, shape = returned[tensor.name]
    return _tensor(spec, sources=sources, rows=max(1, tensor.shape[0] // shape[0]) if tensor.shape and shape else 1)


def _tensor(spec: Mapping[str, Any], **where: Any) -> Tensor:
    shape = tuple(spec["shape"])
    meaning = " ".join(str(spec["description"]).split())
    return Tensor(spec["name"], shape, spec["dtype"], f"{list(shape)} {meaning}", **where)


class _Names:
    """Gives out the code's names: one per call, and one per input, which files that take the same share."""

    def __init__(self) -> None:
        self.given: dict[str, Tensor | None] = {}

    def fresh(self, name: str) -> str:
        """Returns a name of its own."""
        plain = "_".join(re.findall(r"[A-Za-z0-9]+", name)) or "value"
        chosen = plain if plain[0].isalpha() else f"value_{plain}"
        while chosen in self.given:
            chosen += "_in"
        self.given[chosen] = None
        return chosen

    def of(self, tensor: Tensor) -> str:
        """Returns the name of an input, the same for every input that is the same."""
        for name, other in self.given.items():
            if other == tensor:
                return name
        name = self.fresh(tensor.name)
        self.given[name] = tensor
        return name
