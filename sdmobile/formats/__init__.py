"""File formats: one reader and one writer of each."""
