"""Workers share a machine fairly, and each task ends with a word about how."""

import os
import sys

import pytest

from desta_lab import launchers

WORKER = """
import os, sys
for line in sys.stdin:
    print("told", line.strip(), file=sys.stderr)
    exec(line)
    print("task done", flush=True)
"""


def test_a_task_that_ends_its_worker_says_how_unless_a_person_stopped_it_and_another_worker_goes_on():
    tasks = [
        "print('heard')",
        "raise SystemExit('No such cell.')",
        "os.kill(os.getpid(), 15)",
        "os._exit(3)",
        "pass",
    ]
    ended = dict(launchers.run_workers([sys.executable, "-c", WORKER], tasks, jobs=2))
    assert ended == {
        0: None,
        1: "Its process ended with status 1: No such cell.",
        2: None,
        3: "Its process ended with status 3: told os._exit(3)",
        4: None,
    }


def test_a_worker_does_one_task_after_the_other_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(launchers, "MOST", 2)
    tasks = [f"open({str(tmp_path / str(i))!r}, 'w').write(str(os.getpid()))" for i in range(4)]
    list(launchers.run_workers([sys.executable, "-c", WORKER], tasks, jobs=1))
    who = [(tmp_path / str(i)).read_text() for i in range(4)]
    assert who[0] == who[1] != who[2] == who[3]


def test_processes_share_cores_and_take_gpus_in_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launchers.worker_environment(0, 3, [])["OMP_NUM_THREADS"] == "5"
    assert "CUDA_VISIBLE_DEVICES" not in launchers.worker_environment(0, 3, [])
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert launchers.worker_environment(0, 3, [])["OMP_NUM_THREADS"] == "2"
    assert launchers.worker_environment(0, 40, [])["MKL_NUM_THREADS"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [
        launchers.worker_environment(slot, 4, launchers.visible_gpus())["CUDA_VISIBLE_DEVICES"]
        for slot in range(4)
    ] == ["4", "6", "4", "6"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launchers.visible_gpus() == []
