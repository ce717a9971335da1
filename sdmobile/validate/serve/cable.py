"""A phone on a cable: `adb reverse` makes its browser's http://127.0.0.1 lead to this computer, with no certificate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from sdmobile.errors import SdmobileError
from sdmobile.validate.phone import Phone, find_phone


def command_for(port: int) -> str:
    """Returns the command that joins a port of the phone to this computer's."""
    return f"adb reverse tcp:{port} tcp:{port}"


@contextlib.contextmanager
def joined(port: int, tell: Callable[[str], None]) -> Iterator[Phone | None]:
    """Joins the one phone that is connected, if there is one, until the block ends.

    Args:
        port: of this computer's loopback.
        tell: gets a line about what was done, or why not.
    """
    phone = None
    try:
        phone = find_phone()
        phone.reverse(port)
    except SdmobileError as error:
        found = error.rule if error.value is None else f"{error.rule}: {error.value}"
        tell(f"with the phone on a cable run: {command_for(port)}    (not run: {found})")
        phone = None
    else:
        tell(f"{phone.title}: ran {command_for(port)}")
    try:
        yield phone
    finally:
        if phone is not None:
            with contextlib.suppress(SdmobileError):  # it was unplugged: nothing is left to undo
                phone.reverse_no_more(port)
