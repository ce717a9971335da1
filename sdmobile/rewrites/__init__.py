"""Rules that replace nodes of a captured graph by PyTorch code that suits a target better."""
