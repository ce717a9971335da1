"""Where the Core ML rules come from; none could be checked without an Apple device."""

from __future__ import annotations

HOLLANCE = "hollance/neural-engine docs/unsupported-layers.md (secondary; its author calls some of it guesses)"
HOLLANCE_LOG = "hollance/neural-engine#2 (messages of the Neural Engine's compiler)"
TYPED = "coremltools guide, Typed Execution: float32 programs run on CPU and GPU only"
OPERATIONS = "coremltools 9.0 converters/mil/mil/ops/defs: the iOS version that introduced each operation"
RANK = "coremltools 9.0 converters/mil/frontend/torch/ops.py: Core ML takes tensors of rank 5 at most"
FOUR_DIMENSIONS = "Apple, Deploying Transformers on the Apple Neural Engine: four dimensions, channels first"
DIMENSION = "apple/coremltools#1003 and #283: 16384 is the largest dimension that is known to work"
CHUNKS = "apple/ml-stable-diffusion README, --chunk-unet: chunks below 1 GB of weights, or at most 6 bits, for iPhones"
PALETTES = "apple/ml-stable-diffusion README, weight compression: palettes are decompressed as needed from iOS 17"
BASIS = "rules published by Apple and others, read and not run; where an operation runs is Core ML's own decision"
