"""Models by their paper names."""
