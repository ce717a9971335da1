"""Model families: what a checkpoint consists of, how a prompt becomes arrays, how it is sampled, names on phones."""
