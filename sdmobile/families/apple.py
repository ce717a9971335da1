"""What Apple's `StableDiffusion` Swift package, and a Mac before it, want of a bundle (apple/ml-stable-diffusion)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdmobile.families.component import Guidance
    from sdmobile.families.control import Control
    from sdmobile.families.facts import Facts

# Built in, whatever the bundle says (Scheduler, Decoder, Encoder).
LATENT_CHANNELS = 4
SCHEDULE = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
# Of StableDiffusion3Pipeline and its DiscreteFlowScheduler.
FLOW_TRAIN_STEPS = 1000
FLOW_TEXT = {
    "context_length": 77,
    "context_dim": 4096,
    "text_encoder_width": 768,
    "text_encoder_2_width": 1280,
    "text_encoder_pooled_width": 768,
    "text_embeds_width": 1280,
}

PIPELINE = ": StableDiffusionPipeline(resourcesAt: Resources, controlNet: [])"
PIPELINE_XL = ": StableDiffusionXLPipeline(resourcesAt: Resources)"
PIPELINE_3 = ": StableDiffusion3Pipeline(resourcesAt: Resources)"
SCRIPT = "compile.sh"
_COMPILE = """\
#!/bin/sh
# Compiles the packages of this folder for Apple's StableDiffusion Swift package. Needs a Mac with Xcode:
# Core ML's compiler exists for no other system.
set -eu
cd "$(dirname "$0")"
if ! command -v xcrun >/dev/null 2>&1; then
    echo "compile.sh needs xcrun, which comes with Xcode on a Mac" >&2
    exit 1
fi
mkdir -p Resources
for package in *.mlpackage; do
    xcrun coremlcompiler compile "$package" Resources
done
cp {tokenizer} Resources
echo "Resources is ready{usual}"
"""

USE = """\
1. On a Mac, run `compile.sh` in this folder: it turns each `.mlpackage` into the `.mlmodelc` that an app loads
   (`xcrun coremlcompiler` is part of Xcode; there is no such tool for Linux).
2. Add Apple's [StableDiffusion Swift package](https://github.com/apple/ml-stable-diffusion) to the app, and the folder
   that the script made, `Resources`, with {resources}, `vocab.json` and `merges.txt`:

   ```swift
   import CoreML
   import StableDiffusion

   let folder = Bundle.main.resourceURL!.appending(path: "Resources")
   let configuration = MLModelConfiguration()
   configuration.computeUnits = .cpuAndNeuralEngine
   let pipeline = try StableDiffusionPipeline(
       resourcesAt: folder, controlNet: [], configuration: configuration, disableSafety: true)
   try pipeline.loadResources()
   var request = StableDiffusionPipeline.Configuration(prompt: "{prompt}")
   request.seed = 0
   request.stepCount = {steps}
   request.guidanceScale = {guidance_scale}
{sampler}   request.decoderScaleFactor = {scaling_factor}
   request.encoderScaleFactor = {scaling_factor}
   let images = try pipeline.generateImages(configuration: request)  // [CGImage?], of {size} pixels
   ```

   Its default random source starts from the same noise as `sdmobile generate` with the same seed."""

_GUIDED = "   request.guidanceScale = {guidance_scale}\n{sampler}"
# Below 1 the package calls the UNet with the caption's row alone, of batch 1 (StableDiffusionPipeline.generateImages);
# it decodes the last clean latent that its solver has seen, so that one step is x̂₀ of timestep 999.
_ONE_ROW = """\
   request.guidanceScale = 0  // below 1: the UNet has no unconditional row
   request.schedulerType = .dpmSolverMultistepScheduler
"""
_DPM_SOLVER = "   request.schedulerType = .dpmSolverMultistepScheduler\n"
# One number each for height and width; the class checks no safety and takes no control networks.
_SIZES = """\
   request.originalSize = {side}
   request.targetSize = {side}
"""
USE_XL = (
    USE.replace("let pipeline = try StableDiffusionPipeline(", "let pipeline = try StableDiffusionXLPipeline(")
    .replace("controlNet: [], configuration: configuration, disableSafety: true", "configuration: configuration")
    .replace(_GUIDED, _GUIDED + _SIZES)
)
# It takes no control networks either, and shifts what it decodes.
USE_3 = (
    USE.replace("let pipeline = try StableDiffusionPipeline(", "let pipeline = try StableDiffusion3Pipeline(")
    .replace("controlNet: [], configuration: configuration, disableSafety: true", "configuration: configuration")
    .replace("{sampler}   request.decoder", "   request.schedulerTimestepShift = {timestep_shift}\n   request.decoder")
    .replace("request.encoderScaleFactor = {scaling_factor}", "request.decoderShiftFactor = {shift_factor}")
)
USE_ONE_ROW = USE.replace(_GUIDED, _ONE_ROW)


def sampler(scheduler: Mapping[str, Any]) -> str:
    """Returns the line of Swift that asks for the sampler of a checkpoint, none where it is not one of the package's.

    Args:
        scheduler: configuration of the checkpoint's Diffusers scheduler.
    """
    return _DPM_SOLVER if scheduler.get("_class_name") == "DPMSolverMultistepScheduler" else ""


def compile_script(pipeline: str = "", tokenizer: str = "vocab.json merges.txt") -> str:
    """Returns the script that compiles a bundle's packages on a Mac and puts the tokenizer's files beside them.

    Args:
        pipeline: what it ends in, if there is a class that takes the result.
        tokenizer: names of its files, or options of `cp` and the name of its folder.
    """
    return _COMPILE.replace("{usual}", pipeline).replace("{tokenizer}", tokenizer)


def flow_differences(facts: Facts) -> list[str]:
    """Returns where the package would draw other pictures by flow matching than Diffusers, or cannot.

    Its StableDiffusion3Pipeline has the sizes of the published text encoders built in.
    """
    differences = [
        "the image encoder of Apple's Swift package assumes 4 latent channels without a shift: it draws from a text "
        "alone, not from a picture",
        f"Apple's Swift package has another scaling factor by default: set {facts.scaling_factor:g} and a shift of "
        f"{facts.shift_factor:g} in the pipeline's configuration, as README.md does",
    ]
    steps = facts.scheduler_config.get("num_train_timesteps", FLOW_TRAIN_STEPS)
    if steps != FLOW_TRAIN_STEPS:
        differences.append(f"scheduler num_train_timesteps is {steps}; Apple's Swift package has {FLOW_TRAIN_STEPS}")
    sizes = {**dict(facts.sizes), "context_length": facts.context_length, "context_dim": facts.context_dim}
    if other := {name: sizes[name] for name, size in FLOW_TEXT.items() if sizes[name] != size}:
        shown = ", ".join(f"{name} {size}" for name, size in other.items())
        differences.append(
            f"Apple's Swift package gives the denoiser texts of other sizes than {shown}: run it yourself"
        )
    return differences


def controlnet_name(name: str) -> str:
    """Returns how the package is told a ControlNet's name: its parts between _ and -, each capitalised.

    As torch2coreml.py names what it compiles into the folder `controlnet`.
    """
    return "".join(part.title() for part in re.split("_|-", name))


def controlnet_package(name: str) -> str:
    """Returns the file of a ControlNet before it is compiled, as torch2coreml.py calls it."""
    return f"ControlNet_{name}.mlpackage"


def takes_control(controls: Sequence[Control], guidances: Sequence[Guidance]) -> bool:
    """Returns whether the package can call a family's control networks: ControlNets with both rows of guidance.

    It sums what several add (ControlNet.execute).
    """
    of_the_kind = all(control.kind == "controlnet" for control in controls)
    return of_the_kind and any(guidance.rows == 2 for guidance in guidances)


def controlled_scripts(
    scripts: Mapping[str, tuple[str, str]], controls: Sequence[Control], guidances: Sequence[Guidance]
) -> Mapping[str, tuple[str, str]]:
    """Returns an app's scripts for a family with control networks: ControlNets are put where the package looks."""
    if "ios" not in scripts:
        return scripts
    name, text = scripts["ios"]
    if not takes_control(controls, guidances):
        return {**scripts, "ios": (name, text.replace(PIPELINE, ""))}
    moved = "".join(map(_moved, controls)) + "cp vocab.json"
    text = text.replace("cp vocab.json", moved).replace("controlNet: []", _asked_for(controls).replace('"', r"\""))
    return {**scripts, "ios": (name, text)}


def _moved(control: Control) -> str:
    """Returns the lines of the script that put a compiled ControlNet where the package looks."""
    compiled = controlnet_package(control.name).replace(".mlpackage", ".mlmodelc")
    place = f"Resources/controlnet/{controlnet_name(control.name)}.mlmodelc"
    return (
        f'if [ -e "Resources/{compiled}" ]; then\n    mkdir -p Resources/controlnet\n    rm -rf "{place}"\n'
        f'    mv "Resources/{compiled}" "{place}"\nfi\n'
    )


def controlled_use(
    use: Mapping[str, str], controls: Sequence[Control], guidances: Sequence[Guidance]
) -> Mapping[str, str]:
    """Returns the steps to use a bundle with control networks: none where the package cannot call them."""
    if not takes_control(controls, guidances):
        return {target: text for target, text in use.items() if target != "ios"}
    if "ios" not in use:
        return use
    pictures = ["picture", *(f"picture{number}" for number in range(2, len(controls) + 1))]
    remark = "a CGImage of {size} pixels" if len(controls) == 1 else "CGImages of {size} pixels, one per name"
    picture = f"   request.seed = 0\n   request.controlNetInputs = [{', '.join(pictures)}]  // {remark}\n"
    text = use["ios"].replace("controlNet: []", _asked_for(controls)).replace("   request.seed = 0\n", picture)
    return {**use, "ios": text}


def control_differences(controls: Sequence[Control], guidances: Sequence[Guidance]) -> list[str]:
    """Returns where the package would run a family's control networks otherwise, or not at all."""
    if not controls:
        return []
    if controls[0].kind != "controlnet":
        return ["Apple's Swift package knows no control plugins: the app runs the files itself"]
    if not takes_control(controls, guidances):
        return [
            "ControlNet.swift of Apple's Swift package passes timesteps of shape [2], which a control network of one "
            "row does not take: the app runs it itself, or changes that line"
        ]
    return []


def _asked_for(controls: Sequence[Control]) -> str:
    names = ", ".join(f'"{controlnet_name(control.name)}"' for control in controls)
    return f"controlNet: [{names}]"
