"""Integer weights for `.tflite` files."""
