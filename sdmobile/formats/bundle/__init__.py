"""The bundle folder: what it holds, how it is written and opened."""
