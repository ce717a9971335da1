"""Scheduler configurations that most checkpoints have, whose tables ship (`kept_tables`).

Sources: `scheduler/scheduler_config.json` of stable-diffusion-v1-5, stable-diffusion-2-1 and -base, stable-diffusion
-inpainting, stable-diffusion-xl-base-1.0, sd-turbo, sdxl-turbo, LCM_Dreamshaper_v7, instruct-pix2pix,
stable-diffusion-3-medium (that of 3.5 means the same) and FLUX.2-klein (at 1024 × 1024 pixels); what Diffusers'
conversion gives SANA-Sprint; what single files are given (`Family.file_scheduler`) and `--distilled` sets
(`few_steps.KINDS`); the bundled checkpoints.
"""

from __future__ import annotations

import inspect
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdmobile.basics.files import hash_json, whole_file
from sdmobile.families.few_steps import KINDS, Distillation
from sdmobile.families.flow_matching import EULER as FLOW_EULER
from sdmobile.families.flow_matching import TOKENS
from sdmobile.families.kept_tables import (
    CONSISTENCY,
    EVEN_FLOW,
    FLOW,
    MAKERS,
    SHIPPED,
    STANDARD,
    TRIGFLOW,
    code,
    diffusers_version,
    essence,
    loop_to_json,
)
from sdmobile.families.schedulers import ANCESTRAL, DEFAULT, LCM, SCHEDULERS, STABLE_DIFFUSION
from sdmobile.families.trigflow import SCM

_DATA = Path(__file__).resolve().parents[1] / "data"
# Settings that configurations carry along which their own class does not know; solvers of other classes may.
_EULER = {"skip_prk_steps": True, "sample_max_value": 1.0, "use_karras_sigmas": False}
_XL = {**STABLE_DIFFUSION, **_EULER, "_class_name": "EulerDiscreteScheduler"}
_DDIM = {**STABLE_DIFFUSION, "_class_name": "DDIMScheduler"}
_TO_ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_USUAL: tuple[dict[str, Any], ...] = (
    STABLE_DIFFUSION,
    {**STABLE_DIFFUSION, "prediction_type": "v_prediction"},
    _DDIM,
    {**_DDIM, "prediction_type": "v_prediction"},
    {**_DDIM, "prediction_type": "v_prediction", **_TO_ZERO},
    {**_XL, "timestep_spacing": "leading"},
    {**_XL, "timestep_spacing": "trailing"},
    {**_XL, "_class_name": ANCESTRAL, "timestep_spacing": "trailing"},
    {**STABLE_DIFFUSION, "_class_name": "EulerDiscreteScheduler"},
    {**STABLE_DIFFUSION, "_class_name": ANCESTRAL},
)
_LCM = {
    **STABLE_DIFFUSION,
    "_class_name": LCM,
    "original_inference_steps": 50,
    "set_alpha_to_one": True,
    "timestep_spacing": "leading",
}
_FLOW = {"_class_name": FLOW_EULER, "num_train_timesteps": 1000, "shift": 3.0}
_SCM = {"_class_name": SCM, "num_train_timesteps": 1000, "prediction_type": "trigflow", "sigma_data": 0.5}
_FLUX_2 = {**_FLOW, "use_dynamic_shifting": True, "time_shift_type": "exponential", TOKENS: 4096}


def usual_schedules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields kind and configuration of each loop that ships."""
    for config in _USUAL:
        yield STANDARD, config
    yield FLOW, _FLOW
    yield EVEN_FLOW, _FLOW
    yield TRIGFLOW, _SCM
    yield EVEN_FLOW, _FLUX_2
    for kind in (STANDARD, CONSISTENCY):
        yield kind, _LCM
        yield kind, {**STABLE_DIFFUSION, "_class_name": LCM, "original_inference_steps": 50}
    for name, kind in KINDS.items():
        yield STANDARD, Distillation(name, kind.usual).schedule(STABLE_DIFFUSION)
    for folder in sorted(_DATA.glob("*/scheduler/scheduler_config.json")):
        config = json.loads(folder.read_text("utf-8"))
        yield FLOW if config["_class_name"] == FLOW_EULER else STANDARD, config


def class_defaults() -> dict[str, Any]:
    """Returns the settings that each scheduler's class knows, and in "*" those that are every class's default."""
    import diffusers

    named = (name for name, _ in SCHEDULERS.values())
    names = dict.fromkeys((*named, DEFAULT, LCM, ANCESTRAL, "TCDScheduler", FLOW_EULER, SCM))
    parameters: dict[str, dict[str, Any]] = {}
    for name in names:
        signature = inspect.signature(getattr(diffusers, name).__init__)
        parameters[name] = {
            key: one.default for key, one in signature.parameters.items() if one.default is not inspect.Parameter.empty
        }
    every: dict[str, list[Any]] = {}
    for own in (one for name, one in parameters.items() if name != SCM):  # whose prediction is another by default
        for key, value in own.items():
            every.setdefault(key, []).append(value)
    common = {key: values[0] for key, values in every.items() if all(one == values[0] for one in values)}
    return {"*": common, **{name: sorted(own) for name, own in parameters.items()}}


def made() -> dict[str, Any]:
    """Returns the content of the shipped file, made anew with Diffusers."""
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # of settings that a class does not know, which is what is wanted here
    try:
        defaults = class_defaults()
        loops = {
            hash_json([kind, essence(config, defaults)]): loop_to_json(MAKERS[kind](config))
            for kind, config in usual_schedules()
        }
    finally:
        logging.set_verbosity(verbosity)
    return {"code": code(), "diffusers": diffusers_version(), "defaults": defaults, "loops": loops}


def main() -> None:
    """Writes the shipped file."""
    text = json.dumps(made(), separators=(",", ":"))
    with whole_file(SHIPPED) as target:
        target.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{SHIPPED.name}: {len(text)} bytes, {SHIPPED.stat().st_size} compressed")


if __name__ == "__main__":
    main()
