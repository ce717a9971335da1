"""Compressed weights in Core ML packages, written without converting the program again."""
