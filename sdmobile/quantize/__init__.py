"""Smaller number formats for the weights of an exported file."""
