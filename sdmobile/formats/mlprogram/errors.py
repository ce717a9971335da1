"""What can go wrong when a saved package is read or run."""

from __future__ import annotations

from sdmobile.errors import EXIT_USAGE, SdmobileError, UnsupportedError
from sdmobile.formats.errors import FormatError


class PackageError(FormatError):
    """The package is missing, truncated or not what its format says."""


class InputError(SdmobileError):
    """An input of `predict` has the wrong name, shape or type."""

    exit_code = EXIT_USAGE


class UnsupportedOpError(UnsupportedError):
    """An operation, an attribute or a value of one whose meaning the evaluator does not implement.

    Args:
        op_type: type of the operation, for example "conv".
        op_name: name of the operation in the program.
        reason: the attribute or value and why it cannot be evaluated.
    """

    def __init__(self, op_type: str, op_name: str, reason: str) -> None:
        self.op_type = op_type
        self.op_name = op_name
        self.reason = reason
        super().__init__(
            "The Core ML evaluator runs only operations and attributes that it implements",
            f"{op_type} '{op_name}': {reason}",
            "Export the model without it, or add it to sdmobile/runtimes/mlprogram/ops",
        )
