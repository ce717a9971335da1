"""ONNX: one graph per component, run by ONNX Runtime as an independent witness."""
