"""Architectures of our own, in Diffusers' conventions: `ModelMixin`, `ConfigMixin`, safetensors, `from_pretrained`."""
