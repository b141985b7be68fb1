"""The panels in JupyterLab, in a real browser: each is operated as a reader would, and still there
once saved.

Screenshots go to `$DESTA_SCREENSHOTS`, or to pytest's temporary folder.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BROWSER is None, reason=f"no browser here: none of {', '.join(NAMES)} is on the path"
    ),
]

CELLS = {
    "Job": """
        from pathlib import Path
        from tests.views import test_panels as made
        from desta_lab.views import panels, replies
        job = made.stand_in(Path("job"))""",
    "AskPanel": "panels.AskPanel(job)",
    "CheckpointPanel": "panels.CheckpointPanel(job, made.points(job), made.rungs())",
    "ListenPanel": "panels.ListenPanel("
    "job, attention=replies.make_attention_profile(job, made.attention))",
    "MapPanel": "panels.MapPanel(job, made.points(job))",
}
MINUTE = 60_000  # milliseconds


def notebook(path: Path) -> None:
    """A notebook of the tiny job with one cell a panel, each under its heading."""
    cells = []
    for name, code in CELLS.items():
        cells.append(nbformat.v4.new_markdown_cell(f"# {name}"))
        cells.append(
            nbformat.v4.new_code_cell("\n".join(line.strip() for line in code.strip().splitlines()))
        )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """JupyterLab on a free port, in a folder of its own; ended by its id, whatever happens."""
    folder, token = tmp_path_factory.mktemp("lab"), secrets.token_hex(16)
    notebook(folder / "panels.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = (
        folder
        / ".settings"
        / "@jupyterlab"
        / "apputils-extension"
        / "notification.jupyterlab-settings"
    )
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    own = {"JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings")}
    own |= {
        f"JUPYTER_{name}_DIR": str(folder / ".jupyter" / name.lower())
        for name in ("CONFIG", "DATA", "RUNTIME")
    }
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
    ]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **own, "PYTHONPATH": path},
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, folder / "lab.log")
            yield f"http://127.0.0.1:{port}/lab/tree/panels.ipynb?token={token}&reset", folder
        finally:
            server.send_signal(signal.SIGINT)
            time.sleep(0.2)
            server.terminate()  # the second signal answers its question; it ends its kernels first
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def page(lab: tuple[str, Path]) -> Iterator:
    """The notebook, open and run to its end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(MINUTE)
        page.goto(lab[0])
        page.get_by_text("| Idle").wait_for()  # the kernel, in the status bar
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        cell(page, "MapPanel").locator("button", has_text="f").first.wait_for()
        yield page
        browser.close()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("DESTA_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cell(page, name: str):
    """The code cell of one panel."""
    found = page.locator(".jp-CodeCell").nth(list(CELLS).index(name))
    found.scroll_into_view_if_needed()
    return found


def panel(page, name: str):
    """The live widgets of one panel; its still is there and hidden."""
    box = cell(page, name).locator(f"[class*='desta-{name.lower()}-'].jupyter-widgets")
    box.wait_for()
    still = cell(page, name).locator(f"div[class^='desta-{name.lower()}-']")
    assert still.count() == 1 and not still.is_visible()
    return box


def loaded(page, box, seconds: float, players: int) -> None:
    """Wait until every player of a panel has a sound of this length."""
    test = (
        "([box, s]) => [...box.querySelectorAll('audio')]"
        ".filter(one => Math.abs(one.duration - s) < 0.01).length"
    )
    page.wait_for_function(
        f"(given) => ({test})(given) === {players}", arg=[box.element_handle(), seconds]
    )


def test_asking_shows_an_answer_of_every_condition(page, shots: Path) -> None:
    box = panel(page, "AskPanel")
    box.get_by_role("button", name="Ask", exact=True).click()
    box.locator("table").wait_for()
    assert box.locator("tr").count() == 5 and "untrained connector" in box.inner_text()
    page.wait_for_function(
        "image => image.naturalWidth > 1000", arg=box.locator("img").element_handle()
    )
    box.get_by_text("working…").wait_for(state="detached")
    box.screenshot(path=shots / "ask.png")


def test_the_ladders_slider_moves_the_answer_and_the_picture(page, shots: Path) -> None:
    box = panel(page, "CheckpointPanel")
    before = box.locator("img").get_attribute("src")
    box.get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    box.locator("td").first.and_(page.get_by_text("0", exact=True)).wait_for()
    page.wait_for_function(
        "image => image.naturalWidth > 1000", arg=box.locator("img").element_handle()
    )
    assert box.locator("img").get_attribute("src") != before
    box.screenshot(path=shots / "ladder.png")


def test_a_query_token_is_chosen_and_can_be_heard(page, shots: Path) -> None:
    box = panel(page, "ListenPanel")
    box.get_by_role("combobox").nth(1).select_option(label="query token 2")
    box.get_by_text("of the weight lies in").wait_for()
    loaded(page, box, seconds=0.4, players=2)
    box.screenshot(path=shots / "listen.png")


def test_a_point_of_the_map_plays_its_clip(page, shots: Path) -> None:
    box = panel(page, "MapPanel")
    box.get_by_role("button").nth(3).click()
    box.get_by_text("clip-003").wait_for()
    loaded(page, box, seconds=0.4, players=1)
    box.screenshot(path=shots / "map.png")
    assert "scene" in box.locator("table").inner_text()


def test_a_saved_notebook_shows_the_last_state_without_widgets(
    page, lab: tuple[str, Path], shots: Path
) -> None:
    path, end = lab[1] / "panels.ipynb", time.monotonic() + 20
    while not all(word in path.read_text() for word in ("untrained connector", "<b>clip-003")):
        assert time.monotonic() < end, "the stills do not follow the panels"
        page.keyboard.press("Control+s")
        page.wait_for_timeout(500)
    outputs = {
        name: cell["outputs"]
        for name, cell in zip(CELLS, json.loads(path.read_text())["cells"][1::2], strict=True)
    }
    stills = [
        "".join(out["data"].get("text/html", ""))
        for name in list(CELLS)[1:]
        for out in outputs[name][1:]
    ]
    assert len(stills) == 4 and all("data:image/png;base64," in still for still in stills)
    saved = page.context.browser.new_context().new_page()
    saved.set_content("<hr>".join(stills))
    assert saved.get_by_text("clip-003").first.is_visible() and saved.locator("audio").count() >= 4
    saved.screenshot(path=shots / "stills.png", full_page=True)
    saved.context.close()
