"""Predicts what the GPU runtimes of LiteRT say to a `.tflite` file, from Google's own sources."""
