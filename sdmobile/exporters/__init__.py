"""From one component of a checkpoint to one file for a target."""
