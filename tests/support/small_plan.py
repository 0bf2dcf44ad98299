"""The beginning of a plan, a tiny DiT on digits; what follows it is each test's own. And a whole plan of that DiT."""

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


def tiny_plan(training_steps):
    """The text of a plan with a cell for each number of training steps."""
    return f"""{TINY_DIT_ON_DIGITS}[training]
batch_size = 4
log_every = 2

[sampling]
num_samples = 8
labels = "balanced"

[[cells]]
models = "all"
training_steps = {training_steps}
sampling_steps = [2]

[[resources]]
threads = 1
batch_size = 8
num_workers = 0
"""
