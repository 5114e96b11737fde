"""Accuracy: streams, controls, baselines."""
