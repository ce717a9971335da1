"""Put a diffusion model on iPhones and Android phones, with the evidence gathered on a Linux machine."""

__version__ = "0.1.0"
