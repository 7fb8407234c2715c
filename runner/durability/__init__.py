"""What survives a kill -9: checkpoints of trials, claims on them, and writes that wait for their receiver."""
