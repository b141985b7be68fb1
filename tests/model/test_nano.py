"""The glass-box LLM reads the text world, and what ships does so on every rung."""

import itertools
import json
import pkgutil
import random
import re

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from desta_lab.evaluation.tasks import PARAPHRASES, TRAINED_PROMPT, Task, task_ladder
from desta_lab.evaluation.text_world import (
    NANO_ROWS,
    generate_text_world,
    nano_training_rows,
    unseen_descriptions,
)
from desta_lab.model import nano
from desta_lab.model.weights import NANO_FOLDER
from desta_lab.world.attributes import ATTRIBUTES, NEUTRAL
from desta_lab.world.describe import attribute_coverage, describe

ENOUGH = 0.95  # of a text oracle
COMBINATIONS = [
    dict(zip(ATTRIBUTES, values, strict=True)) for values in itertools.product(*ATTRIBUTES.values())
]


@pytest.fixture(scope="module")
def shipped() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    return AutoModelForCausalLM.from_pretrained(NANO_FOLDER), AutoTokenizer.from_pretrained(
        NANO_FOLDER
    )


@pytest.fixture(scope="module")
def clips() -> list[dict[str, str]]:
    """Clips with every value of every attribute, half of combinations that were not trained."""
    unseen = unseen_descriptions()
    draw = random.Random(0)
    new, old = (
        [a for a in COMBINATIONS if (describe(a) in unseen) == hidden] for hidden in (True, False)
    )
    picked = [
        clip
        for pair in zip(draw.sample(new, 24), draw.sample(old, 24), strict=True)
        for clip in pair
    ]
    assert all({a[name] for a in picked} == set(values) for name, values in ATTRIBUTES.items())
    return picked


def prompt(description: str, question: str, tagged: bool) -> str:
    """The conversation written out by hand: no template, no code of the package."""
    said = f"<start_audio>{description}<end_audio>" if tagged else description
    return (
        "<|im_start|>system\nFocus on the audio clips and instructions.<|im_end|>\n"
        f"<|im_start|>user\n{said}\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )


@torch.no_grad()
def log_probabilities(model, beginnings: list[list[int]], options: list[list[int]]) -> torch.Tensor:
    """Of each option (column) behind each beginning (row), read together: what pads the shorter
    ones stands behind them, where nothing looks at it.
    """
    pairs = list(itertools.product(beginnings, options))
    rows = [torch.tensor(beginning + option) for beginning, option in pairs]
    logp = model(pad_sequence(rows, batch_first=True)).logits.log_softmax(-1)
    found = [
        sum(float(logp[row, len(beginning) - 1 + i, token]) for i, token in enumerate(option))
        for row, (beginning, option) in enumerate(pairs)
    ]
    return torch.tensor(found).unflatten(0, (len(beginnings), len(options)))


def accuracy(
    model, words, task: Task, clips: list[dict[str, str]], tagged: bool
) -> tuple[float, float]:
    """Raw and calibrated accuracy of ranking the options, all values weighing the same."""
    options = [words.encode(text, add_special_tokens=False) for text in task.options.values()]
    said = [prompt(describe(a, topic=task.rung == 5), task.question, tagged) for a in clips]
    stem = words.encode(task.stem, add_special_tokens=False)
    beginnings = [words.encode(one, add_special_tokens=False) + stem for one in said]
    scores, values = log_probabilities(model, beginnings, options), list(task.options)
    right = torch.tensor([values.index(a[task.attribute]) for a in clips])
    calibrated = scores - torch.stack(
        [scores[right == k].mean(0) for k in range(len(values))]
    ).mean(0)
    return tuple(float((s.argmax(1) == right).float().mean()) for s in (scores, calibrated))


@torch.no_grad()
def answer(model, words, said: list[str], tokens: int = 64) -> list[tuple[str, bool]]:
    """Greedy answers, step by step without a cache, and whether each came to its end."""
    starts = [words.encode(one, add_special_tokens=False) for one in said]
    answers: list[list[int]] = [[] for _ in said]
    ended = [False] * len(said)
    for _ in range(tokens):
        open_rows = [row for row, done in enumerate(ended) if not done]
        if not open_rows:
            break
        ids = [torch.tensor(starts[row] + answers[row]) for row in open_rows]
        logits = model(pad_sequence(ids, batch_first=True)).logits
        for row, own, of_row in zip(open_rows, ids, logits, strict=True):
            token = int(of_row[len(own) - 1].argmax())
            ended[row] = token == words.eos_token_id
            answers[row] += [token] * (not ended[row])
    return [(words.decode(own), end) for own, end in zip(answers, ended, strict=True)]


# ---- what ships ----


@pytest.mark.parametrize("tagged", [False, True], ids=["bare", "where the audio stands"])
def test_the_shipped_model_answers_every_task_from_text(shipped, clips, tagged):
    low = {}
    for task in task_ladder():
        figures = accuracy(*shipped, task, clips[24 * tagged :][:24], tagged)
        if min(figures) < ENOUGH:
            low[task.name] = figures
    assert not low


@pytest.mark.parametrize("question", [TRAINED_PROMPT, *PARAPHRASES])
def test_its_answer_to_the_trained_prompt_says_everything_and_ends(shipped, clips, question):
    some = clips[::4]
    said = [prompt(describe(a), question, tagged=i % 2 == 1) for i, a in enumerate(some)]
    answers = answer(*shipped, said)
    texts = [text for text, _ in answers]
    assert all(ended for _, ended in answers)
    assert min(attribute_coverage(texts, some).values()) >= ENOUGH


def test_its_answers_to_questions_are_the_right_sentences(shipped, clips):
    wrong = []
    asked = [task for task in task_ladder() if task.rung >= 2]
    about = list(itertools.islice(itertools.cycle(clips[::5]), len(asked)))
    said = [
        prompt(describe(a, topic=task.rung == 5), task.question, tagged=True)
        for task, a in zip(asked, about, strict=True)
    ]
    for task, a, (text, ended) in zip(asked, about, answer(*shipped, said), strict=True):
        if not (ended and text.startswith(task.stem + task.options[a[task.attribute]])):
            wrong.append((task.name, text))
        elif task.stem.startswith("{"):
            json.loads(text)
    assert not wrong


def test_told_nothing_it_has_no_strong_favourite(shipped):
    """A neutral sentence leaves every option above a hundredth: no prior wins."""
    model, words = shipped
    for task in (task for task in task_ladder() if task.rung == 3):
        options = [words.encode(text, add_special_tokens=False) for text in task.options.values()]
        said = prompt(NEUTRAL, task.question, tagged=True)
        beginning = words.encode(said, add_special_tokens=False) + words.encode(
            task.stem, add_special_tokens=False
        )
        share = log_probabilities(model, [beginning], options)[0].softmax(0)
        assert share.min() > 0.01, task.name


def test_other_words_do_not_stop_it(shipped):
    model, words = shipped
    strange = 'Ein Fräulein spricht: „Здравствуйте“ 🎻 <|AUDIO|>\tzzyzx "{\\'
    ids = words.encode(strange, add_special_tokens=False)
    assert words.decode(ids) == strange
    said = prompt(strange, "Wie spät ist es?", tagged=False)
    assert isinstance(answer(model, words, [said], tokens=8)[0][0], str)


def test_it_is_small_frozen_easily_and_of_ordinary_scale(shipped):
    model, _ = shipped
    assert sum(file.stat().st_size for file in NANO_FOLDER.iterdir()) < 12 * 2**20
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 4e6
    assert not [m for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    assert model.config.attention_dropout == 0
    assert 0.03 < model.get_input_embeddings().weight.square().mean().sqrt() < 0.5


def test_its_recipe_says_what_it_was_measured_to_do():
    recipe = json.loads((NANO_FOLDER / "recipe.json").read_text())
    calls = re.findall(r"[\w.]+(?=\()", recipe["made_by"])
    assert list(map(pkgutil.resolve_name, calls)) == [nano.train_nano, nano_training_rows]
    assert set(recipe["oracle"]) == {task.name for task in task_ladder()}
    assert min(min(figures) for figures in recipe["oracle"].values()) >= ENOUGH
    assert recipe["rows"]["count"] == NANO_ROWS
    assert set(recipe["rows"]["unseen"]) == unseen_descriptions()
    assert recipe["seconds"]["cpu"] <= 600


# ---- tokenizer ----


def test_stem_and_option_are_tokens_of_the_whole(shipped):
    words = shipped[1]
    for task in task_ladder():
        stem = words.encode(task.stem, add_special_tokens=False)
        for option in task.options.values():
            whole = words.encode(task.stem + option, add_special_tokens=False)
            assert whole == stem + words.encode(option, add_special_tokens=False), (
                task.name,
                option,
            )


def test_every_word_and_mark_of_the_text_world_is_one_token(shipped):
    words = shipped[1]
    for row in generate_text_world(200, seed=7):
        for text in row:
            pieces = words.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
            assert len(words.encode(text, add_special_tokens=False)) == len(pieces), text
    for mark in ("<|im_start|>", "<|im_end|>", "<start_audio>", "<end_audio>"):
        assert len(words.encode(mark, add_special_tokens=False)) == 1


def test_the_chat_template_is_chatml(shipped):
    messages = [
        {"role": "system", "content": "Focus on the audio clips and instructions."},
        {"role": "user", "content": "A man.\nWho?"},
    ]
    text = shipped[1].apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == prompt("A man.", "Who?", tagged=False)
    assert shipped[1].eos_token == "<|im_end|>"
    assert shipped[1].pad_token_id not in (None, shipped[1].eos_token_id)


# ---- training ----

SMALL = {"steps": 40, "batch": 8, "width": 64, "layers": 2}


def test_training_lowers_the_loss_and_repeats_itself():
    rows, losses = list(generate_text_world(320, seed=3)), []
    before = torch.random.get_rng_state()
    first, words = nano.train_nano(
        rows, **SMALL, progress=lambda done, total, news: losses.append(news["loss"])
    )
    second, _ = nano.train_nano(rows, **SMALL)
    other, _ = nano.train_nano(rows, **SMALL, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(losses) == SMALL["steps"]
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert not torch.equal(first.get_input_embeddings().weight, other.get_input_embeddings().weight)
    assert not any(p.requires_grad for p in first.parameters())
    assert len(words) == first.config.vocab_size


def test_only_the_answer_and_its_end_are_learned():
    row = ("A man talks.", "Who?", "A man.")
    words = nano.build_tokenizer(row)
    for tagged in (False, True):
        ids, labels = nano._encode(row, words, tagged=tagged)
        assert words.decode(ids) == prompt(*row[:2], tagged) + "A man.<|im_end|>"
        learned = [label for label in labels if label != nano.IGNORED]
        assert words.decode(learned) == "A man.<|im_end|>"
        assert labels[-len(learned) :] == ids[-len(learned) :] == learned


def test_what_is_saved_comes_back(tmp_path):
    model, words = nano.train_nano(generate_text_world(16), steps=1, batch=2, width=32, layers=1)
    nano.save_nano(model, words, tmp_path, {"seed": 0})
    again, reader = (
        AutoModelForCausalLM.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    assert reader.encode("The speaker is") == words.encode("The speaker is")
    assert reader.chat_template == words.chat_template
    assert again.generation_config.eos_token_id == words.eos_token_id
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"seed": 0}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    } <= {file.name for file in tmp_path.iterdir()}


def test_training_on_nothing_is_refused_in_words():
    with pytest.raises(ValueError, match="0 rows"):
        nano.train_nano([])
