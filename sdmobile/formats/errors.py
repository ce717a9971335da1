"""What can go wrong when a file is read."""

from __future__ import annotations

from sdmobile.errors import EXIT_CHECKPOINT, SdmobileError


class FormatError(SdmobileError):
    """The file is missing, truncated or of another format."""

    exit_code = EXIT_CHECKPOINT
