"""The benchmark of one GPU: every row for real with tiny models, and what it says without one."""

import inspect
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from desta_lab import cli
from desta_lab.bench import gpu, ratios
from desta_lab.bench.gpu import Card, Case
from desta_lab.model import connector
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone
from desta_lab.published.systems import PARAMETERS
from desta_lab.views.progress import no_progress
from tests import tiny

CARD = Card(torch.device("cpu"), "NVIDIA H200", 139.8)
EARS = gpu.whisper("Whisper tiny", 4, 32, 2)
VOCABULARY = {"vocab_size": len(tiny.tokenizer()), "initializer_range": 0.2}
MIND = gpu.llm("0.1 M", "qwen2", 48, 2, (4, 2), intermediate_size=96, **VOCABULARY)


def small(case: Case) -> Case:
    """The same form with tiny parts."""
    shape = replace(case.preset.connector, heads=2, ffn=32, depth=1)
    shape = replace(shape, width=32 if shape.width else None)
    return Case(replace(case.preset, batch=2, seconds=0.4, connector=shape), EARS, MIND)


CASES = [small(gpu.CASES[0]), small(gpu.CASES[-1])]
COMPILED, PEAK = "step / step with compiled connector", "peak memory of a step"
STEPS = {
    "training step / floor": ("x", "≤ 1.05"),
    "published manner / step": ("x", "≥ 2"),
    "step with the encoder in it / step": ("x", ""),
    COMPILED: ("x", ""),
    "training": ("samples/s", ""),
    "model-FLOPs utilisation": ("%", ""),
    PEAK: ("GB", ""),
}
WRITING = "writing targets (0.1 M, 64 at once)"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is the CPU under another name, in float32, and the tiny tokenizer.

    The connector's methods are without the checks of the tests, which cannot be compiled.
    """
    for module in (connector.QFormer, connector.Block, connector.Attention):
        plain = {name: inspect.unwrap(one) for name, one in vars(module).items() if callable(one)}
        for name, method in plain.items():
            monkeypatch.setattr(module, name, method)
    monkeypatch.setattr(gpu.build, "pick_dtype", lambda device: torch.float32)
    monkeypatch.setattr(gpu, "find_card", lambda: CARD)
    monkeypatch.setattr(gpu.weights, "find_weights", lambda name: name)
    monkeypatch.setattr(gpu.weights, "load_tokenizer", lambda folder: tiny.tokenizer())


def test_every_row_is_measured_and_both_caches_give_the_same_answers(
    card, monkeypatch: pytest.MonkeyPatch
):
    usual, written = Backbone.generate_ids, {}

    def write(backbone, streams, **how):
        answers = usual(backbone, streams, **how)
        written.setdefault(how.get("cache_implementation"), []).append(answers)
        return answers

    monkeypatch.setattr(Backbone, "generate_ids", write)
    monkeypatch.setattr(gpu, "_measure_peak", lambda work, card: work() or {"peak_gb": 3.5})
    said = []
    told = gpu.run(lambda stage: lambda *news: said.append(news), CASES, [MIND], rounds=1)
    assert told["left_out"] == []
    steps = {f"{case.name}: {row}": form for case in CASES for row, form in STEPS.items()}
    caches = {f"{WRITING}, {kind} cache": ("tokens/s", "") for kind in ("usual", "static")}
    rows = told["rows"]
    assert {row["name"]: (row["unit"], row["aim"]) for row in rows} == steps | caches
    assert all(tuple(row) == ratios.COLUMNS and row["value"] > 0 for row in rows)
    assert rows[-1]["detail"].endswith("64 of 64 answers are those of the usual cache")
    first, *others = [*written.pop("static"), *written.pop(None)]
    assert len(others) == 4 and all(answers == first for answers in others)
    assert [len(ids) for ids in first] == [40] * 64 and len(set(first)) > 32
    assert (told["device"], told["torch"]) == ("NVIDIA H200", torch.__version__)
    assert said[0][0].startswith("2 cases of training and 1 of writing, of random weights, on NVID")
    assert [news for news in said if len(news) == 2] == [(1, 3), (2, 3), (3, 3)]


def test_ratios_are_those_of_the_measured_times():
    times = {"step": 0.5, "floor": 0.4, "published": 2.0, "heard": 0.75, "compiled": 0.25}
    facts = {"tokens": 1000, "body": 1e9, "peak_gb": 3.5, "warm_up": 31.0}
    rows = gpu.step_rows(CASES[0], times, facts, CARD)
    share = 100 * 4 * 1e9 * 1000 / 0.5 / 989e12
    assert [row[1] for row in rows] == pytest.approx([1.25, 4.0, 1.5, 2.0, 4.0, share, 3.5])
    assert "500.0 ms against 400.0 ms" in rows[0][4] and "first steps of 31.0 s" in rows[3][4]
    unknown = replace(CARD, name="NVIDIA L40S")
    assert len(gpu.step_rows(CASES[0], times, facts, unknown)) == len(rows) - 1


def test_what_does_not_fit_or_does_not_compile_is_a_sentence_and_the_rest_goes_on(
    card, monkeypatch: pytest.MonkeyPatch
):
    def run_out(case, *parts):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.71 GiB.")

    def no_compiler(*inputs, **how):
        raise RuntimeError("Failed to find C compiler.\nPlease set CC.")

    usual = gpu._published_step
    monkeypatch.setattr(
        gpu,
        "_published_step",
        lambda case, *parts: (run_out if case is CASES[0] else usual)(case, *parts),
    )
    compiled = []

    def compile_connector(system):
        compiled.append(AudioLLM(system.encoder, system.connector, system.backbone))
        return compiled[-1]

    take = gpu.take_step
    monkeypatch.setattr(gpu, "_compile_connector", compile_connector)
    monkeypatch.setattr(
        gpu, "take_step", lambda llm, *how: (no_compiler if llm in compiled else take)(llm, *how)
    )
    told = gpu.run(no_progress, CASES, [], rounds=1)
    first, second = (case.name for case in CASES)
    assert told["left_out"] == [
        f"{first} is left out: it does not fit the 139.8 GB of NVIDIA H200.",
        f"The compiled connector of {second} is left out: RuntimeError: Failed to find C compiler.",
    ]
    assert [row["name"] for row in told["rows"]] == [
        f"{second}: {row}" for row in STEPS if row not in (COMPILED, PEAK)
    ]


def test_real_sizes_are_those_of_the_models_they_stand_for():
    sizes = [case.backbone for case in gpu.CASES]
    counts = [gpu.count_parameters(size) / 1e9 for size in sizes]
    assert counts == pytest.approx([0.494, 1.544, 4.022, 8.030], abs=5e-4)
    for size, name in ((gpu.SMALL, "small"), (gpu.LARGE, "large-v3")):
        with torch.device("meta"):
            encoder = gpu._random_model(size, torch.float32).encoder
        assert encoder.num_parameters() == PARAMETERS[f"openai/whisper-{name}"][1]
    batches = [case.preset.batch for case in gpu.CASES]
    assert batches == [16, 16, 16, 12]


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("Tesla T4", 65),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_a_card_is_known_by_its_name(name: str, peak: int | None):
    assert replace(CARD, name=name).peak == peak


def test_without_a_gpu_the_command_refuses_in_a_sentence(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--gpu", "--json"]) == 2
    assert capsys.readouterr() == ("", f"{gpu.NO_GPU}\n")


def test_the_command_prints_a_table_or_everything_as_json(capsys, monkeypatch: pytest.MonkeyPatch):
    row = dict(zip(ratios.COLUMNS, ("t4 form: training", 12.5, "samples/s", "", "x"), strict=True))
    told = {"device": "NVIDIA H200", "rows": [row], "left_out": ["The rest is left out: why."]}
    card = SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(gpu, "find_card", lambda: card)
    monkeypatch.setattr(gpu, "run", lambda progress: told)
    assert cli.main(["bench", "--gpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["t4", "form:", "training", "12.50", "samples/s", "x"]
    assert lines[1] == "The rest is left out: why."
    assert cli.main(["bench", "--gpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == told
