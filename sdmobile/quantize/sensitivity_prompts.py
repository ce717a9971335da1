"""Three sets of prompts and seeds that do not meet: to analyse with, to choose with, and to judge with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.checkpoints.shapes64.obedience import CAPTIONED
from sdmobile.reference.recording import DEFAULT_PROMPTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.reference.sampling import SampleRequest

ANALYSIS_PROMPTS = DEFAULT_PROMPTS
# In the captions of the bundled checkpoint; any other text-to-image checkpoint understands them too.
SELECTION_PROMPTS = (
    "a small yellow circle above a large blue cross on a gray background",
    "a picture of a large green square on the right with a white background",
)
JUDGING_PROMPTS = (
    "a large blue circle to the right of a small red triangle on a white background",
    "a small green square at the bottom on a black background",
    "a large yellow cross above a small blue circle on a gray background",
)
SELECTION_SEED, JUDGING_SEED = 1_000, 2_000


def requests_for(
    checkpoint: Checkpoint, prompts: Sequence[str], steps: int, seed: int = 0
) -> tuple[SampleRequest, ...]:
    """Returns one picture per prompt, with the checkpoint's own guidance and one seed after the other."""
    from sdmobile.reference.sampling import DEFAULT_GUIDANCE_SCALE, SampleRequest

    scale = checkpoint.guidance_scale or DEFAULT_GUIDANCE_SCALE
    return tuple(SampleRequest(prompt, "", steps, seed + i, scale) for i, prompt in enumerate(prompts))


def judging_requests(checkpoint: Checkpoint, count: int, steps: int) -> tuple[SampleRequest, ...]:
    """Returns pictures to judge by: of shapes-64 captions that training never saw, else the judging prompts in turn."""
    if checkpoint.name == CAPTIONED:
        from sdmobile.checkpoints.shapes64.held_out import held_out_captions

        prompts = [caption.text for caption in held_out_captions(count)]
    else:
        prompts = [JUDGING_PROMPTS[i % len(JUDGING_PROMPTS)] for i in range(count)]
    return requests_for(checkpoint, prompts, steps, JUDGING_SEED)
