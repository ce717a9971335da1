"""Structures: exported files without their weights, and where each stored tensor comes from."""
