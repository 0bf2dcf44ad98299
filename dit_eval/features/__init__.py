"""Feature extractors and the one pass over an image set that feeds every metric."""
