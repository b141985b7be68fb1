"""The published systems: files that go there and back, what they need, and messages token for token."""

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from desta_lab import cli
from desta_lab.audio import RATE, log_mel
from desta_lab.model import chat, presets
from desta_lab.model.audio_llm import ProvenanceError
from desta_lab.model.chat import SLOT, ChatError
from desta_lab.model.connector import FrameStack, QFormer
from desta_lab.published import desta
from tests import tiny

# One run of the published code (transformers 4.54.1, float32, eager) on tiny random weights; see DESIGN.md, FACTS.md.
TINY = Path(__file__).parents[1] / "data" / "desta25_tiny"
ADAPTER = TINY / "connector.safetensors"


def connector(**how) -> QFormer:
    sizes = {"taps": 4, "d_enc": 64, "d_llm": 48, "queries": 6, "depth": 2, "heads": 4}
    return QFormer(**{**sizes, **how}).eval()


def test_an_adapter_goes_there_and_back_unchanged(tmp_path):
    own = connector()
    desta.load_adapter(own, ADAPTER)
    desta.save_adapter(own, tmp_path / "out.safetensors")
    theirs, ours = load_file(ADAPTER), load_file(tmp_path / "out.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.parametrize("prefix", desta.PREFIXES)
def test_the_adapter_of_desta2_has_other_prefixes_and_is_read_too(tmp_path, prefix):
    own, other = connector(), connector()
    desta.save_adapter(own, tmp_path / "out.safetensors", prefix=prefix)
    desta.load_adapter(other, tmp_path / "out.safetensors")
    assert all(
        torch.equal(value, other.state_dict()[name]) for name, value in own.state_dict().items()
    )


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"llama.lm_head.weight": torch.zeros(2)}, "no adapter of DeSTA2"),
        ({"perception.connector.layer_prompts.0": torch.zeros(1, 6, 64)}, "adapter of other sizes"),
        (
            {
                "perception.connector.layer_prompts.0": torch.zeros(1, 6, 64),
                "perception.connector.extra": torch.zeros(1),
            },
            "extra is no tensor of theirs",
        ),
        (
            {
                "perception.connector.layer_prompts.0": torch.zeros(1, 6, 64),
                "whisper.x": torch.zeros(1),
            },
            "whisper.x is no tensor of theirs",
        ),
    ],
)
def test_nothing_but_wrong_keys_never_loads_in_silence(tmp_path, tensors, said):
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ProvenanceError, match=said):
        desta.load_adapter(connector(), tmp_path / "bad.safetensors")


def test_a_pickled_adapter_is_refused_with_the_way_out(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "qformer_connector.pth")
    with pytest.raises(ProvenanceError, match="never read"):
        desta.load_adapter(connector(), tmp_path / "qformer_connector.pth")


@pytest.mark.parametrize(
    "made, said",
    [
        (lambda: connector(width=32, post_norm=False, pool=2), "width.*pre-norm.*pooled"),
        (lambda: connector(anchor=torch.zeros(6, 48), scale=0.5), "an anchor, a scaled output"),
        (lambda: FrameStack(d_enc=64, d_llm=48, queries=6), "FrameStack is no Q-Former"),
    ],
)
def test_a_connector_of_another_form_is_not_exported(tmp_path, made, said):
    with pytest.raises(ProvenanceError, match=said):
        desta.save_adapter(made(), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


# ---- a published system, whole ----


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """Tiny folders of the published architectures and an adapter under DeSTA2's names, as a preset and a file."""
    folder = tmp_path_factory.mktemp("system")
    ears = tiny.hf_folder(folder / "ears", tiny.whisper(12, width=48))
    mind = tiny.hf_folder(folder / "mind", tiny.causal(bos=True), llama_tokenizer())
    shape = replace(presets.desta2().connector, queries=6, heads=4, ffn=64)
    preset = replace(
        presets.desta2(),
        encoder=str(ears),
        backbone=str(mind),
        seconds=tiny.SECONDS,
        connector=shape,
    )
    torch.manual_seed(7)
    adapter = connector(d_enc=48, ffn=64)
    desta.save_adapter(
        adapter, folder / "adapter.safetensors", prefix="speech_perception.connector."
    )
    soundfile.write(folder / "clip.wav", tiny.wave(0), RATE)
    return preset, folder / "adapter.safetensors", adapter


def test_a_system_opens_with_its_parts_recorded_and_its_adapter_in_place(system):
    preset, file, adapter = system
    llm = desta.open_system(file, preset)
    assert all(
        torch.equal(value, adapter.state_dict()[name])
        for name, value in llm.connector.state_dict().items()
    )
    assert llm.provenance["adapter_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert llm.provenance["taps"] == [1, 4, 7, 10]
    assert len(llm.provenance["encoder_sha256"]) == len(llm.provenance["backbone_sha256"]) == 64
    assert llm.backbone.dtype == torch.bfloat16
    assert not any(
        p.requires_grad for part in (llm.encoder, llm.backbone) for p in part.parameters()
    )
    clip = tiny.conversation("What is it?", file.parent / "clip.wav")
    assert 1 <= len(llm.generate(clip, max_new_tokens=4).ids[0]) <= 4


def test_desta2_hears_what_its_released_inference_picks_from_the_hidden_states(system):
    preset, file, _ = system
    llm = desta.open_system(file, preset)
    wave = tiny.wave(1)
    every = llm.encoder.whisper(
        log_mel([wave], tiny.SECONDS), output_hidden_states=True
    ).hidden_states
    theirs = torch.stack([state for index, state in enumerate(every) if index in (2, 5, 8, 11)])
    torch.testing.assert_close(llm.encoder.encode([wave]), theirs)
    late = desta.open_system(file, replace(preset, taps=(2, 5, 8, 11)))
    assert not torch.allclose(late.encoder.encode([wave]), theirs)


def test_spread_by_accelerate_it_answers_the_same(system):
    preset, file, _ = system
    clip = tiny.conversation("What is it?", file.parent / "clip.wav")
    whole, spread = (desta.open_system(file, preset, offload=offload) for offload in (False, True))
    assert whole.generate(clip, max_new_tokens=6).ids == spread.generate(clip, max_new_tokens=6).ids


def test_int8_without_its_package_says_what_to_install(system, monkeypatch):
    preset, file, _ = system
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install bitsandbytes.*NVIDIA"):
        desta.open_system(file, preset, quantise="int8")


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is optional"
)
@pytest.mark.filterwarnings("ignore")  # its own
def test_in_int8_the_layers_are_halved_and_it_answers(system):
    preset, file, _ = system
    whole, small = (desta.open_system(file, preset, quantise=form) for form in (None, "int8"))
    assert small.backbone.model.get_memory_footprint() < whole.backbone.model.get_memory_footprint()
    layer = small.backbone.model.model.layers[0].mlp.up_proj.weight
    assert layer.dtype == torch.int8
    assert small.generate(tiny.conversation("Hm?", file.parent / "clip.wav"), max_new_tokens=4).ids[
        0
    ]


def test_an_adapter_of_other_sizes_does_not_open(system, tmp_path):
    preset, _, _ = system
    desta.save_adapter(connector(d_enc=48, ffn=32), tmp_path / "other.safetensors")
    with pytest.raises(ProvenanceError, match="adapter of other sizes"):
        desta.open_system(tmp_path / "other.safetensors", preset)


def test_a_tiny_folder_is_counted_as_it_is(system):
    preset, _, _ = system
    size = desta.Size.of(preset)
    llm = tiny.causal()
    assert size.encoder == sum(p.numel() for p in tiny.whisper(12, width=48).encoder.parameters())
    assert size.backbone == sum(p.numel() for p in llm.parameters())
    assert size.unquantised == 2 * llm.get_input_embeddings().weight.numel()


@pytest.mark.parametrize(("name", "bf16"), [("desta25", "18.6 GB"), ("desta2", "16.4 GB")])
def test_the_published_sizes_are_known_without_any_file(name, bf16, tmp_path, monkeypatch):
    monkeypatch.setattr(desta, "_memory", lambda: (17.0, 0.0))
    said = desta.estimate(presets.get_preset(name), tmp_path)
    assert f"bf16      {bf16}" in said
    assert "8.03 B" in said
    assert "was not measured" in said


@pytest.mark.parametrize(
    ("ram", "gpu", "verdicts"),
    [
        (
            17.0,
            0.0,
            ["does not fit", "fits the RAM, but not while a transcript is written", "does not fit"],
        ),
        (
            40.0,
            0.0,
            ["fits the RAM", "fits the RAM", "fits the RAM, but not while a transcript is written"],
        ),
        (9.0, 15.0, ["fits with offload=True", "fits the GPU", "does not fit"]),
        (9.0, 80.0, ["fits the GPU"] * 3),
    ],
)
def test_the_estimate_says_where_each_form_fits(ram, gpu, verdicts, tmp_path, monkeypatch):
    monkeypatch.setattr(desta, "_memory", lambda: (ram, gpu))
    lines = desta.estimate(presets.desta25(), tmp_path).splitlines()[1:4]
    assert [line.split(" GB  ")[1] for line in lines] == verdicts


def test_a_machine_that_clearly_cannot_hold_it_is_told_before_anything_is_fetched(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(desta, "_memory", lambda: (12.0, 6.0))
    with pytest.raises(
        RuntimeError, match=r"needs 18.6 GB in bf16, but 6.0 GB are there; take quantise='int8'"
    ):
        desta.open_system(ADAPTER, presets.desta25(), tmp_path)
    with pytest.raises(RuntimeError, match="could not be fetched"):  # tried, and there is no model
        desta.open_system(ADAPTER, presets.desta25(), tmp_path, force=True)


def test_a_missing_adapter_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(desta, "_memory", lambda: (100.0, 0.0))
    with pytest.raises(
        ProvenanceError, match="no such file; give the adapter that was released for desta25"
    ):
        desta.open_system(tmp_path / "none.safetensors", presets.desta25(), tmp_path)


def test_an_unknown_model_without_a_config_has_no_size(tmp_path):
    with pytest.raises(RuntimeError, match="not known before its config"):
        desta.estimate(replace(presets.desta25(), backbone="someone/unheard-of"), tmp_path)


# ---- messages, token for token ----

HEAD, CLOSE, TURN, FIRST = (
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 3's form: its special tokens, splitting rule, chat template, and a BOS from template and tokenizer both."""
    rule = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rule), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    special = [FIRST, TURN, HEAD, CLOSE]
    text = [
        "system user assistant audio\n\n start_audio end_audio What is it? hello there. Focus on the audio clips"
    ] * 2
    bpe.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=380,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A", special_tokens=[(FIRST, 0)]
    )
    template = (
        "{% for message in messages %}"
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
        " + message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=FIRST, eos_token=TURN, chat_template=template
    )


def header(role: str) -> str:
    return f"{HEAD}{role}{CLOSE}\n\n"


def test_desta25s_messages_are_its_published_layout_token_for_token():
    words = llama_tokenizer()
    before = f"{FIRST}{header('system')}Focus on the audio clips and instructions.{TURN}{header('user')}<start_audio>"
    after = f"<end_audio>\nWhat is it?{TURN}{header('assistant')}"
    by_hand = [
        *words(before, add_special_tokens=False).input_ids,
        *[SLOT] * 64,
        *words("hello there.", add_special_tokens=False).input_ids,
        *words(after, add_special_tokens=False).input_ids,
    ]
    ours = chat.build_stream(
        words, chat.audio_messages("What is it?"), 64, transcripts=["hello there."]
    )
    assert list(ours.ids) == by_hand
    assert by_hand.count(words.bos_token_id) == 1
    assert words.convert_tokens_to_ids("<start_audio>") is None  # the tags are plain text


def test_desta25s_way_of_a_placeholder_token_gives_the_same_ids():
    words = llama_tokenizer()
    ours = chat.build_stream(words, chat.audio_messages("What is it?"), 64).ids
    text = words.apply_chat_template(
        chat.audio_messages("What is it?"), tokenize=False, add_generation_prompt=True
    )
    words.add_tokens([chat.AUDIO])  # as there: the placeholder becomes a token, then slots
    theirs = words(
        text.replace(chat.AUDIO, f"<start_audio>{chat.AUDIO}<end_audio>"), add_special_tokens=False
    ).input_ids
    at = theirs.index(words.convert_tokens_to_ids(chat.AUDIO))
    assert list(ours) == [*theirs[:at], *[SLOT] * 64, *theirs[at + 1 :]]


def turns(path: str = "/clips/a.wav") -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Focus on the audio clips."},
        {"role": "audio", "content": path},
        {"role": "user", "content": "What is it?"},
    ]


def test_desta2s_messages_are_what_its_released_code_makes_with_both_quirks():
    words = llama_tokenizer()
    system = [HEAD, "system", CLOSE, "\n\n", "Focus on the audio clips.", TURN]
    before = [
        FIRST,
        FIRST,
        *system,
        HEAD,
        "audio",
        CLOSE,
    ]  # BOS twice; the header's line break comes after the clip
    after = [
        "\n\n",
        " hello there.",
        TURN,
        HEAD,
        "user",
        CLOSE,
        "\n\n",
        "What is it?",
        TURN,
        HEAD,
        "assistant",
        CLOSE,
        "\n\n",
    ]
    left, right = (
        [i for part in parts for i in chat.encode_text(words, part)] for parts in (before, after)
    )
    ours = desta.stream_desta2(words, turns(), 64, " hello there.")
    assert list(ours.ids) == [*left, *[SLOT] * 64, *right]
    assert ours.start == len(ours.ids)
    assert ours.response == ()


def test_without_a_doubled_bos_the_clip_of_desta2_stands_where_it_should():
    words = tiny.tokenizer()
    ids = desta.stream_desta2(words, turns(), 3, "").ids
    assert words.decode(ids[: ids.index(SLOT)]).endswith(f"{tiny.START}audio\n")


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (turns()[::2], "here are 0 audio messages"),
        ([*turns(), turns()[1]], "here are 2 audio messages"),
        (turns("audio"), "'audio' stands 3 times in the conversation"),
    ],
)
def test_desta2_hears_exactly_one_clip(messages, said):
    with pytest.raises(ChatError, match=said):
        desta.stream_desta2(llama_tokenizer(), messages, 3, "")


def test_desta2_answers_its_own_messages(system):
    preset, file, _ = system
    llm = desta.open_system(file, preset)
    llm.transcribe = lambda waves: ["hello there."]
    clip = str(file.parent / "clip.wav")
    written = desta.answer_desta2(llm, turns(clip), max_new_tokens=4)
    given = desta.answer_desta2(llm, turns(clip), " hello there.", max_new_tokens=4)
    assert written == given
    assert written.audios == [[(clip, " hello there.")]]
    assert 1 <= len(written.ids[0]) <= 4
    llm.transcribe = None
    with pytest.raises(ProvenanceError, match="no Whisper decoder"):
        desta.answer_desta2(llm, turns(clip))


@pytest.mark.parametrize("name", ["desta25", "desta2"])
def test_the_command_asks_a_published_system(system, name, monkeypatch, capsys):
    preset, file, _ = system
    monkeypatch.setitem(presets.PRESETS, name, lambda: preset)
    monkeypatch.setattr(presets, "transcribe", lambda ears, waves: ["hello there."])
    clip = str(file.parent / "clip.wav")
    assert cli.main(["ask", clip, "What is it?", "--published", str(file), "--preset", name]) == 0
    said = capsys.readouterr().out
    assert "was not measured" in said
    assert "transcript      " in said and "hello there." in said
    assert "without it" in said
