"""Generators of inputs that somebody may have made to do harm, or that were damaged."""
