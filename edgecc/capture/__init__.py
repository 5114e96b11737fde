"""Producers: samples from files or standard input, sent and kept until their receipt."""
