"""Your own recordings: a folder of WAV files, laid out as Speech Commands are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ...checked import checked_seed, checked_whole
from .holding_out import generator, held_out_groups, loaded, standardized
from .log_mel import SAMPLE_RATE, WINDOW, log_mel
from .source import Loaded
from .wave_files import read_wave

VALIDATION_LIST, TESTING_LIST = "validation_list.txt", "testing_list.txt"


def from_wav_folder(
    folder: str | Path,
    *,
    words: Sequence[str] | None = None,
    per_word: int | None = None,
    seconds: float = 1.0,
    seed: int = 0,
) -> Loaded:
    """Return a folder of recordings as log-mel sequences, such as ``spoken_digits`` are.

    The layout is that of Speech Commands (Warden 2018): a folder for each word with its WAV
    files in it; folders whose names begin with ``_`` or ``.`` are passed over.
    ``validation_list.txt`` says which files are held out and ``testing_list.txt`` which are
    left out of both, in lines such as ``yes/0a7c2a8d_nohash_0.wav``. Without a validation
    list a fifth of the speakers is held out: the speaker is what stands before ``_nohash_``;
    a file named otherwise counts as a speaker of its own.

    Args:
        folder: where the words' folders are.
        words: which of them; None is all.
        per_word: how many files of each word at most, drawn by the seed; None is all.
        seconds: length of a clip; the silence around shorter recordings is even, of longer
            ones the middle is taken.
        seed: decides what is drawn and what is held out.

    Returns:
        Inputs of shape (clips, frames, 20), 39 frames for one second, scaled to mean 0 and
        deviation 1 over the training clips; the classes are the words, in alphabetical
        order or as ``words`` gives them.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: there are fewer than two words, a word has no file, a file is no sound,
            nothing is left to train on or to hold out, or another argument won't do.
        ModuleNotFoundError: the extra ``[audio]`` is not installed.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"folder {str(root)!r} is no folder: give the one of the words.")
    seed = checked_seed(seed)
    if per_word is not None:
        per_word = checked_whole("per_word", per_word, 1, 1_000_000)
    if not WINDOW / SAMPLE_RATE <= seconds <= 60:
        raise ValueError(f"seconds must be from {WINDOW / SAMPLE_RATE} to 60, not {seconds!r}.")
    chosen = _words(root, words)
    testing = _listed(root / TESTING_LIST)
    names: list[str] = []
    for word in chosen:
        found = sorted(f"{word}/{path.name}" for path in _wav_files(root / word))
        left = [name for name in found if name not in testing]
        if not left:
            raise ValueError(
                f"{TESTING_LIST} leaves no recording of {word!r}: "
                "take lines out of it, or choose other words."
            )
        names += _drawn(left, per_word, seed)
    rows = _rows(names, root / VALIDATION_LIST, seed)
    frames = torch.stack(
        [
            log_mel(_of_length(read_wave(root / name), round(SAMPLE_RATE * seconds)))
            for name in names
        ]
    )
    targets = torch.tensor([chosen.index(name.split("/")[0]) for name in names])
    inputs = standardized(frames, rows[0])
    return loaded(inputs, targets, rows, nn.CrossEntropyLoss(), len(chosen), tuple(chosen))


def _wav_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() == ".wav"]


def _words(root: Path, words: Sequence[str] | None) -> list[str]:
    there = sorted(
        path.name for path in root.iterdir() if path.is_dir() and path.name[0] not in "_."
    )
    with_sound = [word for word in there if _wav_files(root / word)]
    if isinstance(words, str):
        raise ValueError(f"words must be a list of names of folders, not {words!r}.")
    chosen = with_sound if words is None else list(words)
    for word in chosen:
        if word not in with_sound:
            raise ValueError(
                f"words names {word!r}, which is no folder with WAV files: "
                f"choose among {', '.join(with_sound) or 'none, as there are none'}."
            )
    if len(set(chosen)) < max(2, len(chosen)):
        raise ValueError(
            f"folder {str(root)!r} gives the words {', '.join(chosen) or 'none'}: it takes two "
            "different ones at least, each a folder with WAV files in it."
        )
    return chosen


def _listed(path: Path) -> set[str]:
    return set(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else set()


def _drawn(names: list[str], count: int | None, seed: int) -> list[str]:
    if count is None or count >= len(names):
        return names
    order = torch.randperm(len(names), generator=generator(seed)).tolist()
    return [names[i] for i in sorted(order[:count])]


def _rows(names: list[str], path: Path, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    if not path.is_file():
        return held_out_groups([name.split("/")[-1].split("_nohash_")[0] for name in names], seed)
    listed = _listed(path)
    is_held_out = torch.tensor([name in listed for name in names])
    if is_held_out.all() or not is_held_out.any():
        raise ValueError(
            f"{path.name} names {int(is_held_out.sum())} of the {len(names)} recordings: "
            "some must be held out and some left to train on; without the file a fifth is held out."
        )
    order = torch.randperm(len(names), generator=generator(seed))
    return order[~is_held_out[order]], order[is_held_out[order]]


def _of_length(sound: torch.Tensor, samples: int) -> torch.Tensor:
    if len(sound) >= samples:
        start = (len(sound) - samples) // 2
        return sound[start : start + samples]
    before = (samples - len(sound)) // 2
    return nn.functional.pad(sound, (before, samples - len(sound) - before))
