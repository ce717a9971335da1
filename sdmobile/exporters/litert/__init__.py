"""LiteRT: `.tflite` files with named signatures."""
