"""The name that was meant: case and separators make no difference, and nothing is suggested that is far off."""

import errno

import pytest

from dit_eval.system.text import did_you_mean, nearest, told

# As the paper and the published code write them.
MODELS = ("DiT-S/2", "DiT-S/4", "DiT-B/2", "DiT-XL/2", "DiT-XL/8", "ADM-64", "ADM-256", "ADM-U-256-upsampler", "LDM-4")
FILES = ("inception", "dit-xl-2-256", "dit-xl-2-512", "imagenet64", "imagenet256", "imagenet512", "digits")


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        # the same but for case and separators
        ("dit-xl-2", MODELS, "DiT-XL/2"),
        ("DIT_XL_2", MODELS, "DiT-XL/2"),
        ("dit xl 2", MODELS, "DiT-XL/2"),
        ("DiTXL2", MODELS, "DiT-XL/2"),
        ("ldm4", MODELS, "LDM-4"),
        ("DiT-XL/2-256", FILES, "dit-xl-2-256"),
        ("ImageNet-256", FILES, "imagenet256"),
        # a part of one name
        ("ADM-u-256", MODELS, "ADM-U-256-upsampler"),
        ("XL/2", MODELS, "DiT-XL/2"),
        ("s2", MODELS, "DiT-S/2"),
        ("imagenet", FILES, "imagenet64"),
        # more than one name
        ("dit_xl_2_256", MODELS, "DiT-XL/2"),
        ("adm-256-guided", MODELS, "ADM-256"),
        # another letter or two
        ("dtt-xl/2", MODELS, "DiT-XL/2"),
        ("DiT-XL/3", MODELS, "DiT-XL/2"),
        ("imagnet512", FILES, "imagenet512"),
        ("Digts", FILES, "digits"),
        # nothing
        ("resnet50", FILES, None),
        ("", MODELS, None),
        ("-", MODELS, None),
        ("x", MODELS, None),
        ("DiT-XL/2", (), None),
    ],
)
def test_the_name_that_was_meant(word, known, expected):
    assert nearest(word, known) == expected
    assert did_you_mean(word, known) == (f" Did you mean {expected!r}?" if expected else "")


def test_words_of_other_programs_lead_to_names():
    also = {"--ref_batch": "--ref", "--timestep_respacing": "--num-sampling-steps"}
    options = ("--ref", "--results", "--num-sampling-steps")
    assert nearest("--ref-batch", options, also=also) == "--ref"
    assert nearest("--timestep-respacin", options, also=also) == "--num-sampling-steps"
    assert nearest("--ref", options, also={"--ref": "--results"}) == "--ref", "a name of ours comes first"


def test_a_word_of_any_length_is_answered():
    assert nearest("DiT-XL/2" * 1_000_000, MODELS) is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a, b"), "a, b"),
        (OSError("PATH: ours"), "PATH: ours"),
        (OSError(5, "Input/output error"), "[Errno 5] Input/output error"),
        (OSError(13, "Permission denied", "a/b"), "a/b: Permission denied."),
        (OSError(13, "Permission denied", b"a\xff\x1b"), "a\\xff\\x1b: Permission denied."),
        (OSError(errno.ENOSPC, "No space", "a"), "a: No space. Make room and run the same command again."),
        (OSError(errno.EDQUOT, "Quota", "a"), "a: Quota. Make room and run the same command again."),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_errors_of_the_system_name_the_file_first(error, said):
    assert told(error) == said
