"""The beginning of a plan: a tiny DiT on digits. What follows it is each test's own."""

TINY_DIT_ON_DIGITS = """\
name = "micro"
about = "A tiny DiT on digits"

[data]
train = "digits"
ref = "digits"
extractor = "digits"
space = "pixel"
image_size = 8
channels = 1
num_classes = 10

[models]
"micro-S/4" = { depth = 1, hidden_size = 8, num_heads = 2, patch_size = 4 }

"""
