"""A page to show: record or pick a clip, ask anything, see the answer come beside what reading and silence give."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from desta_lab import audio
from desta_lab.analysis.attention import query_attention_over_time
from desta_lab.clips import Clip
from desta_lab.evaluation import conditions
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.views import clip_figures
from desta_lab.views.replies import answer_audio, answer_text, read_wave, use_checkpoint
from desta_lab.world.describe import description_function, is_spoken_world

TOKENS = 48  # of an answer
UNKNOWN = "(a recording has no description to read)"
NOTE = (
    "The connector learned to paraphrase descriptions of {clips}, and nothing else: see what carries over to others. "
    "Everything stays on this machine."
)


class Demo:
    """A finished job behind a page; `answers` is what its button does.

    Args:
        job: any object with `corpus`, `clips(split)`, `tasks`, `llm` and `run_folder("self")`, as `Experiment` has.
    """

    def __init__(self, job: Any, clips: int = 12) -> None:
        self.job, self.describe = job, description_function(job.corpus)
        self.clips: dict[str, Clip] = {clip.id: clip for clip in job.clips("test")[:clips]}
        self.note = NOTE.format(
            clips="synthetic clips"
            if is_spoken_world(job.corpus)
            else f"clips of {job.corpus.name}"
        )
        self.questions = [task.question for task in job.tasks if task.rung == 3]

    def answers(
        self, name: str | None, recording: str | None, question: str
    ) -> Iterator[tuple[str, str, str, Any]]:
        """The answer as it grows, with what the language model says when it reads, what it says of silence, a figure.

        A recording, when there is one, is heard instead of the clip.

        Raises:
            ValueError: there is neither a question nor a sound; audio.AudioError: the recording cannot be heard.
        """
        if not question.strip():
            raise ValueError("There is no question yet; write one.")
        if not recording and name not in self.clips:
            raise ValueError("There is no sound yet; pick a clip, or record one.")
        clip = None if recording else self.clips[str(name)]
        wave = read_wave(self.job, clip) if clip else audio.read_audio(Path(str(recording)))
        with use_checkpoint(self.job) as llm:
            states = llm.encoder.encode([wave]).float()
            looked = _looked(llm, wave, states, clip)
            quiet = answer_audio(llm, conditions.embed_silence(llm), question).text
            read = (
                answer_text(llm, clip, question, describe=self.describe).text if clip else UNKNOWN
            )
            so_far = ""
            for piece in streamed(llm, conditions.embed_clips(llm, states), question):
                so_far += piece
                yield so_far.strip(), read, quiet, looked
            yield so_far.strip() or "(nothing)", read, quiet, looked

    def about(self, name: str) -> tuple[str, str]:
        """The file of a clip, and its seed description, which only the text oracle reads."""
        clip = self.clips[name]
        return str(self.job.corpus.path(clip)), self.describe(clip.attributes)


def streamed(llm: AudioLLM, spoken: Float[Tensor, "1 query d_llm"], question: str) -> Iterator[str]:
    """The audio condition's answer to a question, in pieces as the backbone says them."""
    from transformers import TextIteratorStreamer

    said = TextIteratorStreamer(llm.backbone.tokenizer, skip_special_tokens=True)
    stream = chat.build_stream(llm.backbone.tokenizer, chat.audio_messages(question), llm.queries)

    def speak() -> None:
        try:
            llm.generate_ids([stream], spoken, max_new_tokens=TOKENS, streamer=said)
        finally:
            said.end()  # whatever happened, the reader below must not wait

    with ThreadPoolExecutor(1) as worker:
        done = worker.submit(speak)
        yield from said
        done.result()


def _looked(
    llm: AudioLLM,
    wave: Float[np.ndarray, "sample"],
    states: Float[Tensor, "layer 1 frame d_enc"],
    clip: Clip | None,
) -> Any:
    """Where each query token looks, above the clip's spans where they are known."""
    attention = query_attention_over_time(llm.connector, states)[0].numpy()
    mel = audio.log_mel([wave], llm.encoder.seconds, llm.encoder.mel_bins)[0].numpy()
    spans = clip.spans if clip else ()
    return clip_figures.plot_query_attention(
        attention, mel, spans, llm.encoder.seconds, headline="Where each query token looks"
    )


def build_page(demo: Demo) -> Any:
    """The page as a Gradio app, not yet open.

    Raises:
        ImportError: Gradio is not installed; the message says how.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError(
            'The demo needs Gradio; run `pip install -e ".[demo]"`, then try again.'
        ) from error

    def ask(
        name: str | None, recording: str | None, question: str
    ) -> Iterator[tuple[str, str, str, str]]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "looked.png"
            try:
                for told, read, quiet, looked in demo.answers(name, recording, question):
                    if not path.exists():
                        path.write_bytes(looked.png())
                    yield told, read, quiet, str(path)
            except ValueError as error:  # a sentence for whoever stands before the page
                raise gr.Error(str(error)) from error

    first = next(iter(demo.clips))
    heard, description = demo.about(first)
    with gr.Blocks(title="DeSTA Lab", analytics_enabled=False) as app:
        gr.Markdown(f"# Ask a language model that learned to hear from one task\n{demo.note}")
        with gr.Row():
            with gr.Column():
                pick = gr.Dropdown(
                    list(demo.clips), value=first, label="a clip of a voice it never heard"
                )
                player = gr.Audio(heard, label="the clip", interactive=False)
                with gr.Accordion(
                    "what is known about it (only the text oracle reads this)", open=False
                ):
                    known = gr.Markdown(description)
                record = gr.Audio(
                    sources=["microphone", "upload"], type="filepath", label="or your own sound"
                )
                question = gr.Textbox(demo.questions[0], label="question")
                gr.Examples(
                    [[q] for q in demo.questions],
                    [question],
                    label="questions it was never trained on",
                )
                button = gr.Button("Ask", variant="primary")
            with gr.Column():
                told = gr.Textbox(label="hears the clip", lines=2)
                read = gr.Textbox(label="reads the description instead (text oracle)", lines=2)
                quiet = gr.Textbox(label="hears silence (control)", lines=2)
                looked = gr.Image(label="where it looked", type="filepath")
        pick.change(demo.about, [pick], [player, known])
        button.click(ask, [pick, record, question], [told, read, quiet, looked])
    return app
