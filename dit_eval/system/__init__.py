"""What every other part stands on: files, processes, switches, texts. It knows nothing of images or models."""
