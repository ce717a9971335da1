"""Rules that write an operation as one composite node of a `.tflite` file.

A composite has a name and attributes, and a plain decomposition in a subgraph of its own. A GPU engine that knows the
name runs its fused kernel, every other runtime the decomposition, so one file serves both.
"""
