"""Every notebook is built from its one source, runs from the top solved and unsolved, and keeps the
course's form.
"""

import ast
import re
import statistics
from collections.abc import Iterator
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GroupKFold

from desta_lab.analysis import geometry
from desta_lab.course import checks, notebooks
from desta_lab.course.checks import notebook_06, notebook_07, notebook_08
from desta_lab.model import chat, weights
from desta_lab.model.backbone import Backbone
from desta_lab.views import style

SOURCES = {source.name[:2]: source for source in notebooks.find_sources()}
BUILT = notebooks.build_files()
MINUTES = (15, 45)  # of a student's time, exercises alone


@pytest.mark.parametrize("path", sorted(BUILT), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_notebooks_are_what_their_sources_build(path) -> None:
    assert path.exists() and path.read_bytes() == BUILT[path], "run `python -m desta_lab course`"


@pytest.mark.parametrize("path", sorted(BUILT), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_a_notebook_links_to_is_there(path) -> None:
    cells = nbformat.reads(BUILT[path].decode(), 4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    prose = re.sub(r"```.*?```", "", prose, flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", prose)
    assert not [link for link in links if not (path.parent / link).exists()]


@pytest.mark.parametrize("number", SOURCES)
@pytest.mark.parametrize("solved", [True, False], ids=["solved", "student"])
def test_a_notebook_is_valid_and_carries_no_outputs(number: str, solved: bool) -> None:
    notebook = notebooks.build_notebook(SOURCES[number], solved=solved)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert "colab.research.google.com" in notebook.cells[0].source
    assert not any("### " in cell.source for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("number", SOURCES)
def test_a_notebook_asks_one_question_and_its_exercises_say_kind_and_minutes(number: str) -> None:
    title = notebooks.build_notebook(SOURCES[number], solved=False).cells[0].source.splitlines()[2]
    assert re.match(rf"# {number} · .+\?$", title), title
    asked = notebooks.list_exercises(SOURCES[number])
    assert len(asked) >= 3 and len({one["kind"] for one in asked}) >= 2, asked
    assert {one["kind"] for one in asked} <= {"predict", "fill in", "break", "tweak"}
    assert [one["number"] for one in asked] == [f"{int(number)}.{i + 1}" for i in range(len(asked))]
    assert MINUTES[0] <= sum(one["minutes"] for one in asked) <= MINUTES[1], asked


@pytest.mark.parametrize("number", SOURCES)
def test_a_notebook_takes_an_hour_with_its_exercises_and_says_its_minutes(number: str) -> None:
    cells = notebooks.build_notebook(SOURCES[number], solved=False).cells
    exercises = sum(one["minutes"] for one in notebooks.list_exercises(SOURCES[number]))
    reading = notebooks.reading_minutes(SOURCES[number])
    said = re.search(r"(\d+) minutes of exercises, about (\d+) of reading", cells[0].source)
    assert said and int(said[1]) == exercises
    assert abs(int(said[2]) - reading) < 5 and exercises + reading < 60


@pytest.mark.parametrize("number", SOURCES)
def test_every_exercise_has_stub_check_hint_and_solution(number: str) -> None:
    cells = notebooks.build_notebook(SOURCES[number], solved=False).cells
    tags = [tag for cell in cells for tag in cell.metadata.get("tags", [])]
    assert tags.count("headline") == 1
    assert tags.count("exercise") == tags.count("solution") and tags.count("exercise") >= 2
    for i, cell in enumerate(cells):
        if "exercise" in cell.metadata.get("tags", []):
            assert cells[i + 1].source.startswith("lesson.check("), cell.source
            assert "hint" in cells[i + 2].metadata.get("tags", []), cell.source


@pytest.mark.parametrize("number", SOURCES)
def test_cells_are_short(number: str) -> None:
    lines = [
        len(c.source.splitlines())
        for c in notebooks.build_notebook(SOURCES[number], solved=True).cells
        if c.cell_type == "code"
    ]
    assert statistics.median(lines) <= 8 and max(lines) <= 25, sorted(lines)


@pytest.mark.parametrize("number", SOURCES)
def test_what_the_student_writes_is_what_the_notebook_goes_on_with(number: str) -> None:
    text = SOURCES[number].read_text()
    written = re.findall(r'lesson\.check\("(\w+)"', text)
    used = re.findall(r'(\w+) = lesson\.use\(\s*"(\w+)"', text)
    assert sorted(written) == sorted(name for _, name in used)
    for called, name in used:
        assert re.search(rf"\b{called}\(", text.split(f'lesson.use("{name}"')[1]), called


def read_cells(number: str) -> list[ast.Module]:
    """The code cells of a solved notebook without its magics."""
    cells = notebooks.build_notebook(SOURCES[number], solved=True).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    return [ast.parse(re.sub(r"^( *)[%!].*$", r"\1pass", text, flags=re.M)) for text in code]


def names_in(*trees: ast.AST) -> set[str]:
    return {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}


def calls_of(tree: ast.AST, method: str) -> list[ast.Call]:
    """The calls of a method of `lesson` in a cell."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) == f"lesson.{method}"]


def assignments(cell: ast.Module) -> list[tuple[set[str], set[str]]]:
    """What each assignment of a cell names, and of which names it is made."""
    found = [
        (node.targets if isinstance(node, ast.Assign) else [node.target], node.value)
        for node in ast.walk(cell)
        if isinstance(node, ast.Assign | ast.AugAssign)
    ]
    return [(names_in(*map(base_of, targets)), names_in(value)) for targets, value in found]


def base_of(target: ast.AST) -> ast.AST:
    """What an assignment changes: of `table[key]` the table."""
    while isinstance(target, ast.Subscript | ast.Attribute):
        target = target.value
    return target


def shown_by(cell: ast.Module) -> set[str]:
    """The names in what a cell prints, and in its last line if that is a value."""
    calls = [node for node in ast.walk(cell) if isinstance(node, ast.Call)]
    said = [call for call in calls if ast.unparse(call.func) in ("print", "display", "lesson.show")]
    return names_in(*said, *[line for line in cell.body[-1:] if isinstance(line, ast.Expr)])


@pytest.mark.parametrize("number", SOURCES)
def test_a_guess_is_locked_before_a_cell_shows_what_tells_its_answer(number: str) -> None:
    cells = read_cells(number)
    place = {
        (method, ast.literal_eval(name)): i
        for method in ("reveal", "lock", "predict")
        for i, cell in enumerate(cells)
        for call in calls_of(cell, method)
        for name in (call.args if method == "lock" else call.args[:1])
    }
    asked = {name: i for (method, name), i in place.items() if method == "predict"}
    reveals = [(i, call) for i, cell in enumerate(cells) for call in calls_of(cell, "reveal")]
    assert asked and {ast.literal_eval(call.args[0]) for _, call in reveals} == set(asked)
    for end, call in reveals:
        name = ast.literal_eval(call.args[0])
        locked = place.get(("lock", name), end)
        later = [pair for cell in cells[asked[name] : end + 1] for pair in assignments(cell)]
        made_later = set().union(*(targets for targets, _ in later))
        told = names_in(*call.args[1:]) & made_later
        here = set().union(*(targets for targets, _ in assignments(cells[end])))
        assert locked < end or told & here, f"{name} is locked too late: lesson.lock({name!r})"
        told |= set().union(*(made_of for targets, made_of in later if targets & told))
        for cell in cells[asked[name] : locked]:
            seen = shown_by(cell) & told & made_later
            assert not seen, f"{', '.join(seen)} tells {name}: lesson.lock({name!r}) before it"


@pytest.mark.parametrize(
    ("guess", "method"), [("attention", "query attention"), ("shapley", "shapley, windows")]
)
def test_the_sliders_of_notebook_08_hold_what_its_figure_shows(guess: str, method: str) -> None:
    figure = notebooks.NOTEBOOKS.parent / "figures" / "course" / "08.csv"
    gain = pd.read_csv(figure).set_index("method").loc[method, "gain"]
    asked = [call for cell in read_cells("08") for call in calls_of(cell, "predict")]
    least, most = next(
        map(ast.literal_eval, call.args[2:4]) for call in asked if call.args[0].value == guess
    )
    assert least < gain < most, "no range on this slider holds the answer"


def test_notebook_07_draws_cosines_below_0() -> None:
    parts = [part for cell in read_cells("07") for part in cell.body]
    named = {part.name: part for part in parts if isinstance(part, ast.FunctionDef)}
    given = {"style": style}
    exec(compile(ast.Module([named["draw_place"]], []), "07", "exec"), given)
    rows = pd.DataFrame(
        {"step": [0, 300], "value": [0.3, -0.1], "name": "cosine, other clip's text"}
    )
    rows = rows.assign(low=rows["value"] - 0.01, high=rows["value"] + 0.01)
    _, axes = style.subplots()
    given["draw_place"](axes, rows)
    assert axes.get_ylim()[0] < -0.11, "what lies below is cut off"


def run_parts(number: str, *names: str, **given: Any) -> dict[str, Any]:
    """What the lines of a notebook that define these names make of what is given."""
    for part in (part for cell in read_cells(number) for part in cell.body):
        defined = [part.name] if isinstance(part, ast.FunctionDef) else []
        if isinstance(part, ast.Assign):
            defined = [node.id for node in part.targets if isinstance(node, ast.Name)]
        if set(defined) & set(names):
            exec(compile(ast.Module([part], []), number, "exec"), given)
    return given


def test_notebook_06_goes_on_with_folds_that_come_once_and_with_prints_in_a_tensor() -> None:
    speakers = np.repeat(["a", "b", "c", "d"], 3)

    def splitter(names: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return GroupKFold(count).split(names, groups=names)

    def stamp(names: np.ndarray, width: int, rng: np.random.Generator) -> torch.Tensor:
        return torch.as_tensor(notebook_06.print_voices(names, width, rng))

    assert checks.judge("folds_by_speaker", splitter).state == "passed"
    assert checks.judge("voiceprint", stamp).state == "passed"
    rows = {"untrained": np.ones((12, 5), dtype=np.float32)}
    given = {"np": np, "split": splitter, "FOLDS": 4, "stamp": stamp, "rows": rows}
    found = run_parts("06", "disjoint", "prints", speakers=speakers, **given)
    assert sum(len(test) for _ in range(2) for _, test in found["disjoint"]) == 24
    assert (rows["untrained"].std(0) * found["prints"]).shape == (12, 5)


def test_notebook_07_goes_on_with_maps_and_directions_in_tensors() -> None:
    def project(site: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(notebook_07.project_clips(site))

    def wish(noise: np.ndarray, groups: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(notebook_07.wish_axes(noise, groups))

    assert checks.judge("principal_map", project).state == "passed"
    assert checks.judge("wishful_axes", wish).state == "passed"
    noise, labels = np.random.default_rng(0).normal(size=(40, 30)), ["a", "b"] * 20
    given = {"np": np, "pd": pd, "torch": torch, "geometry": geometry, "labels": labels}
    given |= {"project": project, "wish": wish, "noise": noise}
    found = run_parts("07", "draw_by_hand", "wished", **given)
    assert isinstance(found["draw_by_hand"](noise), np.ndarray)
    assert (noise @ found["wished"]).shape == (40, 2)


def test_notebook_08_goes_on_with_an_attribution_that_keeps_the_batch_axis() -> None:
    def collect(scalar: Any, given: torch.Tensor, absent: torch.Tensor, steps: int) -> torch.Tensor:
        return notebook_08.collect_slopes(scalar, given, absent, steps)[None]

    assert checks.judge("integrated_gradients", collect).state == "passed"
    given = {"collect": collect, "margin": lambda x: x.sum((1, 2)), "silence": torch.zeros(1, 3, 2)}
    found = run_parts("08", "of_query", audio_embeddings=torch.ones(1, 3, 2), **given)
    torch.testing.assert_close(found["of_query"], torch.full((3,), 2.0))


def test_a_hint_that_picks_rows_of_labels_says_that_they_are_a_list() -> None:
    cells = notebooks.build_notebook(SOURCES["01"], solved=False).cells
    hints = [cell.source for cell in cells if "hint" in cell.metadata.get("tags", [])]
    (hint,) = (text for text in hints if "labels[train]" in text)
    assert "`labels = np.asarray(labels)`" in hint


@pytest.mark.weights
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_a_larger_language_model_answers_in_text_is_what_notebook_00_quotes(
    precision: str,
) -> None:
    folder = weights.find_weights("SmolLM2-135M-Instruct")
    backbone = Backbone.load(folder, dtype=getattr(torch, precision))
    asked = [{"role": "user", "content": "What is 2+2?"}]
    ids = torch.tensor([chat.build_stream(backbone.tokenizer, asked, 0).ids])
    spoken = backbone.generate(
        inputs_embeds=backbone.embed(ids), attention_mask=torch.ones_like(ids), max_new_tokens=20
    )
    answer = backbone.decode(backbone.trim_at_end(spoken[0].tolist()))
    quoted = re.search(r"“What is 2\+2\?” in text.+?answers: “(.+?)”", SOURCES["00"].read_text())
    assert quoted and quoted[1].endswith("is 4.") and "4" in answer, answer
    numbers = sum(p.numel() for p in backbone.model.parameters())
    nano = Backbone.load(weights.find_weights("nano"))
    assert 60 < numbers / sum(p.numel() for p in nano.model.parameters()) < 80  # “about seventy”


@pytest.mark.weights
@pytest.mark.parametrize("number", SOURCES)
def test_the_solved_notebook_passes_its_own_checks(number: str, notebooks) -> None:
    ran = notebooks(number, solved=True)
    assert ran.card["exercises"] and set(ran.card["exercises"].values()) == {"passed"}, ran.card[
        "exercises"
    ]
    assert (
        all(guess["measured"] is not None for guess in ran.card["predictions"])
        and ran.card["predictions"]
    )
    assert (ran.figures / "course" / f"{number}.png").exists() and len(ran.table)


@pytest.mark.weights
@pytest.mark.parametrize("number", SOURCES)
def test_the_students_notebook_runs_to_the_end_unsolved(number: str, notebooks) -> None:
    ran = notebooks(number, solved=False)
    assert set(ran.card["exercises"].values()) == {"not attempted"}, ran.card["exercises"]
    solved = notebooks(number, solved=True)
    assert ran.table.round(3).equals(solved.table.round(3)), (
        "the headline must not depend on the exercises"
    )


@pytest.mark.parametrize("number", SOURCES)
def test_every_check_of_a_notebook_exists_and_every_check_is_used(number: str) -> None:
    used = {
        name
        for source in SOURCES.values()
        for name in re.findall(r'lesson\.check\("(\w+)"', source.read_text())
    }
    assert used == set(checks.load_checks())
