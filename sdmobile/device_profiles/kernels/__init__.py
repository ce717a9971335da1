"""Which kernels a runtime launches for the graph of a file."""

from sdmobile.device_profiles.kernels.kernel import CATEGORIES, Category, Kernel

__all__ = ["CATEGORIES", "Category", "Kernel"]
