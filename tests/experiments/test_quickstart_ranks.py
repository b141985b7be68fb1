"""The whole quickstart command on two processes comes to its end, on the spoken world and on one's
own clips.
"""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import soundfile

from desta_lab.audio import RATE
from tests import tiny

ROOT = Path(__file__).parents[2]

# A random encoder, the nano LLM and two steps: what matters is who waits for whom.
JOB = """
import os, sys
from desta_lab import cli
from desta_lab.model import presets
from desta_lab.model.presets import ConnectorShape, Preset

SHAPE = ConnectorShape(
    depth=1, heads=4, ffn=64, width=32, post_norm=False, dropout=0.0, scaled=True, anchored=True
)

def small():
    return Preset(
        "small", os.environ["ENCODER"], presets.NANO, "a test", seconds=4.0, connector=SHAPE,
        clips={"train": 24, "validation": 8, "test": 8}, steps=2, batch=4, checkpoint_every=1,
        test=8, held_out=4, free_form_clips=1, taps=(0, 1),
    )

presets.PRESETS["small"] = small
sys.exit(cli.main(["quickstart", "--preset", "small", *sys.argv[1:]]))
"""


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The quickstart in two processes of `accelerate launch`, on gloo."""
    encoder = tiny.hf_folder(folder / "encoder", tiny.whisper(layers=2))
    (folder / "job.py").write_text(JOB)
    options = (
        "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", *options.split()]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DESTA_LAB_DATA": str(folder / "data"),
        "ENCODER": str(encoder),
    }
    return subprocess.run(
        [*command, "--main_process_port", "0", str(folder / "job.py"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def own_clips(folder: Path) -> Path:
    """A folder of short tones with a table in words that the nano LLM knows."""
    folder.mkdir()
    count = 18
    for i in range(count):
        soundfile.write(folder / f"{i}.wav", tiny.wave(i), RATE)
    scenes = (["rain", "music", "birds"] * count)[:count]
    manners = (["spoken", "whispered"] * count)[:count]
    names = [f"{i}.wav" for i in range(count)]
    table = {"audio": names, "speaker": ["me"] * count, "manner": manners, "scene": scenes}
    pd.DataFrame(table).to_csv(folder / "clips.csv", index=False)
    return folder


@pytest.mark.parametrize("whose", ["the spoken world", "one's own"])
def test_two_processes_finish_the_quickstart(whose: str, tmp_path: Path):
    own = ["--corpus", str(own_clips(tmp_path / "mine"))] if whose == "one's own" else []
    done = launch(tmp_path, *own, "--out", str(tmp_path / "out"))
    words = [line for line in done.stderr.splitlines() if line.startswith("Rank")]
    assert done.returncode == 0, words or done.stderr[-3000:]
    assert (tmp_path / "out" / "card.html").exists()
    assert done.stdout.count("See:   ") == 1
