"""Stem and frozen blocks: from layers to a LiteRT model that computes features."""
