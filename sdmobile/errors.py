"""Errors that a user can act on, and the exit code of each."""

from __future__ import annotations

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_BELOW_THRESHOLD = 3
EXIT_CHECKPOINT = 4
EXIT_UNSUPPORTED = 5
EXIT_OUTPUT = 6
EXIT_RESOURCES = 7
EXIT_MISSING = 8
EXIT_COMPONENT = 9
EXIT_INTERRUPTED = 130


class SdmobileError(Exception):
    """A rule that the input breaks, the value that breaks it and what to do about it.

    Args:
        rule: what must hold, as a sentence without a full stop.
        value: what was found instead.
        fix: the command or change that helps.
    """

    exit_code = EXIT_UNEXPECTED

    def __init__(self, rule: str, value: object = None, fix: str | None = None) -> None:
        self.rule = rule
        self.value = None if value is None else str(value)
        self.fix = fix
        super().__init__(self.message())

    def message(self) -> str:
        """Returns rule, value and fix as one line."""
        text = self.rule if self.value is None else f"{self.rule}: {self.value}"
        return text if self.fix is None else f"{text}. {self.fix}"

    def to_json(self) -> dict[str, object]:
        """Returns the error as the JSON object that worker processes pass to their parent."""
        return {"rule": self.rule, "value": self.value, "fix": self.fix, "exit_code": self.exit_code}


class UsageError(SdmobileError):
    """An option or environment variable that means nothing."""

    exit_code = EXIT_USAGE


class ParityError(SdmobileError):
    """An exported file differs from the float32 reference by more than the threshold."""

    exit_code = EXIT_BELOW_THRESHOLD


class CheckpointError(SdmobileError):
    """A checkpoint is missing, truncated, corrupt or holds non-finite weights."""

    exit_code = EXIT_CHECKPOINT


class UnsupportedError(SdmobileError):
    """An architecture, target, device or operation that sdmobile does not support."""

    exit_code = EXIT_UNSUPPORTED


class OutputError(SdmobileError):
    """The output exists already or cannot be written."""

    exit_code = EXIT_OUTPUT


class ResourceError(SdmobileError):
    """Too little disk space or memory."""

    exit_code = EXIT_RESOURCES


class MissingDependencyError(SdmobileError):
    """A library or program that the command needs is not installed."""

    exit_code = EXIT_MISSING


class ComponentError(SdmobileError):
    """The process that exported one component failed or was killed."""

    exit_code = EXIT_COMPONENT
