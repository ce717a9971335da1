"""The float32 truth: capture, sampling loop, recorded inputs, PyTorch runner."""
