"""The repository keeps its word: the declared is the used, imports point one way, the README tells
what is there.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import jaxtyping
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import desta_lab

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "desta_lab"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SHIPPED_DATA_LIMIT = 20 * 2**20  # bytes

# From low to high: a part imports itself and what stands before it, never what stands after.
ORDER = [
    *(
        "audio",
        "cache",
        "clips",
        "processes",
        "world",
        "model",
        "training",
        "evaluation",
        "analysis",
    ),
    *("benchmarks", "published", "views", "experiments", "doctor", "course", "bench", "cli"),
]
LONGEST_FUNCTION = 60  # lines: a screen


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def declared(extras: set[str]) -> dict[str, Requirement]:
    lines = PROJECT["dependencies"] + [
        line for extra in extras for line in PROJECT["optional-dependencies"][extra]
    ]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(one.name): one for one in requirements}


def tracked() -> list[Path]:
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if git.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in git.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file it does; `from a import b` gives both
    a and a.b.
    """
    here = dotted(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def part(module: str) -> str | None:
    """The part of the package that a module belongs to; None for the package itself and for other
    people's modules.
    """
    names = module.split(".")
    return names[1] if names[0] == "desta_lab" and len(names) > 1 and names[1] in ORDER else None


def architecture_tree() -> list[str]:
    """The parts of the package in the order in which docs/architecture.md draws them."""
    block = re.search(r"```text\n(desta_lab/.*?)```", read("docs/architecture.md"), re.DOTALL)
    assert block, "docs/architecture.md has no ```text block that starts with desta_lab/."
    return [
        re.sub(r"/|\.py", "", line.split()[0]) for line in block[1].splitlines()[1:] if line.strip()
    ]


def functions(path: Path) -> list[ast.FunctionDef]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]


# ---- packages ----


def test_conda_users_get_the_same_packages_and_ranges():
    conda = yaml.safe_load(read("environment.yml"))["dependencies"]
    python = next(
        Requirement(line) for line in conda if isinstance(line, str) and line.startswith("python ")
    )
    pip = next(line["pip"] for line in conda if isinstance(line, dict))
    listed = [Requirement(line) for line in pip if not line.startswith("-")]
    assert python.specifier == Requirement("python" + PROJECT["requires-python"]).specifier
    assert {canonicalize_name(one.name): one for one in listed} == declared({"lab", "dev"})
    assert len(listed) == len(declared({"lab", "dev"})), "environment.yml lists a package twice."


def test_every_dependency_has_a_tested_version_within_its_range():
    pins = {}
    for line in read("constraints.txt").splitlines():
        if line and not line.startswith("#"):
            name, version = re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups()
            assert canonicalize_name(name) not in pins, f"constraints.txt pins {name} twice."
            pins[canonicalize_name(name)] = version
    wanted = declared(
        set(PROJECT["optional-dependencies"]) - {"corpora", "demo", "slurm"}
    )  # not in CI
    assert wanted.keys() <= pins.keys()
    outside = [
        f"{one} but {pins[name]}" for name, one in wanted.items() if pins[name] not in one.specifier
    ]
    assert not outside


def test_what_the_package_imports_is_declared():
    homes = packages_distributions()
    known = declared(set(PROJECT["optional-dependencies"]) - {"dev"})
    stray = {
        (dotted(path), top)
        for path in modules()
        for top in {name.split(".")[0] for name in imports(path)}
        - set(sys.stdlib_module_names)
        - {"desta_lab"}
        if not any(canonicalize_name(home) in known for home in homes.get(top, [top]))
    }
    assert not stray, f"Imported, but not among pyproject.toml's dependencies: {sorted(stray)}."


# ---- structure ----


def test_imports_point_one_way():
    wrong = []
    for path in modules():
        names = path.relative_to(PACKAGE).with_suffix("").parts
        if names[0] in ("__init__", "__main__"):
            continue
        assert names[0] in ORDER, (
            f"desta_lab/{names[0]} is new: give it a place in ORDER and in DESIGN.md's layout."
        )
        allowed = ORDER[: ORDER.index(names[0]) + 1]
        wrong += [
            f"{dotted(path)} imports {name}"
            for name in imports(path)
            if (part(name) or names[0]) not in allowed
        ]
    assert not wrong


def test_figures_are_drawn_from_tables_alone():
    heavy = {"torch", "transformers", "desta_lab.model"}
    figures = sorted((PACKAGE / "views").glob("*_figures.py"))
    assert len(figures) > 5
    for path in figures:
        assert not {
            name
            for name in imports(path)
            if any(name == one or name.startswith(one + ".") for one in heavy)
        }
    everything = ", ".join(dotted(path) for path in figures)
    assert loaded_by(f"import {everything}").isdisjoint(heavy)


def loaded_by(statement: str) -> set[str]:
    """The modules that are in memory once a fresh Python ran one statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    fresh = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(fresh.stdout.split())


def test_importing_the_package_stays_light():
    assert loaded_by("import desta_lab").isdisjoint(
        {"torch", "transformers", "matplotlib", "numpy", "pandas"}
    )


def test_every_public_name_is_there():
    for name in desta_lab.__all__:
        assert getattr(desta_lab, name) is not None
    assert set(desta_lab.__all__) <= set(dir(desta_lab))


def test_an_unknown_public_name_is_refused_in_words():
    with pytest.raises(AttributeError, match="has no attribute 'transformer'"):
        _ = desta_lab.transformer


def test_shapes_and_types_are_checked_in_tests():
    with pytest.raises(jaxtyping.TypeCheckError):
        desta_lab.__getattr__(3)


def test_nothing_in_the_package_unpickles():
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    for path in modules():
        assert not {name.split(".")[0] for name in imports(path)} & unsafe, (
            f"{dotted(path)} imports a pickler."
        )
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "load":
                assert ast.unparse(node.value) not in {"torch", "joblib"}, (
                    f"{dotted(path)}:{node.lineno} unpickles."
                )
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", (
                    f"{dotted(path)}:{node.value.lineno} allows pickle."
                )


# ---- words ----


def test_the_architecture_page_draws_the_package_in_the_order_of_its_imports():
    assert architecture_tree() == ORDER
    parts = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.name not in ("__init__.py", "__main__.py", "__pycache__")
    }
    assert parts == set(ORDER)


def test_contributing_and_readme_tell_the_order_of_imports():
    for name in ("CONTRIBUTING.md", "README.md"):
        flat = " ".join(read(name).split())
        assert ", ".join(ORDER) in flat, (
            f"{name} does not name the parts in the order of their imports."
        )


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "data/README.md",
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
    ],
)
def test_a_page_names_files_modules_and_folders_that_are_there(page: str):
    text = read(page)
    files = re.findall(
        r"(?<![\w/])(?:desta_lab|tests|notebooks|figures|docs)/[\w./-]+\.(?:py|md|csv|png|ipynb)",
        text,
    )
    assert not [name for name in files if not (ROOT / name).exists()]
    for module in re.findall(r"(?:^::: |from |import )(desta_lab[\w.]*)", text, re.MULTILINE):
        place = ROOT / module.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").exists(), f"{page} names {module}."


def test_the_page_of_commands_is_that_of_the_command_line():
    made = subprocess.run(
        [sys.executable, "-c", "import make_commands; print(make_commands.page(), end='')"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert made == read("docs/commands.md"), "Run `make docs`."


def test_the_page_of_the_analysis_has_every_file_of_it():
    page = read("docs/api/analysis.md")
    files = (PACKAGE / "analysis").glob("[a-z]*.py")
    assert not [name for path in files if f"::: {(name := dotted(path))}\n" not in page]


def test_the_docs_build_without_a_warning(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "audio_embeddings" in (tmp_path / "api" / "model" / "index.html").read_text(
        encoding="utf-8"
    )


def test_no_two_modules_have_one_name():
    names = [path.name for path in modules() if path.name not in ("__init__.py", "__main__.py")]
    assert len(names) == len(set(names)), sorted(
        name for name in set(names) if names.count(name) > 1
    )


def test_no_function_is_longer_than_a_screen():
    long = {
        f"{dotted(path)}.{one.name}": one.end_lineno - one.lineno + 1
        for path in modules()
        for one in functions(path)
        if one.end_lineno - one.lineno + 1 > LONGEST_FUNCTION
    }
    assert not long


def test_what_the_readme_links_to_exists():
    links = re.findall(
        r"\]\((?!https?:|#)([^)#\s]+)",
        re.sub(r"<!--.*?-->", "", read("README.md"), flags=re.DOTALL),
    )
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_readme_ci_and_hooks_run_the_same_command():
    hooks = [
        hook
        for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
        for hook in repo["hooks"]
    ]
    targets = set(re.findall(r"^(\w+):", read("Makefile"), re.MULTILINE))
    assert {"lab", "test"} <= targets
    assert all(f"\nmake {target}\n" in read("README.md") for target in ("lab", "test"))
    assert read(".ci/run").endswith("\nmake test\n")
    assert "make test" in [hook["entry"] for hook in hooks]
    assert {hook["entry"].removeprefix("make ") for hook in hooks} <= targets


def test_the_ci_script_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_changelog_and_citation_tell_this_version():
    assert f"## [{desta_lab.__version__}]" in read("CHANGELOG.md")
    assert yaml.safe_load(read("CITATION.cff"))["version"] == desta_lab.__version__


def test_no_tracked_file_names_a_place_on_one_machine():
    place = re.compile(rb"(?<![\w.$}/-])/(?:work|root|opt|home/\w+|Users/\w+)/")
    named = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in tracked()
        if b"\0" not in (content := path.read_bytes()) and (match := place.search(content))
    ]
    assert not named


def test_the_data_that_ships_is_small():
    sizes = {path: path.stat().st_size for path in tracked() if path.is_relative_to(ROOT / "data")}
    assert sum(sizes.values()) < SHIPPED_DATA_LIMIT, sorted(
        sizes.items(), key=lambda item: -item[1]
    )[:5]


@pytest.mark.parametrize("folder", ["models", "corpora", "features", "targets", "runs"])
def test_what_can_be_rebuilt_is_left_alone_by_git(folder: str):
    tracked()  # skips outside a checkout
    assert (
        subprocess.run(["git", "check-ignore", "-q", f"data/{folder}/x"], cwd=ROOT).returncode == 0
    )
