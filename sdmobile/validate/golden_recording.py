"""Which calls of the reference go with a bundle: from a recording that is there, or sampled anew with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmobile.checkpoints.changes import UNCHANGED, Changes
from sdmobile.reference.recording import DEFAULT_PROMPTS, Recording, chosen_steps, record
from sdmobile.reference.sampling import SampleRequest
from sdmobile.validate.golden import Golden, make_golden
from sdmobile.validate.page_picture import has_table, scheduler_name, why_no_picture

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.checkpoints.control import ControlFolder
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.recording import RecordedSample

_CALLS = {"text encoder": 2, "denoiser": 3}
"""By role; 1 of every other component."""
_MAX_BYTES = 16 << 20
"""Of a component's calls, unless a single one is larger."""
_MOST = max(_CALLS.values())
# What a tokenizer is most often wrong about; plain text, since control characters are no JSON of ours.
NASTY_TEXTS = (
    "",
    "a photo of a cat",
    "  Two   spaces\tand a\nline break ",
    "it's we'll I'VE don't",
    "1234567890 3.14 50%",
    "CamelCase snake_case kebab-case",
    "naïve café — “quotes” … €5",
    "e\u0301 is é, decomposed; ﬁ is a ligature",
    "日本語のテキスト 漢字",
    "привет, мир! Ελληνικά",
    "👩‍👩‍👧‍👦🏳️‍🌈 emoji",
    "<|startoftext|>inside<|endoftext|> !!",
    "&amp; &lt;b&gt; <b>tags</b>",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 7,
    "a red circle, " * 60,
)


@dataclass(frozen=True)
class PictureOrder:
    """Which picture the reference shall draw.

    Args:
        prompt: None for the first of the usual ones.
        seed: None for 0.
        steps: None for the bundle's own number.
    """

    prompt: str | None = None
    seed: int | None = None
    steps: int | None = None


def golden_of(bundle: Bundle, spec: PipelineSpec, recording: Recording) -> Golden:
    """Returns the few calls of a recording that a page compares with, and its first run if the page can draw that.

    Args:
        bundle: for Android.
        spec: of the reference.
        recording: of the bundle's components.
    """
    samples = {name: _few(spec, name, kept) for name, kept in recording.samples.items()}
    return make_golden(bundle, samples, token_ids(spec), _drawn(bundle, spec, recording))


def _few(spec: PipelineSpec, component: str, kept: Sequence[RecordedSample]) -> list[RecordedSample]:
    roles = {part.name: part.role.value for part in spec.family.components}
    most = _CALLS.get(roles.get(component, ""), 1)
    if kept:  # what a control network returns, and the denoiser takes, is tens of megabytes
        largest = max(sum(array.nbytes for array in (*s.inputs.values(), *s.outputs.values())) for s in kept)
        most = max(1, min(most, _MAX_BYTES // largest))
    return [kept[index] for index in sorted(chosen_steps(len(kept), most))] if kept else []


def token_ids(spec: PipelineSpec) -> dict[str, list[int]]:
    """Returns the padded identifiers of nasty texts, as the checkpoint's own tokenizer has them."""
    from sdmobile.checkpoints import tokenizers

    tokenizer, length, kind = spec.tokenizer(), spec.geometry.context_length, spec.family.tokenizer_kind
    return {text: [*map(int, tokenizers.token_ids(tokenizer, text, length, kind))] for text in NASTY_TEXTS}


def _drawn(bundle: Bundle, spec: PipelineSpec, recording: Recording) -> tuple[SampleRequest, NDArray[np.uint8]] | None:
    """Returns the first run that the page can draw too: by the solver of the bundle's tables, with a table for it."""
    from sdmobile.basics.metrics import to_pixels

    if why_no_picture(bundle) is not None:
        return None
    solver = scheduler_name(bundle)
    for run in recording.runs:
        request = run.request
        plain = request.edit is None and not request.control and request.image_guidance_scale is None
        if plain and request.scheduler == solver and has_table(bundle, request.steps):
            return request, to_pixels(run.image)
    return None


def record_golden(
    bundle: Bundle,
    order: PictureOrder,
    reference: Path | None = None,
    changes: Changes = UNCHANGED,
    controls: Sequence[ControlFolder] = (),
    cache_dir: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Golden:
    """Samples one picture with the bundle's checkpoint and PyTorch, or takes it from the cache of recordings.

    Args:
        bundle: for Android.
        order: the picture.
        reference: the checkpoint, None for one that ships with sdmobile.
        changes: that were put on top of it.
        controls: the bundle's control networks.
        cache_dir: of recordings, None for no cache.
        progress: sees (what, done, all).

    Raises:
        CheckpointError: the reference is missing or another checkpoint.
        UsageError: a request that means nothing.
    """
    from sdmobile.reference.recording_cache import RecordingCache, recording_key
    from sdmobile.reference.resolve import reference_pipeline, resolve_reference

    checkpoint = resolve_reference(bundle, reference, changes, controls)
    spec = reference_pipeline(bundle, checkpoint)
    request = SampleRequest(
        order.prompt or DEFAULT_PROMPTS[0],
        "",
        spec.steps if order.steps is None else order.steps,
        order.seed or 0,
        spec.guidance_scale,
        None if why_no_picture(bundle) else scheduler_name(bundle),
    )
    components = tuple(bundle.components)
    most = _MOST * spec.guidance.calls

    def make() -> Recording:
        from sdmobile.reference.torch_runner import TorchRunner

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress("sampling with torch", done, total)

        tell(0, 1)
        return record(TorchRunner(checkpoint, spec.geometry), spec, [request], components, most, True, tell)

    key = recording_key(checkpoint.content_hash, spec, [request], components, most, True)
    recording, _ = RecordingCache(cache_dir).recorded(key, [request], make)
    return golden_of(bundle, spec, recording)


def covers(golden: Golden, components: Sequence[str], order: PictureOrder, picture: bool = True) -> bool:
    """Whether recorded calls are enough for a page: some of every component, and the picture if one is wanted.

    Args:
        golden: of the bundle.
        components: that the page runs.
        order: the picture; what it leaves open may be anything.
        picture: whether a picture is wanted at all.
    """
    if any(not golden.calls(name) for name in components):
        return False
    return not picture or golden.drew(order.prompt, order.seed, order.steps)
