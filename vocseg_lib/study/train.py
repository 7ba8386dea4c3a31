"""Train and evaluate the models of a study."""

OVERFIT_LEARNING_RATE = 1e-3
COUNTED_BATCHES, COUNTED_IMAGES = 4, 16
"""Training batches from which the estimate is made, and how many images of each are looked at."""
