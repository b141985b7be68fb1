"""Small files in the formats of the test sets."""

import json
from pathlib import Path

import pandas as pd

from desta_lab.benchmarks.speech_ifeval import BENCHMARK, check_items

CAPITAL = {"instruction_id_list": ["change_case:english_capital"], "kwargs": [{}]}


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def mmau(**more: object) -> dict:
    return {
        "id": "7",
        "audio_id": "./a/7.wav",
        "question": "What?",
        "choices": ["dog", "cat"],
        "answer": "cat",
        "task": "sound",
        **more,
    }


def sakura(folder: Path, answered: dict[str, list[int]], judged: bool = False) -> Path:
    """One track in SAKURA's format: which clips each hop has right; letters balanced."""
    for hop, correct in answered.items():
        rows = {}
        for i in range(8):
            letter, other = "ab"[i % 2], "ba"[i % 2]
            rows[f"{i}.wav"] = {
                "instruction": "Which? (a) dog (b) cat",
                "label": f"({letter}) {['dog', 'cat'][i % 2]}",
                "response": f"({letter if i in correct else other})",
            }
        about = {"attribute": "Animal", "type": hop}
        write_json(folder / f"m_{hop}.json", about | {"results": rows})
        if judged:
            words = {clip: {"Judgement": "correct"} for clip in rows}
            write_json(folder / f"m_{hop}_judgements.json", {"judge_model": "m", "results": words})
    return folder


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answers(folder: Path, *, capital: int, reasoned: int, of: int = 10) -> Path:
    """Speech-IFEval's layout, with so many closed-ended and chain-of-thought items right."""
    closed = [
        {"id": i, "response": "RAIN" if i < capital else "rain", **CAPITAL} for i in range(of)
    ]
    long, short = "First I listen. Then I say rain.", "Rain."
    cot = [
        {"id": i, "response": long if i < reasoned else short, "metric": "cot"} for i in range(of)
    ]
    write(folder / "closed_ended_questions.jsonl", closed)
    write(folder / "chain-of-thought.jsonl", cot)
    return folder


def speech_items(folder: Path) -> pd.DataFrame:
    """Every item of a folder of Speech-IFEval's, checked."""
    return check_items(BENCHMARK.read(folder))
