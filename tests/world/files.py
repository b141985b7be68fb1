"""Small files for tests: noise where audio is wanted, and tables."""

import numpy as np
import soundfile


def write_noise(path, seconds=0.5, rate=8_000, **kind):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate))
    soundfile.write(str(path), wave, rate, **kind)


def write_lines(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
