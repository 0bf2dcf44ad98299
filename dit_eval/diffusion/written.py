"""What the state in a training's folder says of the run: its steps, and digests of the weights as they were written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dit_eval.system.reading import parse_json
from dit_eval.system.seals import file_digest, read_sealed_tensors
from dit_eval.system.tensors import stored_texts
from dit_eval.system.text import reason

STATE = "state.safetensors"
_WEIGHTS = re.compile(r"(ema|model)-[0-9]{7,}\.safetensors")
_MEND = "Put a good copy in its place, or remove the folder to train again."


def steps_done(folder: Path) -> int:
    """Steps after which the run in a folder would go on; 0 if there is none.

    Raises
    ------
    ValueError
        If the file that says so is damaged.
    """
    return int(notes_of(folder).get("step", 0))


def check_weights(path: Path, sha256: str | None = None) -> None:
    """That a file of weights is as the training in whose folder it lies wrote it; one that nothing is said of passes.

    Parameters
    ----------
    sha256 : of the file, if that is known; else all of it is read

    Raises
    ------
    ValueError
        If it is not, or the file that says so is damaged.
    """
    if not _WEIGHTS.fullmatch(path.name):  # another program's; a file beside it may be called as ours
        return
    written = digests_of(notes_of(path.parent)).get(path.name)
    if written is not None and (sha256 or file_digest(path)) != written:
        raise ValueError(f"{path}: not as it was written: damaged, or of another step or run. {_MEND}")


def check_state(path: Path) -> dict[str, str]:
    """What a state says of its run, after all of it was read; nothing if it has no digest, of an earlier version.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    try:
        return read_sealed_tensors(path)
    except ValueError as error:
        raise ValueError(f"{error} {_MEND}") from None


def notes_of(folder: Path) -> dict[str, str]:
    """What the state in a folder says of its run, its digest not looked at; nothing if there is none.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    path = folder / STATE
    if not path.exists():
        return {}
    try:
        notes = stored_texts(path)
        if not re.fullmatch("[0-9]{1,15}", notes.get("step", "")):
            raise ValueError("it does not say of which step it is")
        digests_of(notes)
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({reason(error)}). {_MEND}") from None
    return notes


def digests_of(notes: Mapping[str, str]) -> dict[str, str]:
    """Digests of the weights of all steps, by the names of their files; none in a state of earlier versions.

    Raises
    ------
    ValueError
        If the notes of a state do not say which they are.
    """
    found = parse_json(notes.get("weights", "{}"))
    if not isinstance(found, dict) or not all(isinstance(digest, str) for digest in found.values()):
        raise ValueError("it does not say which weights are its own")
    return found
