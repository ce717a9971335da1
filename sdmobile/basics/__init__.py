"""Small things that every room may use; nothing in here imports another room."""
