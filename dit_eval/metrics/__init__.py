"""The metrics: each module takes a generated and a reference side, always by name."""
