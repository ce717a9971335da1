"""Core ML packages (`.mlpackage`): what is stored in them, read and written."""
