"""`shapes-64-dit`: the world of `shapes-64` drawn by a transformer that flow matching trains."""
