"""What a converter raises, as an error that names component and stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdmobile.basics.files import has_room, is_disk_full, reason_of
from sdmobile.errors import ComponentError, MissingDependencyError, ResourceError, SdmobileError

if TYPE_CHECKING:
    from sdmobile.exporters.job import ExportJob
    from sdmobile.exporters.stages import StageLog


@contextmanager
def explained(job: ExportJob, log: StageLog) -> Iterator[None]:
    """Turns whatever a converter raises into an error that names component and stage."""
    try:
        yield
    except SdmobileError:
        raise
    except MemoryError as error:
        raise ResourceError(
            f"{job.component}: not enough memory in stage `{log.current}`",
            error,
            "Close other programs, or export at a lower resolution or with --guidance separate",
        ) from error
    except ImportError as error:
        raise MissingDependencyError(
            f"the target {job.target} needs libraries that are not installed",
            error.name or error,
            f"Run: pip install 'sdmobile[{job.target}]'",
        ) from error
    except OSError as error:
        raise ResourceError(f"{job.component}: stage `{log.current}` could not read or write", error) from error
    except Exception as error:
        summary = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        raise ComponentError(f"{job.component}: stage `{log.current}` failed", summary) from error


@contextmanager
def room_for(job: ExportJob, log: StageLog) -> Iterator[None]:
    """Tells a full disk from other failures: what native code raises then may not say so."""
    try:
        yield
    except SdmobileError:
        raise
    except Exception as error:
        if is_disk_full(error) or not has_room(job.out_dir):
            raise ResourceError(
                f"{job.component}: the disk must have room for the output",
                f"stage `{log.current}`: {reason_of(error)}",
                "Free some space or choose another --output",
            ) from error
        raise
