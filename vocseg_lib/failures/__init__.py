"""Failures in prediction files: TIDE, mask failures, crowding, oracles, scene descriptions."""
