"""Eight-bit activations: calibrated on recorded inputs, gated layer by layer, written as quantize and dequantize."""
