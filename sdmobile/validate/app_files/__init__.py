"""Checks of what an app reads beside the models, against the checkpoint: manifest, tables, noise, metadata, tokenizer.

Each file is read from the bundle as an app does, and compared with what the checkpoint says; what the bundle says about
itself is never taken for the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.basics.words import describe
from sdmobile.validate.checks import ExtraCheck, Status

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.recording import Recording
    from sdmobile.validate.checks import Checker

WHERE = "bundle"
_SHOWN = 5
Findings = tuple[list[str], Mapping[str, float]]
"""One sentence for each thing that is wrong, and numbers of what was compared."""
Read = Callable[["Bundle", "Checkpoint", "PipelineSpec"], "Findings | None"]
"""Compares one file; None where a bundle of its target and family has no such file."""
Compare = Callable[[Mapping[str, Any], "Bundle", "Checkpoint", "PipelineSpec"], Findings]
"""Compares the content of a JSON file."""


def app_file_checkers(checkpoint: Checkpoint, spec: PipelineSpec) -> dict[str, Checker]:
    """Returns a checker for each thing that an app reads, by name.

    Args:
        checkpoint: the reference.
        spec: its pipeline, of the checkpoint alone.
    """
    from sdmobile.validate.app_files.manifest import manifest_findings
    from sdmobile.validate.app_files.metadata import metadata_findings, noise_findings
    from sdmobile.validate.app_files.tables import table_findings
    from sdmobile.validate.app_files.tokenizer import tokenizer_findings

    documents: dict[str, Compare] = {
        "scheduler.json": table_findings,
        "noise_golden.json": noise_findings,
        "metadata.json": metadata_findings,
    }
    reads: dict[str, Read] = {
        "manifest": manifest_findings,
        "tokenizer": tokenizer_findings,
        **{name: _of_document(name, compare) for name, compare in documents.items()},
    }
    return {name: _checker(name, read, checkpoint, spec) for name, read in reads.items()}


def _of_document(name: str, compare: Compare) -> Read:
    from sdmobile.validate.app_files.comparison import app_document

    def read(bundle: Bundle, checkpoint: Checkpoint, spec: PipelineSpec) -> Findings | None:
        document = app_document(bundle, checkpoint.family, name)
        if document is None:
            return None
        return ([document], {}) if isinstance(document, str) else compare(document, bundle, checkpoint, spec)

    return read


def _checker(name: str, read: Read, checkpoint: Checkpoint, spec: PipelineSpec) -> Checker:
    def check(bundle: Bundle, _components: Sequence[str], _recording: Recording) -> list[ExtraCheck]:
        try:
            result = read(bundle, checkpoint, spec)
        except Exception as error:  # whatever a damaged file makes of code that reads it
            return [ExtraCheck(name, WHERE, Status.FAILED, reason=f"it could not be read: {describe(error)}")]
        if result is None:
            return []
        findings, figures = result
        more = len(findings) - _SHOWN
        reason = f"{len(findings)} things are not as the checkpoint has them" if more > 0 else None
        status = Status.FAILED if findings else Status.PASSED
        return [ExtraCheck(name, WHERE, status, reason=reason, findings=tuple(findings[:_SHOWN]), figures=figures)]

    return check
