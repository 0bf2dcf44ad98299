"""Images to score, of any origin: one file a format, all read the same way."""
