"""Runs exported files on a phone that is connected to this machine."""
