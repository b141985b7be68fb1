"""Workers share a machine fairly, survive one another, and say how each task ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from desta_lab import processes


def work(task: tuple[str, Any]) -> None:
    """What a worker is given here: a word on how to end, and where to write who did it."""
    how, detail = task
    if how == "raise":
        raise ValueError("No such cell.")
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "die":
        os._exit(3)
    if how == "wait":
        draft = Path(f"{detail}.part")
        draft.write_text(str(os.getpid()))
        draft.rename(detail)
        time.sleep(600)
    if how == "sign":
        Path(detail).write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")


def test_a_task_says_how_it_ended_unless_a_person_stopped_it_and_the_others_go_on():
    tasks = [("done", None), ("raise", None), ("stopped", None), ("die", None), ("done", None)]
    ended = dict(processes.run_workers(work, tasks, jobs=2))
    assert ended == {
        0: None,
        1: "ValueError: No such cell.",
        2: None,
        3: "Its process ended with status 3",
        4: None,
    }


def test_a_worker_does_one_task_after_the_other_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "TASKS_PER_WORKER", 2)
    tasks = [("sign", str(tmp_path / str(i))) for i in range(4)]
    list(processes.run_workers(work, tasks, jobs=1))
    who = [(tmp_path / str(i)).read_text() for i in range(4)]
    assert who[0] == who[1] != who[2] == who[3]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are counted in /proc")
def test_a_script_whose_workers_would_start_workers_is_told_how_to_prevent_it(tmp_path):
    script, start = tmp_path / "mine.py", "print(*processes.run_workers(len, ['ab'], jobs=1))"
    for guard, words in (("", "worker processes import this script; put"), ("main", "(0, None)")):
        below = f'if __name__ == "__main__":\n    {start}' if guard else start
        script.write_text(f"from desta_lab import processes\n{below}\n")
        run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
        assert words in run.stdout + run.stderr, guard


def test_workers_end_with_the_process_that_started_them(tmp_path):
    pids = [str(tmp_path / str(i)) for i in range(2)]
    code = (
        "from desta_lab import processes; from tests.test_workers import work; "
        f"list(processes.run_workers(work, [('wait', path) for path in {pids}], jobs=2))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    main = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=Path.cwd())
    wait_until(lambda: all(Path(path).exists() for path in pids), seconds=60)
    main.kill()
    main.wait()
    workers = [int(Path(path).read_text()) for path in pids]
    wait_until(lambda: not any(map(is_running, workers)), seconds=20)


def wait_until(holds, seconds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "It took too long."
        time.sleep(0.1)


def is_running(pid):
    """Whether a process is there, and no mere entry that nobody has read yet (a zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_workers_share_cores_and_take_gpus_in_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert processes.worker_environment(0, 3, [])["OMP_NUM_THREADS"] == "5"
    assert "CUDA_VISIBLE_DEVICES" not in processes.worker_environment(0, 3, [])
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert processes.worker_environment(0, 3, [])["OMP_NUM_THREADS"] == "2"
    assert processes.worker_environment(0, 40, [])["MKL_NUM_THREADS"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    gpus = processes.visible_gpus()
    cards = [
        processes.worker_environment(slot, 4, gpus)["CUDA_VISIBLE_DEVICES"] for slot in range(4)
    ]
    assert cards == ["4", "6", "4", "6"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert processes.visible_gpus() == []
