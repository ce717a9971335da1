"""The operations of the Model Intermediate Language, one module per family."""
