"""Which build of Google's engine runs a file, and on whose GPU, as far as it is known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from sdmobile.errors import EXIT_USAGE, SdmobileError

Version = tuple[int, ...]
Maker = Literal["qualcomm", "arm", "samsung", "imagination", "apple"]
MAKERS: tuple[Maker, ...] = get_args(Maker)
TESTED: Version = (2, 3, 0)
"""The build that the rules were compared with (docs/lint.md)."""
OLDEST: Version = (2, 1, 3)


class EngineError(SdmobileError):
    """No such version, or no such maker."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True)
class Engine:
    """A build of LiteRT and a GPU.

    Args:
        litert: version; None for the tested one, with a warning of what others are known for.
        maker: of the GPU; None if it is not known.
    """

    litert: Version | None = None
    maker: Maker | None = None


@dataclass(frozen=True)
class Where:
    """The builds and GPUs on which something holds.

    Args:
        since: first version.
        before: first version in which it holds no more; None while it does.
        makers: of the GPUs; empty for all.
    """

    since: Version = OLDEST
    before: Version | None = None
    makers: tuple[Maker, ...] = ()

    def holds(self, engine: Engine) -> bool | None:
        """Returns whether it holds for an engine; None if too little is known of it."""
        known = [self._version(engine.litert), self._maker(engine.maker)]
        return False if False in known else None if None in known else True

    def _version(self, version: Version | None) -> bool | None:
        if version is not None:
            return self._covers(version)
        return True if self.before is None and self._covers(TESTED) else None

    def _covers(self, version: Version) -> bool:
        return self.since <= version and (self.before is None or version < self.before)

    def _maker(self, maker: Maker | None) -> bool | None:
        return (None if maker is None else maker in self.makers) if self.makers else True

    def __str__(self) -> str:
        until = "on" if self.before is None else f"to before {_words(self.before)}"
        whose = f" on GPUs of {', '.join(self.makers)}" if self.makers else ""
        return f"LiteRT {_words(self.since)} {until}{whose}"


def parse_engine(litert: str | None, maker: str | None) -> Engine:
    """Returns an engine from the words of a user.

    Args:
        litert: such as "2.1.5".
        maker: one of `MAKERS`.

    Raises:
        EngineError: another notation, or an unknown maker.
    """
    if litert is not None and not re.fullmatch(r"\d{1,4}(\.\d{1,4}){1,2}", litert):
        raise EngineError("a version of LiteRT is two or three numbers", litert, "Write it as 2.1.5")
    if maker is not None and maker not in MAKERS:
        raise EngineError("the maker of a GPU is a known one", maker, f"Choose one of {', '.join(MAKERS)}")
    version = None if litert is None else tuple(int(part) for part in litert.split("."))
    return Engine(version, maker)


def _words(version: Version) -> str:
    return ".".join(map(str, version))
