"""Gflops: what one forward pass costs, by which convention, and what runs of it cost."""
