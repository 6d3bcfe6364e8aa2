"""Sound: its samples as a series, or a log-mel spectrogram as a raster."""

from __future__ import annotations

import io

import numpy as np

from ...sensors.parts import Mel
from ...sensors.reading import Reading
from . import checks

_LEAST = 1e-10  # power that counts as silence, -100 dB


def sound(data: bytes, reading: Reading) -> checks.Found:
    """float32 (samples, channels) in -1 to 1; with `mel` (bins, frames, channels) in dB, high tones first."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            checks.size((file.frames, file.channels), np.dtype(np.float32))
            samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise ValueError(f"not sound that can be read ({error})") from error
    if len(reading.bands) <= 1:
        samples = samples.mean(1, keepdims=True)  # what several microphones heard together
    if reading.mel is None:
        return checks.Found(samples)
    return checks.Found(np.stack([log_mel(one, rate, reading.mel) for one in samples.T], axis=-1), "dB")


def log_mel(samples: np.ndarray, rate: int, mel: Mel) -> np.ndarray:
    """float32 (bins, frames): the power in triangular bands that are even on HTK's mel scale, in dB; high tones first.

    Windows are a Hann's, and their power is that of a sine of amplitude 1 at 0 dB, whatever the rate and the window.

    ValueError if the sound is shorter than a window, or its rate too low for `mel.high`.
    """
    width = round(mel.window * rate)
    if len(samples) < width:
        raise ValueError(f"{len(samples) / rate:.3g} s of sound, shorter than the window of {mel.window:g} s; see mel")
    if mel.high > rate / 2:
        raise ValueError(f"sound of {rate} Hz, in which there is nothing up to mel.high, {mel.high:g} Hz")
    last = len(samples) - width
    if mel.frames:
        starts = np.linspace(0, last, mel.frames).round().astype(np.int64)
    else:
        starts = (np.arange(int(last / (mel.hop * rate)) + 1) * mel.hop * rate).round().astype(np.int64)
    hann = np.hanning(width + 1)[:-1]
    size = 1 << (max(width, mel.bins * 4) - 1).bit_length()
    filters = _triangles(size, rate, mel)
    power = np.empty((len(starts), mel.bins))
    for first in range(0, len(starts), 1024):  # a minute's windows are fifty times its samples
        part = starts[first : first + 1024]
        windows = samples[part[:, None] + np.arange(width)] * hann
        power[first : first + len(part)] = np.abs(np.fft.rfft(windows, size)) ** 2 @ filters.T
    scale = (2 / hann.sum()) ** 2
    decibel = 10 * np.log10(np.maximum(power * scale, _LEAST))
    return np.ascontiguousarray(decibel.T[::-1], np.float32)


def _triangles(size: int, rate: int, mel: Mel) -> np.ndarray:
    """(bins, size // 2 + 1): each rises from the centre of the one before to its own, and falls to the next one's."""
    low, high = (1127 * np.log1p(hertz / 700) for hertz in (mel.low, mel.high))
    edges = 700 * np.expm1(np.linspace(low, high, mel.bins + 2) / 1127)
    tones = np.arange(size // 2 + 1) * rate / size
    below, centre, above = (edges[i : i + mel.bins, None] for i in range(3))
    return np.clip(np.minimum((tones - below) / (centre - below), (above - tones) / (above - centre)), 0, None)
