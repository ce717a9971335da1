"""TensorFlow Lite models (`.tflite`): what is stored in them, read and written."""
