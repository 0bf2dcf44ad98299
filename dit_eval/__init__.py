"""Evaluation of diffusion transformers: the numbers of the papers, with their provenance."""

__version__ = "0.1.0"
