"""Architectures of our own, in Diffusers' conventions: `ModelMixin`, `ConfigMixin`, safetensors, `from_pretrained`."""

NORMALISERS = ("none", "length")
"""Of ReLU attention: relu(q kᵀ/√d) v as it is, or divided by the number of keys."""
