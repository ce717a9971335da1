"""Winograd's minimal filtering for 3×3 convolutions: transforms, their cost and error, and the rule."""
