"""AudioLLM: slots are filled in order, text alone is untouched, connector files are strict."""

import copy
import json
from dataclasses import asdict

import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from desta_lab.audio import RATE
from desta_lab.evaluation.conditions import embed_clips
from desta_lab.evaluation.scoring import score_options
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM, Generation, ProvenanceError, hash_tensors
from desta_lab.model.backbone import PrecisionError
from desta_lab.model.chat import SLOT, ChatError
from desta_lab.model.connector import ConnectorShape, build_own
from desta_lab.training import trainer
from tests import tiny


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for i, path in enumerate(paths):
        soundfile.write(path, tiny.wave(i), RATE)
    return paths


# ---- splice ----


def test_slots_are_filled_clip_after_clip_row_after_row():
    llm = tiny.audio_llm()
    ids = torch.tensor([[7, SLOT, SLOT, 8, SLOT, SLOT], [9, 9, 9, SLOT, SLOT, 5]])
    spoken = (
        torch.arange(3.0)[:, None, None] * 10
        + torch.arange(2.0)[None, :, None]
        + torch.zeros(3, 2, tiny.WIDTH)
    )
    embeddings = llm.splice(ids, spoken)
    assert embeddings[0, [1, 2, 4, 5], 0].tolist() == [0, 1, 10, 11]
    assert embeddings[1, [3, 4], -1].tolist() == [20, 21]
    words = ids != SLOT
    torch.testing.assert_close(embeddings[words], llm.backbone.embed(ids[words]))


@pytest.mark.parametrize("clips", [1, 3])
def test_more_or_fewer_clips_than_slots_are_a_sentence(clips):
    llm = tiny.audio_llm()
    with pytest.raises(
        ChatError, match=f"hold 4 audio slots, but {clips} clips of 2 audio embeddings were given"
    ):
        llm.splice(torch.tensor([[SLOT, SLOT, 5, SLOT, SLOT]]), torch.zeros(clips, 2, tiny.WIDTH))


@pytest.mark.parametrize("use", ["train", "score", "generate"])
def test_float16_that_is_no_number_names_the_precision(tmp_path, files, use):
    llm, store, rows = tiny.prepared(tmp_path, dtype=torch.float16)
    llm.backbone.model.get_output_embeddings().weight.data.fill_(6e4)
    words = r"logits are not finite in float16; load it in bfloat16 or float32 \(dtype=…\)"
    with pytest.raises(PrecisionError, match=words):
        if use == "train":
            trainer.train(llm, store, rows, tiny.RECIPE, tmp_path / "run")
        elif use == "score":
            score_options(llm, task_ladder()[:1], embed_clips(llm, store[[rows[0]["id"]]]))
        else:
            llm.generate(tiny.conversation("What is it?", files[0]), max_new_tokens=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_gradient_that_is_no_number_names_the_precision_if_it_is_float16(tmp_path, dtype):
    llm, store, rows = tiny.prepared(tmp_path, dtype=dtype)
    llm.connector.anchor.register_hook(lambda gradient: gradient * float("inf"))
    or_load = ", or load the backbone, now float16, in bfloat16 or float32"
    more = or_load if dtype is torch.float16 else ""
    words = rf"The gradient of step 1 is (nan|inf); lower the learning rate{more}\.$"
    with pytest.raises(trainer.LossError, match=words):
        trainer.train(llm, store, rows, tiny.RECIPE, tmp_path / "run")


def test_states_in_half_precision_give_the_bits_of_the_same_states_in_full():
    llm = tiny.audio_llm()
    states = torch.randn(4, 2, llm.encoder.frames, llm.encoder.width).half()
    llm.connector.eval()
    assert torch.equal(llm.connect(states), llm.connect(states.float()))


def test_the_loss_reaches_the_connector_and_nothing_else():
    llm = tiny.audio_llm()
    stream = chat.build_stream(
        llm.backbone.tokenizer, chat.audio_messages("What?"), llm.queries, response="A tone."
    )
    spoken = llm.connector(torch.randn(4, 1, 20, 64))
    ids = torch.tensor([stream.ids])
    at = torch.zeros_like(ids, dtype=torch.bool)
    at[0, stream.start - 1 : -1] = True
    llm.response_logits((), ids, at, spoken).log_softmax(-1)[:, 5].sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in llm.connector.parameters())
    assert all(p.grad is None for part in (llm.encoder, llm.backbone) for p in part.parameters())


# ---- generate ----


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_without_audio_it_is_the_untouched_backbone_token_for_token(kind, bos):
    llm, model, tokenizer = (
        tiny.audio_llm(kind, bos=bos),
        tiny.causal(kind, bos=bos),
        tiny.tokenizer(bos=bos),
    )
    messages = tiny.conversation("Tell me about birds.")
    given = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    own = model.generate(**given, max_new_tokens=12, do_sample=False)[
        0, given["input_ids"].shape[1] :
    ]
    answer = llm.generate(messages, max_new_tokens=12)
    assert list(answer.ids[0]) == own.tolist()
    assert answer.text == [tokenizer.decode(own, skip_special_tokens=True).strip()]
    assert answer.audios == [[]]


def test_a_text_is_no_conversation() -> None:
    with pytest.raises(chat.ChatError, match="list of messages, not the text 'hello'"):
        tiny.audio_llm().generate("hello")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], r"not \[\]"),
        ([[]], r"not \[\]"),
        ([{"role": "user"}], r"not \[\{'role': 'user'\}\]"),
        ([[{"role": "user", "content": None}]], r"not \[\{.*'content': None"),
        ([{"role": "user", "content": "<|AUDIO|>", "audios": ["a.wav"]}], r"not \[\{.*AUDIO"),
        ([{"role": "user", "content": "hello"}, "hello"], r"not \['hello'\]"),
        (["hello", "there"], "not the text 'hello'"),
    ],
)
def test_what_is_no_conversation_is_a_sentence(messages, words) -> None:
    with pytest.raises(chat.ChatError, match=f"list of messages, {words}.*; write .*role"):
        tiny.audio_llm().generate(messages)


def test_with_adapters_that_learned_the_text_path_is_still_the_backbone():
    llm = tiny.audio_llm()
    before = llm.generate(tiny.conversation(), max_new_tokens=8).ids
    llm.backbone.unfreeze("lora-16")
    for parameter in llm.backbone.trainable_parameters.values():
        torch.nn.init.normal_(parameter)
    assert llm.generate(tiny.conversation(), max_new_tokens=8).ids == before


def test_with_adapters_text_among_audio_is_still_answered_by_the_backbone(files):
    llm = tiny.audio_llm()
    llm.backbone.unfreeze("lora-16")
    for parameter in llm.backbone.trainable_parameters.values():
        torch.nn.init.normal_(parameter)
    conversations = [
        tiny.conversation("What?", files[0]),
        tiny.conversation(),
        tiny.conversation("What?", files[1], files[0]),
    ]
    together = llm.generate(conversations, max_new_tokens=6)
    alone = [llm.generate(one, max_new_tokens=6).ids[0] for one in conversations]
    assert together.ids == alone
    assert len(set(alone)) == 3


def test_a_message_whose_audios_are_none_has_no_clip():
    """As the columns of a table of messages have it, where only some of them hold a clip."""
    llm = tiny.audio_llm()
    empty = [message | {"audios": None} for message in tiny.conversation()]
    answer = llm.generate(empty, max_new_tokens=3)
    assert answer.ids == llm.generate(tiny.conversation(), max_new_tokens=3).ids
    assert answer.audios == [[]]


def test_answers_in_a_batch_are_answers_one_by_one(files):
    llm = tiny.audio_llm()
    conversations = [
        tiny.conversation("What is it?", files[0]),
        tiny.conversation(
            "Which of these two tones is the higher one, and why?", files[1], files[2]
        ),
        tiny.conversation("What?", files[2], system=False),
    ]
    together = llm.generate(conversations, max_new_tokens=6)
    assert isinstance(together, Generation)
    alone = [llm.generate(one, max_new_tokens=6) for one in conversations]
    assert together.ids == [one.ids[0] for one in alone]
    assert together.audios == [one.audios[0] for one in alone]
    assert [[file for file, _ in row] for row in together.audios] == [
        [str(f) for f in row] for row in ([files[0]], files[1:], [files[2]])
    ]
    assert len(set(together.ids)) == 3


def test_which_clip_stands_first_matters(files):
    llm = tiny.audio_llm()
    with torch.no_grad():
        llm.connector.proj[1].weight.mul_(20)
    one, other = (
        llm.generate(tiny.conversation("What?", *order)).ids for order in (files[:2], files[1::-1])
    )
    assert one != other


def test_text_and_audio_conversations_go_together_in_one_batch(files):
    llm = tiny.audio_llm()
    both = llm.generate(
        [tiny.conversation("What?"), tiny.conversation("What?", files[0])], max_new_tokens=5
    )
    assert both.ids[0] == llm.generate(tiny.conversation("What?"), max_new_tokens=5).ids[0]


def test_answering_never_drops_out(files):
    llm = tiny.audio_llm(dropout=0.9)
    llm.connector.train()
    assert len({llm.generate(tiny.conversation("What?", files[0])).ids[0] for _ in range(3)}) == 1


def test_sampling_is_possible_and_follows_torchs_seed(files):
    llm = tiny.audio_llm()
    torch.manual_seed(0)
    draws = [
        llm.generate(tiny.conversation("What?", files[0]), do_sample=True, temperature=3.0).ids
        for _ in range(3)
    ]
    torch.manual_seed(0)
    assert (
        llm.generate(tiny.conversation("What?", files[0]), do_sample=True, temperature=3.0).ids
        == draws[0]
    )
    assert len(set(map(str, draws))) > 1


def test_a_transcript_is_written_only_where_asked_for_and_not_given(files):
    llm = tiny.audio_llm()
    llm.transcribe = lambda waves: [f"heard {len(wave)}" for wave in waves]
    messages = tiny.conversation("What?", *files[:2])
    messages[-1]["audios"][1]["text"] = ""
    length = round(tiny.SECONDS * RATE)
    assert [w for _, w in llm.generate(messages).audios[0]] == ["", ""]
    assert [w for _, w in llm.generate(messages, with_transcript=True).audios[0]] == [
        f"heard {length}",
        "",
    ]
    messages[-1]["audios"][0]["text"] = "given"
    assert [w for _, w in llm.generate(messages, with_transcript=True).audios[0]] == ["given", ""]


def test_a_transcript_without_a_decoder_is_a_sentence(files):
    with pytest.raises(ProvenanceError, match="no Whisper decoder; pass transcribe="):
        tiny.audio_llm().generate(tiny.conversation("What?", files[0]), with_transcript=True)


@pytest.mark.parametrize("content", ["What?", "<|AUDIO|> <|AUDIO|> What?"])
def test_clips_without_placeholders_and_placeholders_without_clips_are_sentences(files, content):
    messages = [
        {"role": "user", "content": content, "audios": [{"audio": str(files[0]), "text": None}]}
    ]
    with pytest.raises(ChatError, match="1 clips were given; match them"):
        tiny.audio_llm().generate(messages)
    if "AUDIO" in content:
        with pytest.raises(ChatError, match="0 clips were given; match them"):
            tiny.audio_llm().generate([{"role": "user", "content": content}])


def test_streams_with_slots_need_spoken_clips():
    llm = tiny.audio_llm()
    stream = chat.build_stream(llm.backbone.tokenizer, chat.audio_messages("What?"), llm.queries)
    with pytest.raises(ChatError, match="no clips were given"):
        llm.generate_ids([stream], None)


def test_a_conversation_longer_than_the_backbone_reads_is_a_sentence(files):
    with pytest.raises(ChatError, match=r"has \d+ tokens and the limit is 502; shorten it"):
        tiny.audio_llm().generate(tiny.conversation("What? " * 300, files[0]), max_new_tokens=10)


# ---- connector files ----


def test_a_connector_file_holds_the_connector_alone_and_says_what_it_belongs_to(tmp_path):
    llm = tiny.audio_llm()
    digest = llm.save_connector(tmp_path / "connector.safetensors")
    assert set(load_file(tmp_path / "connector.safetensors")) == set(llm.connector.state_dict())
    with safe_open(tmp_path / "connector.safetensors", "pt") as file:
        assert json.loads(file.metadata()["provenance"]) == {
            "encoder": "tiny-whisper",
            "backbone": "tiny-llama",
            "encoder_sha256": "e" * 64,
            "backbone_sha256": "llama",
            "taps": [0, 1, 2, 3],
            "tuning": "frozen",
        }
    assert [path.name for path in tmp_path.iterdir()] == ["connector.safetensors"]

    other = tiny.audio_llm(seed=1)
    assert hash_tensors(other.connector) != hash_tensors(llm.connector)
    other.load_connector(tmp_path / "connector.safetensors")
    assert hash_tensors(other.connector) == hash_tensors(llm.connector)
    assert other.save_connector(tmp_path / "again.safetensors") == digest


def loads(llm: AudioLLM, path, message: str) -> None:
    before = hash_tensors(llm.connector)
    with pytest.raises(ProvenanceError, match=message):
        llm.load_connector(path)
    assert hash_tensors(llm.connector) == before


class Counting(nn.Module):
    """Somebody's own connector: it counts its steps, and two of its layers share their weights."""

    queries = 3

    def __init__(self, taps: int, d_enc: int, d_llm: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(d_enc, d_llm), nn.Linear(d_enc, d_llm)
        self.last.weight = self.first.weight
        self.norm = nn.BatchNorm1d(d_llm)
        self.register_buffer("places", torch.arange(self.queries))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        mixed = self.first(states[0]) + self.last(states[-1])
        return self.norm(mixed.transpose(1, 2)).transpose(1, 2)[:, self.places]


def test_a_connector_with_counts_and_tied_weights_comes_back(tmp_path):
    def build() -> AudioLLM:
        llm = tiny.audio_llm()
        llm.connector = build_own(Counting, taps=4, d_enc=64, d_llm=tiny.WIDTH, frames=20)
        return llm

    made, other = build(), build()
    made.connector(torch.randn(4, 2, 20, 64))
    made.save_connector(tmp_path / "a.safetensors")
    other.load_connector(tmp_path / "a.safetensors")
    assert int(other.connector.norm.num_batches_tracked) == 1
    assert other.connector.last.weight is other.connector.first.weight
    assert hash_tensors(other.connector) == hash_tensors(made.connector)


def rewritten(llm: AudioLLM, path, tensors):
    save_file(tensors, path, metadata={"provenance": json.dumps(llm.provenance)})
    return path


def test_a_file_of_nothing_but_wrong_keys_is_refused(tmp_path):
    llm = tiny.audio_llm()
    wrong = {f"perception.{name}": tensor for name, tensor in llm.connector.state_dict().items()}
    loads(llm, rewritten(llm, tmp_path / "wrong.safetensors", wrong), "another connector's tensors")


@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_one_wrong_tensor_is_enough_to_refuse(tmp_path, fault):
    llm = tiny.audio_llm()
    tensors = {name: tensor.clone() for name, tensor in llm.connector.state_dict().items()}
    if fault == "missing":
        del tensors["layer_weights"]
    elif fault == "extra":
        tensors["more"] = torch.zeros(1)
    else:
        tensors["layer_weights"] = torch.zeros(5, 3)
    name = "more" if fault == "extra" else "layer_weights"
    with pytest.raises(ProvenanceError, match=name):
        llm.load_connector(rewritten(llm, tmp_path / "wrong.safetensors", tensors))


def test_other_parts_are_refused_by_what_they_are(tmp_path):
    llm = tiny.audio_llm()
    llm.save_connector(tmp_path / "connector.safetensors")
    other = copy.deepcopy(llm)
    other.provenance = {**llm.provenance, "backbone_sha256": "other"}
    loads(
        other,
        tmp_path / "connector.safetensors",
        "trained with backbone_sha256 llama, but here backbone_sha256 is other",
    )
    other.provenance = {**llm.provenance, "taps": [0, 1, 2]}
    loads(
        other,
        tmp_path / "connector.safetensors",
        r"taps \[0, 1, 2, 3\], but here taps is \[0, 1, 2\]",
    )


def test_the_same_parts_under_other_names_or_in_another_precision_are_accepted(tmp_path):
    llm, other = tiny.audio_llm(), tiny.audio_llm(seed=1)
    llm.save_connector(tmp_path / "connector.safetensors")
    other.names = {"encoder": "a-copy", "backbone": "another-copy"}
    other.provenance |= {"dtype": "bfloat16", "attention": "eager"}
    other.load_connector(tmp_path / "connector.safetensors")
    assert hash_tensors(other.connector) == hash_tensors(llm.connector)


def test_provenance_holds_precision_and_attention_of_the_backbone():
    assert tiny.audio_llm().provenance["dtype"] == "float32"
    assert tiny.audio_llm(attn_implementation="eager").provenance["attention"] == "eager"


@pytest.mark.parametrize("size", [0, 7, 2000])
def test_a_truncated_file_is_a_sentence(tmp_path, size):
    llm, path = tiny.audio_llm(), tmp_path / "connector.safetensors"
    llm.save_connector(path)
    path.write_bytes(path.read_bytes()[:size])
    loads(
        llm,
        path,
        "connector.safetensors: no whole safetensors file .* copy it again or train again",
    )


def test_a_missing_file_is_a_sentence(tmp_path):
    loads(
        tiny.audio_llm(),
        tmp_path / "none.safetensors",
        "none.safetensors: no whole safetensors file",
    )


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    llm = tiny.audio_llm()
    torch.save(llm.connector.state_dict(), tmp_path / "connector.pt")
    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(name, lambda *a, **k: pytest.fail("unpickled"))
    loads(llm, tmp_path / "connector.pt", "no whole safetensors file")


def test_the_hash_of_a_module_sees_every_bit():
    module = torch.nn.BatchNorm1d(3)  # has a tensor without axes
    before = hash_tensors(module)
    assert hash_tensors(torch.nn.BatchNorm1d(3)) == before
    module.num_batches_tracked += 1
    assert hash_tensors(module) != before
    assert hash_tensors(module.bfloat16()) != before


def test_a_connector_file_with_a_number_that_is_none_is_refused(tmp_path):
    llm = tiny.audio_llm()
    llm.connector.query_tokens.data[0, 0, 0] = float("inf")
    llm.save_connector(tmp_path / "a.safetensors")
    other = tiny.audio_llm()
    before = hash_tensors(other.connector)
    with pytest.raises(ProvenanceError, match=r"a.safetensors: query_tokens holds NaN or infinity"):
        other.load_connector(tmp_path / "a.safetensors")
    assert hash_tensors(other.connector) == before


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_a_connector_file_of_other_numbers_than_learn_is_refused(tmp_path, dtype):
    llm = tiny.audio_llm()
    tensors = {name: tensor.clone() for name, tensor in llm.connector.state_dict().items()}
    tensors["query_tokens"] = tensors["query_tokens"].to(dtype)
    path = rewritten(llm, tmp_path / "a.safetensors", tensors)
    with pytest.raises(ProvenanceError, match=f"query_tokens holds {dtype}, which no connector"):
        llm.load_connector(path)


@pytest.mark.parametrize("about", ["null", "[]", "5"])
def test_a_connector_file_whose_header_is_no_object_is_refused(tmp_path, about):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"provenance": about})
    with pytest.raises(
        ProvenanceError, match=r"its provenance is .*; copy it again or train again"
    ):
        tiny.audio_llm().load_connector(tmp_path / "a.safetensors")


def test_a_field_of_the_shape_that_is_younger_than_a_file_has_its_default(tmp_path):
    llm = tiny.audio_llm()
    shape = asdict(ConnectorShape())
    llm.provenance["connector"] = {name: value for name, value in shape.items() if name != "pool"}
    llm.save_connector(tmp_path / "old.safetensors")
    llm.provenance["connector"] = shape
    llm.load_connector(tmp_path / "old.safetensors")
    llm.provenance["connector"] = shape | {"pool": 2}
    with pytest.raises(ProvenanceError, match="trained with connector"):
        llm.load_connector(tmp_path / "old.safetensors")
