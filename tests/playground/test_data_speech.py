"""Speech: log-mel frames, the spoken digits, and one's own folder of WAV files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from transformers import audio_utils

from gradflow_widget.playground.data import DATA, from_wav_folder
from gradflow_widget.playground.data.holding_out import held_out_groups
from gradflow_widget.playground.data.log_mel import log_mel, mel_filters
from gradflow_widget.playground.data.make_spoken_digits import VOICES, recorded
from gradflow_widget.playground.data.spoken_digits import FILE, ONE_VOICE, WORDS
from gradflow_widget.playground.data.wave_files import read_wave

RATE = 16_000


def tone(hertz: float, rate: int = RATE, seconds: float = 1.0) -> np.ndarray[Any, Any]:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


# -- log-mel -------------------------------------------------------------------------


def test_the_frames_are_those_that_transformers_computes() -> None:
    sound = np.random.default_rng(0).standard_normal(RATE) + 3 * tone(700)
    filters = audio_utils.mel_filter_bank(257, 20, 50.0, 8_000.0, RATE, norm=None, mel_scale="htk")
    theirs = audio_utils.spectrogram(
        sound,
        audio_utils.window_function(512, "hann"),
        frame_length=512,
        hop_length=400,
        power=2.0,
        center=False,
        mel_filters=filters,
    ).T
    ours = log_mel(torch.tensor(sound))
    assert np.abs(mel_filters().numpy() - filters).max() < 1e-6
    assert ours.shape == theirs.shape == (39, 20)
    assert np.abs(ours.numpy() - 10 * np.log10(theirs / theirs.max())).max() < 1e-3


def test_loudness_doesnt_matter_and_silence_is_the_floor() -> None:
    sound = torch.tensor(tone(440)) + 0.01 * torch.randn(
        RATE, generator=torch.Generator().manual_seed(0)
    )
    frames = log_mel(sound)
    assert torch.allclose(log_mel(0.01 * sound), frames, atol=1e-3)
    assert float(frames.max()) == 0
    assert float(frames.min()) >= -80
    assert (log_mel(torch.zeros(2, RATE)) == -80).all()
    assert log_mel(torch.zeros(2, RATE)).shape == (2, 39, 20)


# -- spoken digits -------------------------------------------------------------------


def test_the_file_is_small_and_needs_no_pickle() -> None:
    assert FILE.stat().st_size < 1_000_000
    with np.load(FILE, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert arrays["decibels_below"].shape == (1200, 39, 20)
    assert arrays["decibels_below"].dtype == np.uint8
    assert arrays["decibels_below"].max() <= 80
    assert (arrays["decibels_below"].min(axis=(1, 2)) == 0).all()
    assert set(arrays["voices"].tolist()) == set(VOICES)
    assert len(set(VOICES)) == 12
    for voice in VOICES:
        said = arrays["words"][arrays["voices"] == voice]
        assert np.bincount(said).tolist() == [10] * 10


def test_no_two_clips_are_the_same() -> None:
    with np.load(FILE, allow_pickle=False) as file:
        clips = file["decibels_below"]
    assert len({clip.tobytes() for clip in clips}) == len(clips)


# Seeds 2, 3 and 5 would draw one of the two names of one voice.
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5])
def test_two_voices_are_held_out_whole(seed: int) -> None:
    data = DATA["spoken_digits"].load(seed=seed)
    with np.load(FILE, allow_pickle=False) as file:
        voice_of = {
            clip.tobytes(): (voice, word)
            for clip, voice, word in zip(
                file["decibels_below"], file["voices"].tolist(), file["words"], strict=True
            )
        }
        most_below = int(file["decibels_below"].max())
    both = torch.cat([data.inputs, data.validation_inputs])
    least, most = both.min(), both.max()
    voices = []
    for inputs, targets in (data.training, data.validation):
        decibels = (most_below * (most - inputs) / (most - least)).round().to(torch.uint8).numpy()
        found = [voice_of[clip.tobytes()] for clip in decibels]
        assert [word for _, word in found] == targets.tolist()
        voices.append({voice for voice, _ in found})
    assert not voices[0] & voices[1]
    assert voices[0] >= ONE_VOICE
    assert [len(each) for each in voices] == [10, 2]
    assert data.classes == WORDS
    assert float(data.inputs.mean()) == pytest.approx(0, abs=1e-4)
    assert float(data.inputs.std()) == pytest.approx(1, abs=1e-4)


def test_a_gru_understands_voices_that_it_never_heard() -> None:
    data = DATA["spoken_digits"].load()
    torch.manual_seed(0)
    gru, read_out = nn.GRU(20, 32, batch_first=True), nn.Linear(32, 10)
    optimizer = torch.optim.Adam([*gru.parameters(), *read_out.parameters()], lr=1e-2)
    rows = torch.Generator().manual_seed(0)
    for _ in range(100):
        batch = torch.randint(len(data.inputs), (64,), generator=rows)
        outputs = read_out(gru(data.inputs[batch])[0][:, -1])
        optimizer.zero_grad()
        data.loss(outputs, data.targets[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        answers = read_out(gru(data.validation_inputs)[0][:, -1]).argmax(dim=1)
    assert (answers == data.validation_targets).float().mean() > 0.8


def test_a_recorded_word_stands_whole_in_its_second_over_faint_noise() -> None:
    word = torch.tensor(tone(300, seconds=0.4), dtype=torch.float32)
    clip = recorded(word, np.random.default_rng(0))
    assert clip.shape == (RATE,)
    starts = nn.functional.conv1d(clip[None, None], word[None, None])[0, 0]
    start = int(starts.argmax())
    rest = torch.cat([clip[:start], clip[start + len(word) :]])
    assert 0 < float(rest.square().mean().sqrt()) < 0.11 * float(word.square().mean().sqrt())
    with pytest.raises(ValueError, match=r"a word takes 1\.20 s"):
        recorded(torch.ones(19_200), np.random.default_rng(0))


# -- one's own folder ----------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two words by three speakers each, a third by the first two, and what is no word."""
    for word, hertz, speakers in (("low", 200, 3), ("high", 3_000, 3), ("mid", 800, 2)):
        (tmp_path / word).mkdir()
        for speaker in range(speakers):
            for take in range(2):
                name = f"{speaker:08x}_nohash_{take}.wav"
                soundfile.write(tmp_path / word / name, tone(hertz + 10 * speaker + take), RATE)
    (tmp_path / "_background_noise_").mkdir()
    soundfile.write(tmp_path / "_background_noise_" / "hum.wav", tone(50), RATE)
    (tmp_path / "README.md").write_text("Speech Commands")
    return tmp_path


def loudest_bands(inputs: torch.Tensor, targets: torch.Tensor) -> dict[int, set[int]]:
    bands = inputs.mean(dim=1).argmax(dim=1).tolist()
    return {
        word: {band for band, target in zip(bands, targets.tolist(), strict=True) if target == word}
        for word in set(targets.tolist())
    }


def test_each_folder_is_a_word_and_speakers_are_held_out_whole(folder: Path) -> None:
    data = from_wav_folder(folder)
    assert data.classes == ("high", "low", "mid")
    assert data.input_shape == (39, 20)
    assert data.kind == "sequence"
    assert (data.outputs, type(data.loss)) == (3, nn.CrossEntropyLoss)
    assert len(data.inputs) + len(data.validation_inputs) == 16
    # One speaker of three: two takes of two words or three.
    assert len(data.validation_inputs) in (4, 6)
    high, low, mid = (min(loudest_bands(*data.training)[word]) for word in range(3))
    assert low < mid < high
    assert torch.equal(from_wav_folder(folder).inputs, data.inputs)


def test_no_speaker_is_on_both_sides() -> None:
    speakers = [f"speaker {i % 7}" for i in range(50)]
    for seed in range(10):
        training, held_out = held_out_groups(speakers, seed)
        assert {speakers[i] for i in training}.isdisjoint({speakers[i] for i in held_out})
        assert sorted([*training.tolist(), *held_out.tolist()]) == list(range(50))


def test_its_lists_say_what_is_held_out_and_what_is_left_out(folder: Path) -> None:
    (folder / "validation_list.txt").write_text(
        "low/00000001_nohash_0.wav\nhigh/00000000_nohash_1.wav\nyes/absent_nohash_0.wav\n"
    )
    (folder / "testing_list.txt").write_text(
        "low/00000002_nohash_0.wav\r\nlow/00000002_nohash_1.wav\r\n"
    )
    data = from_wav_folder(folder)
    assert sorted(data.validation_targets.tolist()) == [0, 1]
    assert data.targets.bincount().tolist() == [5, 3, 4]


def test_words_and_how_many_of_each_can_be_chosen(folder: Path) -> None:
    data = from_wav_folder(folder, words=["mid", "low"], per_word=3)
    assert data.classes == ("mid", "low")
    assert torch.cat([data.targets, data.validation_targets]).bincount().tolist() == [3, 3]
    assert from_wav_folder(folder, seconds=2.0).input_shape == (79, 20)


def test_any_rate_and_stereo_become_one_channel_at_16_khz(tmp_path: Path) -> None:
    stereo = np.stack([tone(440, 44_100), 0 * tone(440, 44_100)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 44_100, subtype="FLOAT")
    sound = read_wave(tmp_path / "stereo.wav")
    assert sound.shape == (RATE,)
    # The filter's ends ring; within, it is the tone at half its height.
    inside = slice(500, -500)
    assert torch.allclose(sound[inside], torch.tensor(tone(440) / 2).float()[inside], atol=2e-3)


def test_shorter_and_longer_recordings_are_brought_to_the_length(tmp_path: Path) -> None:
    for word, seconds in (("short", 0.3), ("long", 1.7)):
        (tmp_path / word).mkdir()
        for take in range(3):
            soundfile.write(tmp_path / word / f"{take}.wav", tone(500, seconds=seconds), RATE)
    data = from_wav_folder(tmp_path)
    assert data.classes == ("long", "short")
    inputs, targets = (torch.cat(pair) for pair in zip(data.training, data.validation, strict=True))
    floor = inputs.min()
    heard = (inputs.amax(dim=2) > floor).sum(dim=1)
    assert heard[targets == 0].tolist() == [39] * 3
    assert set(heard[targets == 1].tolist()) <= {12, 13, 14}
    silent = inputs[targets == 1][0].amax(dim=1) == floor
    assert silent[:12].all()
    assert silent[-12:].all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"words": ["low", "yes"]}, "words names 'yes', .* choose among high, low, mid"),
        ({"words": ["low"]}, "gives the words low: it takes two"),
        ({"words": ["low", "low"]}, "gives the words low, low: it takes two different"),
        ({"words": "low"}, "words must be a list"),
        ({"per_word": 0}, "per_word must be a whole number from 1"),
        ({"seconds": 0.0}, "seconds must be from 0.032 to 60, not 0.0"),
        ({"seconds": float("nan")}, "seconds must be from 0.032 to 60, not nan"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_a_folder_refuses_what_wont_do(folder: Path, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_wav_folder(folder, **arguments)


def test_a_folder_that_isnt_there_or_holds_no_sound_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"nowhere.* is no folder"):
        from_wav_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="gives the words none"):
        from_wav_folder(tmp_path / "empty")
    (folder / "low" / "broken.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match=r"broken\.wav can't be read as sound"):
        from_wav_folder(folder)


def test_lists_that_leave_nothing_are_refused(folder: Path) -> None:
    (folder / "validation_list.txt").write_text("yes/absent_nohash_0.wav\n")
    with pytest.raises(ValueError, match=r"validation_list\.txt names 0 of the 16 recordings"):
        from_wav_folder(folder)
    (folder / "validation_list.txt").unlink()
    every = [f"low/{path.name}" for path in (folder / "low").iterdir()]
    (folder / "testing_list.txt").write_text("\n".join(every))
    with pytest.raises(ValueError, match=r"testing_list\.txt leaves no recording of 'low'"):
        from_wav_folder(folder)


def test_an_empty_recording_is_named(folder: Path) -> None:
    soundfile.write(folder / "low" / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(ValueError, match=r"empty\.wav holds no samples"):
        from_wav_folder(folder)


@pytest.mark.parametrize("absent", ["soundfile", "scipy"])
def test_without_the_extra_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == absent]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf'needs {absent}.*pip install "gradflow_widget\[audio\]"'
    ):
        from_wav_folder(folder)
