"""The model card of shapes-64; its guidance scale is the default of `generate` and `validate`."""

from __future__ import annotations

MODEL_CARD = """\
---
license: apache-2.0
pipeline_tag: text-to-image
inference:
  parameters:
    guidance_scale: 3
    num_inference_steps: 20
tags:
- stable-diffusion
- sdmobile
---

# shapes-64

Draws one or two coloured shapes on a plain background, 64×64 pixels, from captions such as "a large red circle to the
left of a small blue square on a white background". Made by `sdmobile train shapes` from scenes that the project renders
itself: no third party's pictures, texts or weights are in it.
"""
