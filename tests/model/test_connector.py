"""The connector: the published numbers, a birth at the right size, attention in both directions."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig, WhisperModel

from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone
from desta_lab.model.connector import Attention, FrameStack, QFormer
from desta_lab.model.encoder import Encoder
from desta_lab.training.batches import IGNORE
from tests import tiny

# One run of the published code (transformers 4.54.1, float32, eager) on tiny random weights; see DESIGN.md, FACTS.md.
PUBLISHED = Path(__file__).parents[1] / "data" / "desta25_tiny"

RENAMES = {
    "attention.self.": "self_attention.",
    "attention.output.dense": "self_attention.out",
    "attention.output.LayerNorm": "norms.0",
    "crossattention.self.": "cross_attention.",
    "crossattention.output.dense": "cross_attention.out",
    "crossattention.output.LayerNorm": "norms.1",
    "intermediate.dense": "mlp.0",
    "output.dense": "mlp.2",
    "output.LayerNorm": "norms.2",
}


def ours(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published adapter under this package's names."""
    plain = {name.removeprefix("perception.connector."): tensor for name, tensor in published.items()}
    prompts = sorted(name for name in plain if name.startswith("layer_prompts."))
    renamed = {"query_tokens": torch.cat([plain.pop(name) for name in prompts])}
    for name, tensor in plain.items():
        if name.startswith("qformer.layer."):
            number, rest = name.removeprefix("qformer.layer.").split(".", 1)
            old = next(old for old in RENAMES if rest.startswith(old))
            name = f"blocks.{number}.{RENAMES[old]}{rest.removeprefix(old)}"
        renamed[name] = tensor
    return renamed


def published_system(attention: str = "sdpa") -> AudioLLM:
    about = json.loads((PUBLISHED / "desta25.json").read_text())
    whisper = WhisperModel(WhisperConfig.from_json_file(PUBLISHED / "whisper" / "config.json"))
    whisper.encoder.load_state_dict(load_file(PUBLISHED / "whisper_encoder.safetensors"))
    encoder = Encoder(whisper.encoder, about["tapped_layers"], 2.0)
    config = LlamaConfig.from_json_file(PUBLISHED / "llm" / "config.json")
    llama = LlamaForCausalLM._from_config(config, attn_implementation=attention)
    llama.load_state_dict(load_file(PUBLISHED / "llm.safetensors"))
    connector = QFormer(
        taps=4, d_enc=64, d_llm=48, queries=about["prompt_size"], depth=about["qformer_num_hidden_layers"], heads=4
    )
    connector.load_state_dict(ours(load_file(PUBLISHED / "connector.safetensors")), strict=True)
    assert sum(p.numel() for p in connector.parameters()) == about["trainable"]
    return AudioLLM(encoder, connector.eval(), Backbone(llama, tiny.tokenizer()), {})


@pytest.fixture(scope="module")
def case() -> dict[str, Tensor]:
    return load_file(PUBLISHED / "case.safetensors")


def spliced(llm: AudioLLM, case: dict[str, Tensor]) -> Tensor:
    """The published input ids with our slots: audio first, then the transcript's own tokens."""
    ids, queries = case["input_ids"].clone(), case["audio_embeddings"].shape[1]
    words = case["transcription_ids"].split(case["transcription_lengths"].tolist())
    for row, (start, own) in enumerate(zip(case["start_positions"].tolist(), words, strict=True)):
        assert (ids[row, start : start + queries + len(own)] == 3).all()
        ids[row, start : start + queries] = chat.SLOT
        ids[row, start + queries : start + queries + len(own)] = own
    return ids


def test_audio_embeddings_are_those_of_the_published_code(case):
    llm = published_system()
    with torch.no_grad():
        spoken = llm.connector(llm.encoder(case["mel"]))
    torch.testing.assert_close(spoken, case["audio_embeddings"], atol=1e-5, rtol=0)


def test_logits_and_loss_are_those_of_the_published_code(case):
    llm = published_system()
    with torch.no_grad():
        embeddings = llm.splice(spliced(llm, case), llm.connector(llm.encoder(case["mel"])))
        logits = llm.backbone.head(llm.backbone.hidden(embeddings, attention_mask=case["attention_mask"]))
    real = case["attention_mask"].bool()
    torch.testing.assert_close(logits[real], case["logits"][real], atol=1e-5, rtol=0)
    labels = case["labels"][:, 1:].flatten()
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels, ignore_index=IGNORE)
    torch.testing.assert_close(loss, case["loss"][0], atol=1e-5, rtol=0)


def test_in_float64_the_attention_of_the_backbone_makes_no_difference(case, monkeypatch):
    # transformers' eager attention takes its softmax in float32 whatever the model is in: here in the model's own
    monkeypatch.setattr(nn.functional, "softmax", lambda scores, dim, **how: scores.softmax(dim))
    logits = {}
    for attention in ("eager", "sdpa"):
        llm = published_system(attention).double()
        with torch.no_grad():
            spoken = llm.connector(llm.encoder(case["mel"]))
            embeddings = llm.splice(spliced(llm, case), spoken)
            logits[attention] = llm.backbone.head(
                llm.backbone.hidden(embeddings, attention_mask=case["attention_mask"])
            )
    real = case["attention_mask"].bool()
    assert logits["eager"].dtype == torch.float64
    torch.testing.assert_close(logits["eager"][real], logits["sdpa"][real], atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("sizes", "trainable"),
    [
        ({"d_enc": 1280, "d_llm": 4096}, 131_540_224),  # DeSTA2.5: Whisper large-v3, Llama-3.1-8B, the defaults
        ({"d_enc": 768, "d_llm": 4096, "depth": 2, "heads": 12}, 22_251_776),  # DeSTA2: Whisper small, Llama-3-8B
        ({"d_enc": 384, "d_llm": 1024, "depth": 2, "heads": 6}, 7_589_120),  # Whisper tiny, Qwen3-0.6B
    ],
)
def test_it_has_as_many_parameters_as_the_published_one(sizes, trainable):
    with torch.device("meta"):
        connector = QFormer(taps=4, **sizes)
    assert sum(p.numel() for p in connector.parameters()) == trainable
    assert connector.query_tokens.shape == (4, 64, sizes["d_enc"])


def test_published_query_tokens_are_born_standard_normal():
    torch.manual_seed(0)
    tokens = QFormer(taps=4, d_enc=64, d_llm=48, depth=1, heads=4).query_tokens
    assert abs(tokens.std().item() - 1) < 0.05


# ---- what it computes ----


def small(**how) -> QFormer:
    torch.manual_seed(0)
    sizes = {"taps": 3, "d_enc": 32, "d_llm": 24, "queries": 4, "depth": 2, "heads": 4, "ffn": 48, "dropout": 0.0}
    return QFormer(**{**sizes, **how}).eval()


STATES = torch.randn(3, 2, 10, 32, generator=torch.Generator().manual_seed(2))


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    own = Attention(16, 4, 16, 0.0)
    reference = nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
        reference.in_proj_bias.copy_(torch.cat([own.query.bias, own.key.bias, own.value.bias]))
        reference.out_proj.load_state_dict(own.out.state_dict())
    queries, frames = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    torch.testing.assert_close(own(queries, frames), reference(queries, frames, frames)[0])


@pytest.mark.parametrize("form", [{}, {"width": 16, "post_norm": False}])
def test_queries_attend_to_each_other_in_both_directions(form):
    connector = small(**form)
    before = connector(STATES)
    for changed, watched in ((3, 0), (0, 3)):
        other = small(**form)
        with torch.no_grad():
            other.query_tokens[:, changed] = -other.query_tokens[:, changed]
        assert (other(STATES) - before)[:, watched].abs().max() > 1e-4


def test_the_mixture_is_even_at_birth_and_its_rows_sum_to_one():
    connector = small()
    torch.testing.assert_close(connector.mixture(), torch.full((4, 3), 1 / 3))
    with torch.no_grad():
        connector.layer_weights.normal_()
    torch.testing.assert_close(connector.mixture().sum(-1), torch.ones(4))


def test_a_query_whose_mixture_is_one_layer_hears_that_layer_alone():
    connector = small()
    with torch.no_grad():
        connector.layer_weights[0] = torch.tensor([0.0, 100.0, 0.0])
    other = STATES.clone()
    other[[0, 2]] += 1.0
    change = (connector(other) - connector(STATES)).abs().amax((0, 2))
    assert change[0] < 1e-6
    assert change[1] > 1e-3


def test_one_tapped_layer_leaves_nothing_to_mix():
    connector = small(taps=1)
    connector(STATES[:1]).sum().backward()
    assert connector.mixture().tolist() == [[1.0]] * 4
    assert not connector.layer_weights.requires_grad


def test_clips_of_a_batch_do_not_mix():
    connector = small(width=16)
    torch.testing.assert_close(connector(STATES[:, 1:]), connector(STATES)[1:])


def test_it_is_born_saying_its_anchor_and_a_little_more():
    scale = 0.05
    anchor = torch.randn(4, 24) * scale
    connector = small(width=16, post_norm=False, scale=scale, anchor=anchor)
    more = connector(STATES) - anchor
    rms = more.pow(2).mean().sqrt().item()
    assert 0.1 * scale < rms < scale
    assert 0.5 * scale < connector(STATES).pow(2).mean().sqrt().item() < 2 * scale
    assert connector.anchor.requires_grad
    assert connector.anchor.data_ptr() != anchor.data_ptr()


def test_without_an_anchor_the_scale_sets_the_size_of_the_output():
    plain, scaled = small(), small(scale=0.02)
    torch.testing.assert_close(scaled(STATES), 0.02 * plain(STATES))


def test_an_anchor_of_another_length_is_refused():
    with pytest.raises(ValueError, match="The anchor has 5 tokens, the connector 4 queries; make them equal"):
        small(anchor=torch.zeros(5, 24))


def test_dropout_acts_in_training_alone():
    connector = small(dropout=0.5)
    assert torch.equal(connector(STATES), connector(STATES))
    connector.train()
    assert not torch.equal(connector(STATES), connector(STATES))


# ---- the comparison ----


def test_stacked_frames_become_as_many_embeddings_as_asked_for():
    stack = FrameStack(d_enc=32, d_llm=24, queries=3, stack=2, hidden=16)
    assert stack(STATES).shape == (2, 3, 24)
    assert FrameStack(d_enc=32, d_llm=24, queries=8, stack=4, hidden=16)(STATES).shape == (2, 8, 24)  # fewer frames


def test_stacked_frames_hear_the_last_tapped_layer_in_order_of_time():
    stack = FrameStack(d_enc=32, d_llm=24, queries=5, stack=2, hidden=16)
    early = STATES.clone()
    early[0] += 1.0
    assert torch.equal(stack(early), stack(STATES))
    late = STATES.clone()
    late[-1, :, -1] += 1.0  # the last of ten frames belongs to the last of five queries
    changed = (stack(late) - stack(STATES)).abs().amax((0, 2))
    assert changed[:-1].max() < 1e-6 < changed[-1]
