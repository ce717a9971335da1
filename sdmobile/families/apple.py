"""What Apple's `StableDiffusion` Swift package, and a Mac before it, want of a bundle (apple/ml-stable-diffusion)."""

from __future__ import annotations

# Built in, whatever the bundle says (Scheduler, Decoder, Encoder).
LATENT_CHANNELS = 4
SCHEDULE = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")

PIPELINE = ": StableDiffusionPipeline(resourcesAt: Resources, controlNet: [])"
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
cp vocab.json merges.txt Resources
echo "Resources is ready{usual}"
"""

USE = """\
1. On a Mac, run `compile.sh` in this folder: it turns each `.mlpackage` into the `.mlmodelc` that an app loads
   (`xcrun coremlcompiler` is part of Xcode; there is no such tool for Linux).
2. Give the folder with the compiled models, `vocab.json` and `merges.txt` to Apple's
   [StableDiffusion Swift package](https://github.com/apple/ml-stable-diffusion) as its resources:

   ```swift
   var configuration = MLModelConfiguration()
   configuration.computeUnits = .cpuAndNeuralEngine
   let pipeline = try StableDiffusionPipeline(
       resourcesAt: folder, controlNet: [], configuration: configuration, disableSafety: true)
   try pipeline.loadResources()
   var request = StableDiffusionPipeline.Configuration(prompt: "{prompt}")
   request.seed = 0
   request.stepCount = {steps}
   request.guidanceScale = {guidance_scale}
   request.decoderScaleFactor = {scaling_factor}
   request.encoderScaleFactor = {scaling_factor}
   let images = try pipeline.generateImages(configuration: request)
   ```

   Its default random source starts from the same noise as `sdmobile generate` with the same seed."""

_GUIDED = "   request.guidanceScale = {guidance_scale}\n"
# Below 1 the package calls the UNet with the caption's row alone, of batch 1 (StableDiffusionPipeline.generateImages);
# it decodes the last clean latent that its solver has seen, so that one step is x̂₀ of timestep 999.
_ONE_ROW = """\
   request.guidanceScale = 0  // below 1: the UNet has no unconditional row
   request.schedulerType = .dpmSolverMultistepScheduler
"""
USE_ONE_ROW = USE.replace(_GUIDED, _ONE_ROW)


def compile_script(pipeline: str = "") -> str:
    """Returns the script that compiles a bundle's packages on a Mac and puts the tokenizer's files beside them.

    Args:
        pipeline: what it ends in, if there is a class that takes the result.
    """
    return _COMPILE.replace("{usual}", pipeline)
