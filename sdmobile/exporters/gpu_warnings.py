"""What an export warns of: operators that the Android GPU is predicted to refuse or to compute wrongly.

The finished file is read, whichever way it was written, so that a change of the lint makes no structure stale.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.device_profiles.runtime_rules.tflite_operators import GPU_RUNTIMES

if TYPE_CHECKING:
    from sdmobile.lint.report import Finding


def gpu_warnings(file: Path, runtime: str | None = None) -> tuple[str, ...]:
    """Returns one sentence for each operator and rule by which the Android GPU is predicted to refuse a file.

    Args:
        file: the `.tflite` file.
        runtime: the device's; nothing is said if it is none of a GPU.
    """
    from sdmobile.lint import lint_file

    if runtime not in (None, *GPU_RUNTIMES):
        return ()
    objections = [finding for finding in lint_file(file).findings if finding.severity != "warning"]
    groups: dict[tuple[str | None, str], list[Finding]] = {}
    for finding in objections:
        groups.setdefault((finding.op, finding.rule), []).append(finding)
    return tuple(_warning(findings) for findings in groups.values())


def _warning(findings: list[Finding]) -> str:
    first, count = findings[0], len(findings)
    where = f" (in {first.module}{' and others' if count > 1 else ''})" if first.module else ""
    verb = "compute wrongly" if first.severity == "miscomputed" else "refuse"
    return f"the Android GPU is predicted to {verb} {count} {first.op or 'file'}{where}: {first.detail}. {first.fix}"
