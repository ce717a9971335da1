"""Core ML: ML Programs in `.mlpackage` folders."""
