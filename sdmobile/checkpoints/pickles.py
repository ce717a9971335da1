"""Read pickled weight files without ever executing what is in them.

A pickle names functions and classes and calls them. Here a name becomes one of the few functions that rebuild a tensor
(`_KNOWN`), or else an inert stub: an object that takes any arguments and does nothing. No module is imported by a name
of the file.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.headers import TensorInfo, check_readable
from sdmobile.errors import CheckpointError, MissingDependencyError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_RULE = "a pickled checkpoint must hold tensors only: its code is never executed"
_SHOWN = 4
# Names that no tool writes into a checkpoint: a file that asks for them was made to do harm.
_HOSTILE = frozenset(
    (
        "os",
        "posix",
        "nt",
        "subprocess",
        "sys",
        "shutil",
        "socket",
        "runpy",
        "importlib",
        "pty",
        "ctypes",
        "code",
        "pickle",
        "commands",  # as Python 2, and with it torch.save, calls subprocess
        "popen2",
    )
)
_HOSTILE_BUILTINS = frozenset(("eval", "exec", "compile", "open", "__import__", "getattr", "setattr", "breakpoint"))


class Stub:
    """What stands for an object of a class that is not known: it keeps nothing and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Stub:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Takes an item of what would be a list."""

    def extend(self, values: Any) -> None:
        """Takes items of what would be a list."""

    def add(self, value: Any) -> None:
        """Takes an item of what would be a set."""


class Parameters(dict[str, Any]):
    """What stands for torch's ParameterDict, in which older tools kept learned words: its tensors by name."""

    def __setstate__(self, state: Any) -> None:
        inner = state.get("_parameters") if isinstance(state, dict) else None
        self.update(inner if isinstance(inner, dict) else {})


def load_pickle(path: Path, device: str | None = None) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Loads the tensors of a .bin or .ckpt, mapped into memory where the format allows it.

    Args:
        path: the file.
        device: "meta" for shapes and types only.

    Returns:
        Tensors by name, and notes on what was skipped.

    Raises:
        CheckpointError: the file is missing or corrupt, holds no tensors, or asks for what would do harm.
    """
    state, notes = load_state(path, device)
    return _tensors(path, state), notes


def load_state(path: Path, device: str | None = None) -> tuple[Any, list[str]]:
    """Loads what a pickled file holds: tensors, plain values, and inert stubs in the place of anything else.

    Arguments, notes and errors as `load_pickle`.

    Raises:
        MissingDependencyError: PyTorch, which wrote it, is not installed.
    """
    check_readable(path)
    try:
        import torch
    except ImportError as error:
        fix = "Run: pip install 'sdmobile[torch]', or convert the file to safetensors."
        raise MissingDependencyError("a pickled file is read by PyTorch", path, fix) from error
    zipped = zipfile.is_zipfile(path)
    _refuse_scripts(path, zipped)
    stubs: dict[str, type[Stub]] = {}
    # The older format without an archive is left to torch's own reader, which knows no stubs.
    options: dict[str, Any] = {"weights_only": False, "pickle_module": _reader(path, stubs)}
    options = options if zipped else {"weights_only": True}
    try:
        state = torch.load(path, map_location=device or "cpu", mmap=zipped, **options)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        value = f"{path}: {_first_sentence(error)}"
        raise CheckpointError(_RULE, value, "Convert it to safetensors where you trust it.") from error
    except Exception as error:  # torch.load raises many types on a damaged file
        value = f"{path}: {type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError("a pickled checkpoint must be complete", value) from error
    return state, _notes(stubs)


def _first_sentence(error: Exception) -> str:
    """Returns what torch's reader did not take; its own advice goes on for lines."""
    text = " ".join(str(error).split())
    found = re.search(r"GLOBAL \S+ was not an allowed global|[^.]*must be \S+ to load", text)
    return found[0] if found else text[:200]


def _reader(path: Path, stubs: dict[str, type[Stub]]) -> Any:
    """Returns what torch reads the file with, in the place of the module `pickle`.

    Args:
        path: for messages.
        stubs: gets the classes that were replaced, by their full names.
    """

    class Reader(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str) -> Any:
            full = f"{module_name}.{global_name}"
            if full in (known := _known()):
                return known[full]
            root = module_name.partition(".")[0]
            if root in _HOSTILE or (root in ("builtins", "__builtin__") and global_name in _HOSTILE_BUILTINS):
                raise CheckpointError(_RULE, f"{path} asks for {full}", "Do not use this file.")
            return stubs.setdefault(full, type("Stub", (Stub,), {}))

    def load(stream: Any, **options: Any) -> Any:
        return Reader(stream, **options).load()

    return SimpleNamespace(__name__="pickle", Unpickler=Reader, load=load)


def _known() -> dict[str, Any]:
    """Returns the only names of a pickle that mean something here."""
    import torch
    from torch import _utils

    functions = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    dtypes = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    return {
        "collections.OrderedDict": OrderedDict,
        "builtins.set": set,
        "__builtin__.set": set,
        "torch.Size": torch.Size,
        "torch.serialization._get_layout": Stub,
        "torch.nn.modules.container.ParameterDict": Parameters,
        **{f"torch._utils.{name}": getattr(_utils, name) for name in functions},
        **{f"torch.{name}": getattr(torch, name) for name in dtypes},
    }


def _refuse_scripts(path: Path, zipped: bool) -> None:
    """Refuses TorchScript archives, which hold a program; torch would hand them to another loader."""
    if not zipped:
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError("a pickled checkpoint must be complete", f"{path}: {error}") from error
    if "constants.pkl" in names:
        raise CheckpointError(_RULE, f"{path} is a TorchScript program", "Save its state_dict as safetensors.")


def read_pickle_header(path: Path) -> tuple[dict[str, TensorInfo], list[str]]:
    """Returns shapes and types of the tensors in a pickled file, like read_header for safetensors, and notes."""
    tensors, notes = load_pickle(path, device="meta")
    infos = {
        name: TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."), path, stored=name)
        for name, value in tensors.items()
    }
    return infos, notes


def _tensors(path: Path, state: Any) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    rule = "a pickled checkpoint must hold a dictionary of tensors"
    if not isinstance(state, dict):
        raise CheckpointError(rule, f"{path}: {type(state).__name__}")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(rule, f"{path}: none found")
    return tensors


def _notes(stubs: dict[str, type[Stub]]) -> list[str]:
    if not stubs:
        return []
    more = f" and {len(stubs) - _SHOWN} more" if len(stubs) > _SHOWN else ""
    return [f"objects that are no tensors were skipped, not run: {', '.join(list(stubs)[:_SHOWN])}{more}"]
