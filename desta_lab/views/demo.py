"""A page to show: ask about a clip or a recording; text oracle and silence answer beside it."""

import os
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jaxtyping import Float
from torch import Tensor

from desta_lab import audio
from desta_lab.analysis.attention import has_query_attention
from desta_lab.clips import Clip
from desta_lab.evaluation import conditions
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.nano import LIMITS
from desta_lab.views.replies import (
    answer_audio,
    answer_text,
    find_words,
    generate_answer,
    plot_attention,
    use_checkpoint,
)
from desta_lab.world.describe import is_spoken_world

CLIPS = 12  # of the test split, to pick from
TOKENS = 48  # of an answer
MOST_BYTES = 20 * 1024**2  # of a recording: ten minutes of a microphone's WAV at 16 kHz
SECONDS_KEPT = 900  # a recording is deleted then, or when the page closes
HOSTS = ("127.0.0.1", "localhost")
UNKNOWN = "(a recording has no description to read)"
_NOTE = (
    "The connector learned to paraphrase descriptions of {clips}, and nothing else: see what "
    "carries over to others. Everything stays on this machine."
)


class Demo:
    """A trained experiment behind a page; `stream_answers` is what the page's button does.

    Args:
        experiment: An `Experiment`, or an object that has what panels need of one.
    """

    def __init__(self, experiment: Any) -> None:
        self.experiment, corpus = experiment, experiment.corpus
        self.clips: dict[str, Clip] = {clip.id: clip for clip in experiment.clips("test")[:CLIPS]}
        known = is_spoken_world(corpus)
        self.note = _NOTE.format(clips="synthetic clips" if known else f"clips of {corpus.name}")
        self.note += f" {LIMITS}" if experiment.llm.glass_box else ""
        self.questions = [t.in_words or t.question for t in experiment.tasks if t.rung == 3]

    def stream_answers(
        self, name: str | None, recording: str | None, question: str
    ) -> Iterator[tuple[str, str, str, Any]]:
        """The answer as it grows, the text oracle's answer, the answer to silence, and a figure.

        A recording, when there is one, is heard instead of the clip. A connector that attends to no
        frames has no figure, but None.

        Raises:
            ValueError: There is no question, or no sound.
            audio.AudioError: The recording cannot be decoded.
        """
        if not question.strip():
            raise ValueError("There is no question yet; write one.")
        if not recording and name not in self.clips:
            raise ValueError("There is no sound yet; pick a clip, or record one.")
        clip = None if recording else self.clips[str(name)]
        path = self.experiment.corpus.path(clip) if clip else Path(str(recording))
        wave = audio.read_audio(path)
        with use_checkpoint(self.experiment) as llm:
            states = llm.encoder.encode([wave]).float()
            figure = None
            if has_query_attention(llm.connector):
                figure = plot_attention(llm, wave, states, clip.spans if clip else ())
            silence = answer_audio(llm, conditions.embed_silence(llm), question).text
            oracle = UNKNOWN
            if clip:
                oracle = answer_text(llm, clip, question, describe=self.experiment.describe).text
            answer, words = "", find_words(self.experiment, wave, clip)
            heard = conditions.embed_clips(llm, states)
            for piece in stream_answer(llm, heard, question, words):
                answer += piece
                yield answer.strip(), oracle, silence, figure
            yield answer.strip() or "(nothing)", oracle, silence, figure

    def describe_clip(self, name: str) -> tuple[str, str]:
        """The file of a clip, and its seed description, which only the text oracle reads."""
        clip = self.clips[name]
        return str(self.experiment.corpus.path(clip)), self.experiment.describe(clip.attributes)


def stream_answer(
    llm: AudioLLM,
    audio_embeddings: Float[Tensor, "1 query d_llm"],
    question: str,
    transcript: str | None = None,
) -> Iterator[str]:
    """The audio condition's answer to a question, piece by piece as it is generated."""
    from transformers import TextIteratorStreamer

    pieces = TextIteratorStreamer(llm.backbone.tokenizer, skip_special_tokens=True)
    words = None if transcript is None else [transcript]
    how: Any = {"tokens": TOKENS, "streamer": pieces}

    def speak() -> None:
        try:
            generate_answer(llm, chat.audio_messages(question), audio_embeddings, words, **how)
        finally:
            pieces.end()  # whatever happened, the reader below must not wait

    with ThreadPoolExecutor(1) as worker:
        done = worker.submit(speak)
        yield from pieces
        done.result()


def import_gradio() -> Any:
    """The library of the page; an ImportError says how to install it."""
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            'The demo needs Gradio; run `pip install -e ".[demo]"`, without the constraints, as it '
            "needs an older Pillow."
        ) from error
    return gradio


def check_port(port: int) -> None:
    """Raise OSError if no page can be opened on this port of this machine."""
    try:
        socket.create_server((HOSTS[0], port)).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise OSError(f"Port {port} cannot be opened ({why}); give another with --port.") from error


def build_page(demo: Demo) -> Any:
    """The page as a Gradio app, not yet open."""
    gr = import_gradio()

    def ask(
        name: str | None, recording: str | None, question: str
    ) -> Iterator[tuple[str, str, str, str | None]]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "attention.png"
            try:
                for shown in demo.stream_answers(name, recording, question):
                    answer, oracle, silence, figure = shown
                    if figure is not None and not path.exists():
                        path.write_bytes(figure.png())
                    yield answer, oracle, silence, None if figure is None else str(path)
            except ValueError as error:  # a sentence for whoever looks at the page
                raise gr.Error(escape(str(error))) from error

    first = next(iter(demo.clips))
    file, description = demo.describe_clip(first)
    kept: Any = {"delete_cache": (60, SECONDS_KEPT)}
    with gr.Blocks(title="DeSTA Lab", analytics_enabled=False, **kept) as app:
        gr.Markdown("# Ask a language model that learned to hear from one task")
        gr.HTML(escape(demo.note))
        with gr.Row():
            with gr.Column():
                names, label = list(demo.clips), "a clip of a voice it never heard"
                pick = gr.Dropdown(names, value=first, label=label)
                player = gr.Audio(file, label="the clip", interactive=False)
                label = "what is known about it (only the text oracle reads this)"
                with gr.Accordion(label, open=False):
                    known = gr.Textbox(description, show_label=False, interactive=False)
                sources, label = ["microphone", "upload"], "or your own sound"
                record = gr.Audio(sources=sources, type="filepath", label=label)
                question = gr.Textbox(demo.questions[0], label="question")
                examples = [[one] for one in demo.questions]
                gr.Examples(examples, [question], label="questions it was never trained on")
                button = gr.Button("Ask", variant="primary")
            with gr.Column():
                answer = gr.Textbox(label="hears the clip", lines=2)
                label = "reads the description instead (text oracle)"
                oracle = gr.Textbox(label=label, lines=2)
                silence = gr.Textbox(label="hears silence (control)", lines=2)
                # a label and buttons would lie on its title
                figure = gr.Image(type="filepath", show_label=False, buttons=[])
        pick.change(demo.describe_clip, [pick], [player, known])
        button.click(ask, [pick, record, question], [answer, oracle, silence, figure])
    return app


@contextmanager
def open_page(demo: Demo, port: int) -> Iterator[str]:
    """Serve the page to this machine alone; gives its address, and closes it at the end.

    Recordings lie in a folder of their own, which goes with the page.
    """
    with tempfile.TemporaryDirectory(prefix="desta-lab-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build_page(demo)
        from starlette.middleware import Middleware

        how: Any = {"server_name": HOSTS[0], "server_port": port, "share": False, "quiet": True}
        how |= {"max_file_size": MOST_BYTES, "app_kwargs": {"middleware": [Middleware(guard)]}}
        try:
            page.launch(prevent_thread_lock=True, **how)
            yield f"http://{HOSTS[0]}:{port}"
        finally:
            page.close()
            del os.environ["GRADIO_TEMP_DIR"]


def guard(app: Any) -> Any:
    """An ASGI app that refuses what `find_refusal` refuses, and passes the rest on."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        refusal = find_refusal(scope) if scope["type"] in ("http", "websocket") else None
        reply = app if refusal is None else PlainTextResponse(refusal[1], refusal[0])
        await reply(scope, receive, send)

    return answer


def find_refusal(scope: Any) -> tuple[int, str] | None:
    """The status and the sentence that refuse another website, or more than a recording."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    host, origin = headers.get("host", ""), headers.get("origin")
    if urlsplit(f"//{host}").hostname not in HOSTS:
        return 403, "This page is served to this machine alone; open it under 127.0.0.1."
    if origin is not None and urlsplit(origin).netloc != host:
        return 403, "This page answers no other website; open it by itself."
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not length.isdecimal():
        return 411, "The length of the request is not known; send it with a Content-Length."
    if int(length) > MOST_BYTES:
        return 413, f"A recording may have {MOST_BYTES / 1024**2:.0f} MiB; make a shorter one."
    return None
