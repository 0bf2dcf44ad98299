"""One file a group of findings."""
