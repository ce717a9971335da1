"""What can go wrong before a lint can say anything."""

from __future__ import annotations

from sdmobile.errors import EXIT_CHECKPOINT, SdmobileError


class LintInputError(SdmobileError):
    """The file is missing, truncated or of another format."""

    exit_code = EXIT_CHECKPOINT
