"""Whether a picture of shapes-64 shows what its caption says, before and after conversion.

Two pictures can be 35 dB apart and show another shape, or 25 dB apart and show the same one. For the checkpoint whose
captions can be read and whose pictures can be judged, that is asked directly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.checkpoints.shapes64.captions import Claims
    from sdmobile.formats.bundle.contracts import Geometry

CAPTIONED = "shapes-64"  # the name that the checkpoint's model card gives it
_SIZES = {"small": "small", "little": "small", "large": "large", "big": "large"}
# Words between two items, and whether the first item named is the first on the axis (left, or above).
_RELATIONS = (
    (r"A to the left of B", "x", True),
    (r"A to the right of B", "x", False),
    (r"A on the left and B on the right", "x", True),
    (r"A on the right and B on the left", "x", False),
    (r"A above B", "y", True),
    (r"A (?:below|under) B", "y", False),
    (r"A at the top and B at the bottom", "y", True),
)
_PLACE = re.compile(r"\b(?:in|at|on) the (top|bottom|left|right|center|middle)(?: (left|right|center))?\b")


@dataclass(frozen=True)
class Obedience:
    """What the checker says of a reference picture and of the converted one.

    Args:
        reference_wrong: what is wrong with the reference's picture; empty where it obeys.
        wrong: what is wrong with the converted files' picture.
    """

    reference_wrong: tuple[str, ...]
    wrong: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether the conversion lost no obedience: what the reference itself gets wrong is not the file's fault."""
        return not self.wrong or bool(self.reference_wrong)

    def to_json(self) -> dict[str, Any]:
        """Returns the complaints and the verdict."""
        return {"kept": self.kept, "wrong": list(self.wrong), "reference_wrong": list(self.reference_wrong)}


def has_captions(name: str, geometry: Geometry) -> bool:
    """Whether a checkpoint is the one whose captions and pictures can be judged, at its own resolution."""
    from sdmobile.checkpoints.shapes64.scenes import IMAGE_SIZE

    return name == CAPTIONED and geometry.image_height == geometry.image_width == IMAGE_SIZE


def judge(prompt: str, reference: NDArray[np.float32], converted: NDArray[np.float32]) -> Obedience | None:
    """Judges two pictures of one prompt.

    Args:
        prompt: the caption.
        reference: decoder output [1, 3, 64, 64] of float32 torch.
        converted: the same of the bundle's files.

    Returns:
        The complaints, or None where the prompt is not in the captions' language.
    """
    from sdmobile.basics.metrics import to_pixels
    from sdmobile.checkpoints.shapes64.checker import complaints

    claims = read_caption(prompt)
    if claims is None:
        return None
    return Obedience(*(tuple(complaints(to_pixels(image), claims)) for image in (reference, converted)))


def read_caption(prompt: str) -> Claims | None:
    """Returns what a caption claims, or None where it names no item or relates two items in unknown words."""
    from sdmobile.checkpoints.shapes64.captions import Claims, ItemClaim
    from sdmobile.checkpoints.shapes64.scenes import BACKGROUNDS, COLOURS, SHAPES

    text = " ".join(prompt.lower().split())
    item = re.compile(rf"\ban? (?:({'|'.join(_SIZES)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")
    items = [ItemClaim(m[3], m[2], _SIZES[m[1]] if m[1] else None) for m in item.finditer(text)]
    names = iter("AB")
    skeleton = item.sub(lambda _: next(names, "?"), text)
    grounds = "|".join(BACKGROUNDS)
    ground = re.search(rf"\b({grounds}) background\b|\bbackground is ({grounds})\b", skeleton)
    background = None if ground is None else ground[1] or ground[2]
    if len(items) == 1:
        return Claims((items[0],), background, place=_place(skeleton))
    for words, axis, in_order in _RELATIONS:
        if len(items) == 2 and re.search(rf"\b{words}", skeleton):
            return Claims(tuple(items if in_order else reversed(items)), background, axis=axis)
    return None


def _place(skeleton: str) -> tuple[str, str] | None:
    """Returns the cell of a single item, such as ("left", "top")."""
    match = _PLACE.search(skeleton)
    if match is None:
        return None
    words = {match[1], match[2]}
    across = next((word for word in ("left", "right") if word in words), "middle")
    down = next((word for word in ("top", "bottom") if word in words), "middle")
    return across, down
