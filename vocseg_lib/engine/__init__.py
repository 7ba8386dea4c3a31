"""Training, prediction, checkpoints and run folders."""
