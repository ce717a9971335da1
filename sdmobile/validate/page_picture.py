"""Which bundles the page of `sdmobile serve` can draw with, and by which table: one text encoder, one loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.basics.untrusted import UntrustedError, parse_json, read_bounded
from sdmobile.families import family_of
from sdmobile.families.component import Role
from sdmobile.families.tokenizer_kinds import CLIP

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle

SCHEDULER = "scheduler.json"
_NEEDED = (SCHEDULER, "noise_golden.json", "metadata.json", "tokenizer/vocab.json", "tokenizer/merges.txt")
_DENOISER_TAKES = {"sample", "timestep", "encoder_hidden_states"}
_MAX_TABLES = 1 << 26


def why_no_picture(bundle: Bundle) -> str | None:
    """Returns why the page cannot draw a picture with a bundle, None if it can.

    Args:
        bundle: for Android.
    """
    family = family_of(bundle.manifest)
    if bundle.manifest.get("control"):
        return "the bundle has a control network, and the page has no picture to control with"
    if family.takes_picture:
        return f"{family.title} starts from a picture, and the page has none"
    if len(family.of_role(Role.TEXT_ENCODER)) != 1:
        return f"{family.title} has several text encoders; the page knows one"
    missing = [name for name in family.sampling if name not in bundle.components]
    if missing:
        return f"the bundle has no {' and no '.join(missing)}"
    taken = {spec.canonical for spec in bundle.components[family.denoiser.name].contract.inputs}
    if further := sorted(taken - _DENOISER_TAKES):
        return f"the denoiser takes {', '.join(further)} too, which the page does not compute"
    if family.tokenizer_kind.name != CLIP.name:
        return f"texts of {family.title} need a tokenizer ({family.tokenizer_kind.title}) that the page does not have"
    absent = [name for name in _NEEDED if name not in bundle.files]
    return f"the bundle has no {absent[0]}" if absent else None


def table_of(bundle: Bundle) -> tuple[str, dict[str, Any]] | None:
    """Returns name and table of the solver that the page samples with, None if the bundle's tables cannot be read."""
    file = bundle.files.get(SCHEDULER)
    if file is None:
        return None
    try:
        document = parse_json(read_bounded(file, _MAX_TABLES))
        name = str(document["default_solver"])
        solver = document["solvers"][name]
        return name, {"class": str(solver["diffusers_class"]), "steps": sorted(map(int, solver["steps"]))}
    except (OSError, UntrustedError, KeyError, TypeError, ValueError):
        return None


def scheduler_name(bundle: Bundle) -> str | None:
    """Returns what Diffusers' scheduler of the page's table is asked for by, None for the checkpoint's own."""
    from sdmobile.families.schedulers import DEFAULT, SCHEDULERS

    found = table_of(bundle)
    if found is None:
        return None
    name, table = found
    own = bundle.pipeline["scheduler"].get("_class_name", DEFAULT)
    return name if name in SCHEDULERS and table["class"] != own else None


def has_table(bundle: Bundle, steps: int) -> bool:
    """Whether the page's solver has a table for so many steps."""
    found = table_of(bundle)
    return found is not None and steps in found[1]["steps"]
