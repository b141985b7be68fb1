"""Tiny random models of real architectures, built offline from fixed seeds, for many tests."""

import functools
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Gemma4TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    RwkvConfig,
    WhisperConfig,
    WhisperModel,
)

from desta_lab import cache
from desta_lab.audio import RATE
from desta_lab.clips import Clip, Corpus
from desta_lab.experiments.experiment import Experiment
from desta_lab.model import presets
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone
from desta_lab.model.chat import audio_messages
from desta_lab.model.connector import QFormer
from desta_lab.model.encoder import Encoder
from desta_lab.model.weights import find_weights, models_dir
from desta_lab.training.features import FeatureStore, features_folder
from desta_lab.training.trainer import TrainConfig
from desta_lab.world.attributes import ATTRIBUTES, NEUTRAL
from desta_lab.world.describe import describe

SECONDS = 0.4  # 20 encoder frames
WIDTH = 48  # of every tiny backbone
WINDOW = 8  # tokens that a layer with a sliding window sees
START, END, BOS = "<|im_start|>", "<|im_end|>", "<|bos|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
)


@functools.cache
def tokenizer(*, bos: bool = False, system: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a ChatML template; with `bos`, both bring one, as Llama's do."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = [END, START, BOS]
    bpe.train_from_iterator(
        [
            NEUTRAL,
            "system user assistant start_audio end_audio "
            "Focus on the audio clips and instructions.",
        ]
        * 2,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    if bos:
        from tokenizers.processors import TemplateProcessing

        bpe.post_processor = TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, special.index(BOS))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=END,
        bos_token=BOS if bos else None,
        chat_template=("{{ bos_token }}" if bos else "") + ("" if system else NO_SYSTEM) + CHATML,
    )


def whisper(layers: int = 4, seconds: float = 6.0, width: int = 64, seed: int = 0) -> WhisperModel:
    """A random Whisper that knows a few seconds."""
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=60,
        d_model=width,
        num_mel_bins=80,
        encoder_layers=layers,
        decoder_layers=1,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        init_std=0.1,
        pad_token_id=0,
        max_source_positions=round(seconds * 50),
        max_target_positions=8,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    return WhisperModel(config).eval()


def causal(kind: str = "llama", *, seed: int = 0, bos: bool = False, **how: Any) -> Any:
    """A random decoder-only LLM with weights so large that it is sure of something."""
    words = tokenizer(bos=bos)
    sizes = {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": words.bos_token_id,
    }
    grouped = {"num_key_value_heads": 2}
    config = {
        "llama": lambda: LlamaConfig(**sizes, **grouped),
        "qwen2": lambda: Qwen2Config(**sizes, **grouped),
        "qwen3": lambda: Qwen3Config(**sizes, **grouped, head_dim=12),
        "mistral": lambda: MistralConfig(**sizes, **grouped, sliding_window=WINDOW),
        "neox": lambda: GPTNeoXConfig(**sizes),
        "gemma2": lambda: Gemma2Config(
            **sizes,
            **grouped,
            head_dim=12,
            query_pre_attn_scalar=12,
            sliding_window=WINDOW,
            final_logit_softcapping=5.0,
        ),
        # read in other ways than these
        "granite": lambda: GraniteConfig(**sizes, **grouped, logits_scaling=8.0),
        "cohere": lambda: CohereConfig(**sizes, **grouped, logit_scale=0.25),
        "gpt2": lambda: GPT2Config(**sizes),
        "bloom": lambda: BloomConfig(**sizes),
        "mpt": lambda: MptConfig(**sizes, d_model=WIDTH, n_heads=4, n_layers=2, expansion_ratio=2),
        "opt": lambda: OPTConfig(**sizes, ffn_dim=96, word_embed_proj_dim=WIDTH),
        "qwen3_5": lambda: Qwen3_5TextConfig(
            **sizes,
            **grouped,
            head_dim=12,
            layer_types=["linear_attention", "full_attention"],
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=12,
            linear_value_head_dim=12,
        ),
        "gemma4": lambda: Gemma4TextConfig(
            **sizes,
            **grouped,
            head_dim=12,
            layer_types=["sliding_attention", "full_attention"],
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=len(words),
            num_kv_shared_layers=0,
        ),
        "bert": lambda: BertConfig(**sizes),
        "rwkv": lambda: RwkvConfig(**sizes, attention_hidden_size=WIDTH, context_length=512),
    }[kind]()
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, **how).eval()


def backbone(kind: str = "llama", *, bos: bool = False, **how: Any) -> Backbone:
    """A random frozen backbone with the tiny tokenizer."""
    return Backbone(causal(kind, bos=bos, **how), tokenizer(bos=bos))


def audio_llm(
    kind: str = "llama", *, bos: bool = False, dropout: float = 0.1, seed: int = 0, **how: Any
) -> AudioLLM:
    """Tiny encoder, tiny connector of the small form with five queries, tiny backbone."""
    mind = backbone(kind, bos=bos, **how)
    encoder = Encoder(whisper().encoder, (0, 1, 2, 3), SECONDS)
    torch.manual_seed(seed)
    anchor = mind.embed(
        torch.tensor(mind.tokenizer("speech", add_special_tokens=False).input_ids[:1] * 5)
    ).float()
    connector = QFormer(
        taps=4,
        d_enc=64,
        d_llm=WIDTH,
        queries=5,
        depth=1,
        heads=4,
        ffn=64,
        width=32,
        post_norm=False,
        dropout=dropout,
        scale=mind.embedding_scale,
        anchor=anchor,
    )
    names = {"encoder": "tiny-whisper", "backbone": f"tiny-{kind}"}
    provenance = {
        "encoder_sha256": "e" * 64,
        "backbone_sha256": kind,
        "taps": [0, 1, 2, 3],
        "tuning": "frozen",
    }
    return AudioLLM(encoder, connector, mind, provenance, names=names)


def attributes(number: int) -> dict[str, str]:
    """The attributes of the clip with this number: every attribute runs through its values."""
    return {name: values[number % len(values)] for name, values in ATTRIBUTES.items()}


def wave(number: int, seconds: float = SECONDS) -> np.ndarray:
    """A tone in noise, another for each number."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(number).normal(0, 0.05, len(time))
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * (number % 4)) * time) + noise).astype(np.float32)


def corpus(folder: Path, count: int = 12) -> Corpus:
    """A corpus of short tones, one speaker for every two clips."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for i in range(count):
        soundfile.write(folder / f"{i:03d}.wav", wave(i), RATE)
        clips.append(
            Clip(
                f"clip-{i:03d}", f"{i:03d}.wav", SECONDS, "word", f"speaker-{i // 2}", attributes(i)
            )
        )
    splits = {"train": sorted({clip.speaker for clip in clips}), "test": []}
    recipe = {"world": "spoken"}
    return Corpus.write(
        folder, clips, name="tones", recipe=recipe, seed=0, licence="CC0-1.0", splits=splits
    )


def recordings(folder: Path) -> Path:
    """A folder of 18 tones of one voice with a table, as a student may bring it."""
    folder.mkdir()
    rows = ["audio,speaker,manner,scene"]
    for i in range(18):
        soundfile.write(folder / f"{i}.wav", wave(i), RATE)
        values = ("spoken", "whispered")[i % 2], ("rain", "music", "birds")[i % 3]
        rows.append(f"{i}.wav,me,{','.join(values)}")
    (folder / "clips.csv").write_text("\n".join(rows))
    return folder


def people(folder: Path, count: int = 6) -> Path:
    """Recordings of "people", rendered, two of each language; two lines each, with a table."""
    from desta_lab.world.voices import get_synthesiser

    folder.mkdir(parents=True)
    rows = ["audio,speaker,transcript,language,gender"]
    names = ("anna", "ben", "clara", "david", "emma", "frank", "gina", "hugo", "ida", "jan", "kim")
    for i, name in enumerate((*names, "leo")[:count]):
        gender = ("female", "male")[i % 2]
        for line in range(2):
            text = f"Line number {('one', 'two')[line]} of all that I have to say to you today."
            wave = get_synthesiser().speak(text, f"{gender}_{i + 1:02d}", "American").wave
            soundfile.write(folder / f"{name}-{line}.flac", wave, RATE)
            language = ("de", "en", "it", "fr", "es", "pl")[i // 2]
            rows.append(f"{name}-{line}.flac,{name},{text},{language},{gender}")
    (folder / "people.csv").write_text("\n".join(rows))
    return folder


def examples(words: Corpus, response: str = "a tone") -> list[dict[str, Any]]:
    """Training rows in the package's columns, all with one response."""
    return [
        {
            "id": clip.id,
            "dataset": "tones",
            "seed_description": describe(clip.attributes),
            "prompt": "What is it?",
            "response": response,
            "messages": audio_messages("What is it?"),
            "provenance": {
                "kind": "template",
                "writer": "test",
                "revision": "",
                "decoding": "",
                "truncated": False,
            },
        }
        for clip in words.clips
    ]


RECIPE = TrainConfig(steps=24, batch=4, lr=3e-3, warmup=3, checkpoint_every=8)


def prepared(folder: Path, **how: Any) -> tuple[AudioLLM, FeatureStore, list[dict[str, Any]]]:
    """Everything that `train` takes before the recipe: a tiny AudioLLM, its features, its rows."""
    llm, words = audio_llm(**how), corpus(folder / "corpus")
    store = FeatureStore(folder / "features", llm.encoder, "e" * 64, words, words.clips)
    store.compute()
    return llm, store, examples(words)


def conversation(
    question: str = "What is it?", *files: Path, system: bool = True
) -> list[dict[str, Any]]:
    """A conversation in the message format of the DeSTA models, one placeholder a file."""
    content = "".join("<|AUDIO|>\n" for _ in files) + question
    user = {
        "role": "user",
        "content": content,
        "audios": [{"audio": str(file), "text": None} for file in files],
    }
    return [{"role": "system", "content": "Focus."}, user] if system else [user]


def ended_process() -> str:
    """How the name of a draft tells a process of this machine, here of one that has ended."""
    with subprocess.Popen(["true"]) as process:
        pass
    return f"{cache._machine()}.{process.pid}.1"


def share_weights(root: Path) -> None:
    """Link the real weights into a data folder; fetch nano's encoder first if it is not here."""
    find_weights(presets.nano().encoder)
    (root / "models").symlink_to(models_dir())


def data_folder(folder: Path) -> Path:
    """A data folder as a fresh clone has it, but for weights, corpora and features: they are the
    checkout's, as they take time.
    """
    share_weights(folder)
    experiment = Experiment(presets.nano())
    for made in (experiment.corpus.folder.parent, features_folder(experiment.root)):
        made.mkdir(parents=True, exist_ok=True)
        (folder / made.name).symlink_to(made)
    return folder


def model_folders(root: Path, encoder: str, backbone: str) -> Path:
    """A folder of models that holds a tiny encoder and a tiny backbone under these names."""
    hf_folder(root / encoder, whisper())
    hf_folder(root / backbone, causal(), tokenizer())
    return root


def hf_folder(folder: Path, model: Any, words: Any = None) -> Path:
    """A model (and tokenizer) saved in the Hugging Face layout."""
    model.save_pretrained(folder)
    if words is not None:
        words.save_pretrained(folder)
    return folder
