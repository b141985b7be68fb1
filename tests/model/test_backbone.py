"""Any decoder-only LLM serves as a backbone, unchanged: its logits, its answers, its gradients."""

import math

import pytest
import torch

from desta_lab.model.backbone import Backbone, PrecisionError
from desta_lab.model.chat import (
    ChatError,
    TokenStream,
    build_stream,
    common_trunk,
    description_messages,
)
from tests import tiny

KINDS = ["llama", "qwen2", "qwen3", "neox", "gemma2", "mistral"]


@pytest.mark.parametrize("kind", KINDS)
def test_head_of_hidden_is_what_the_model_itself_says(kind):
    llm = tiny.backbone(kind)
    ids = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            llm.logits(llm.hidden_states(llm.embed(ids))), llm.model(ids).logits
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_prefix_read_once_changes_nothing(kind):
    llm = tiny.backbone(kind, dtype=torch.float64)
    ids = torch.randint(0, 300, (3, 14), generator=torch.Generator().manual_seed(0))
    prefix = [5, 6, 7, 8, 9]
    whole = torch.cat([torch.tensor([prefix] * 3), ids], dim=1)
    with torch.no_grad():
        expected = llm.hidden_states(llm.embed(whole))[:, len(prefix) :]
        for _ in range(2):  # the second call finds the prefix kept
            close = (
                1e-5 if kind == "gemma2" else 1e-10
            )  # Gemma's norms and softmax are float32 whatever the model is in
            torch.testing.assert_close(
                llm.hidden_states(llm.embed(ids), prefix), expected, atol=close, rtol=0
            )
        other = llm.hidden_states(llm.embed(ids), [9, 8, 7])
    assert not torch.allclose(other, expected)


def test_a_kept_prefix_follows_the_precision():
    llm = tiny.backbone()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        llm.hidden_states(llm.embed(ids), [5, 6])
        llm.double()
        assert llm.hidden_states(llm.embed(ids), [5, 6]).dtype == torch.float64


def test_logits_are_at_least_float32():
    llm = tiny.backbone(dtype=torch.bfloat16)
    assert llm.dtype == torch.bfloat16
    assert llm.logits(llm.hidden_states(llm.embed(torch.tensor([[1, 2]])))).dtype == torch.float32


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_embedding_scale_is_the_size_of_what_embed_returns(kind):
    llm = tiny.backbone(kind)
    every = llm.embed(torch.arange(llm.model.config.vocab_size))
    assert math.isclose(llm.embedding_scale, every.pow(2).mean().sqrt().item(), rel_tol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_in_a_batch_are_answers_one_by_one(kind):
    llm = tiny.backbone(kind)
    texts = ("a", "A much longer description of what is heard.", "some birds")
    streams = [
        build_stream(llm.tokenizer, description_messages(text, "What?"), 0) for text in texts
    ]
    together = llm.generate_ids(streams, max_new_tokens=6)
    assert together == [llm.generate_ids([one], max_new_tokens=6)[0] for one in streams]
    assert together == llm.generate_ids(streams, max_new_tokens=6, batch=2)
    assert len(set(together)) > 1 or kind == "mistral"  # its window ends before the description


@pytest.mark.parametrize("kind", KINDS)
def test_answers_behind_one_trunk_are_answers_to_whole_streams(kind):
    llm = tiny.backbone(kind)
    texts = ("a", "A much longer description of what is heard.", "some birds")
    asked = ("What?", "Is it a woman, or is it a man?")
    streams = [
        [build_stream(llm.tokenizer, description_messages(text, one), 0) for one in asked]
        for text in texts
    ]
    trunks = [common_trunk(own, behind=1) for own in streams]
    ids, real = llm.pad_left(trunks)
    branches = [
        [stream.ids[len(trunk.ids) :] for stream in own]
        for own, trunk in zip(streams, trunks, strict=True)
    ]
    answers = llm.generate_branches(llm.embed(ids), real, branches, max_new_tokens=6)
    assert answers == [llm.generate_ids(own, max_new_tokens=6) for own in streams]
    assert len({*answers[1]}) > 1 or kind == "mistral"  # the two questions have two answers


def test_an_answer_stops_at_any_end_the_model_names():
    llm = tiny.backbone()
    start = build_stream(llm.tokenizer, description_messages("a", "What?"), 0)
    whole = llm.generate_ids([start], max_new_tokens=6)[0]
    llm.model.generation_config.eos_token_id = [whole[2], 399]
    assert llm.end_ids == tuple(sorted({whole[2], 399, llm.tokenizer.eos_token_id}))
    assert llm.generate_ids([start], max_new_tokens=6)[0] == whole[:3]


def test_greedy_is_the_likeliest_token_whatever_the_models_own_settings_say():
    model = tiny.causal()
    likeliest = int(model(torch.tensor([[1, 2, 3]])).logits[0, -1].argmax())
    model.generation_config.update(
        repetition_penalty=1.5,
        suppress_tokens=[likeliest],
        min_new_tokens=30,
        forced_bos_token_id=7,
        no_repeat_ngram_size=2,
        temperature=0.6,
        top_k=20,
    )
    llm = Backbone(model, tiny.tokenizer())
    start = build_stream(llm.tokenizer, description_messages("a", "What?"), 0)
    ids = torch.tensor([start.ids])
    with torch.no_grad():
        for _ in range(30):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    answer = llm.generate_ids([start], max_new_tokens=30)[0]
    assert answer == llm.trim_at_end(ids[0, len(start.ids) :].tolist())
    assert llm.ignored_settings["repetition_penalty"] == 1.5
    assert "temperature" not in llm.ignored_settings  # no greedy decoding ever obeyed it
    assert tiny.backbone().ignored_settings == {}


def test_an_answer_stops_at_the_end_of_turn_of_the_template():
    words = tiny.tokenizer.__wrapped__()
    words.eos_token = "~"
    llm = Backbone(tiny.causal(), words)
    end = words.convert_tokens_to_ids(tiny.END)
    assert set(llm.end_ids) >= {end, words.eos_token_id} and end != words.eos_token_id
    assert llm.trim_at_end([5, end, 6]) == (5, end)


def test_logits_that_are_no_numbers_are_refused_with_the_precision():
    llm = tiny.backbone(dtype=torch.float16)
    llm.model.get_output_embeddings().weight.data.fill_(6e4)
    start = build_stream(llm.tokenizer, description_messages("a", "What?"), 0)
    with pytest.raises(PrecisionError, match="logits are not finite in float16; load it in bfloat"):
        llm.logits(llm.hidden_states(llm.embed(torch.tensor([[1, 2, 3]]))))
    with pytest.raises(PrecisionError, match="not finite in float16"):
        llm.generate_ids([start], max_new_tokens=3)


def test_more_tokens_than_the_backbone_knows_are_refused():
    llm = tiny.backbone()
    start = build_stream(llm.tokenizer, description_messages("a", "What?"), 0)
    with pytest.raises(ChatError, match=r"read and write 6\d\d tokens and knows 512 positions"):
        llm.generate_ids([start], max_new_tokens=600)
    with pytest.raises(ChatError, match="513 tokens and knows 512"):
        llm.hidden_states(llm.embed(torch.ones(1, 503, dtype=torch.long)), range(1, 11))


def test_a_mask_of_who_sees_whom_is_refused_where_no_layer_takes_it():
    llm = tiny.backbone("gemma2")
    ids, positions = torch.tensor([[1, 2]]), torch.tensor([[0, 1]])
    sees = torch.ones(1, 2, 2, dtype=torch.bool).tril()
    llm.model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(
        ValueError, match=r"this backbone has .* in full_attention, linear_attention"
    ):
        llm.hidden_states(llm.embed(ids), sees=sees, position_ids=positions)


def test_padding_is_never_part_of_an_answer():
    llm = tiny.backbone()
    end = llm.tokenizer.eos_token_id
    assert llm.trim_at_end([5, 6, end, end, end]) == (5, 6, end)
    assert llm.trim_at_end([5, 6]) == (5, 6)
    assert llm.decode([*llm.tokenizer("low volume").input_ids, end]) == "low volume"


def test_nothing_in_it_learns():
    assert not any(parameter.requires_grad for parameter in tiny.backbone().parameters())


def test_a_tokenizer_without_template_or_end_is_refused():
    words = tiny.tokenizer.__wrapped__()
    words.chat_template = None
    with pytest.raises(ValueError, match="no chat template; take an instruct model"):
        Backbone(tiny.causal(), words)
    words = tiny.tokenizer.__wrapped__()
    words.eos_token = None
    with pytest.raises(ValueError, match="no end-of-turn token"):
        Backbone(tiny.causal(), words)


def test_a_folder_loads_in_the_hugging_face_layout(tmp_path):
    model = tiny.causal("qwen2")
    llm = Backbone.load(tiny.hf_folder(tmp_path, model, tiny.tokenizer()))
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(llm.logits(llm.hidden_states(llm.embed(ids))), model(ids).logits)
    assert llm.tokenizer("a sentence").input_ids == tiny.tokenizer()("a sentence").input_ids
    assert llm.max_positions == 512


# ---- LoRA ----


def test_lora_starts_as_the_backbone_learns_and_is_off_in_text():
    llm = tiny.backbone()
    ids, prefix = torch.tensor([[5, 6, 7, 8]]), [9, 10]
    start = build_stream(llm.tokenizer, description_messages("a", "What?"), 0)
    with torch.no_grad():
        before = llm.hidden_states(llm.embed(ids), prefix)
    answer = llm.generate_ids([start], max_new_tokens=6)

    llm.unfreeze("lora-4")
    learning = list(llm.trainable_parameters.values())
    assert {id(p) for p in llm.parameters() if p.requires_grad} == {id(p) for p in learning}
    assert sum(p.numel() for p in learning) == 2 * 4 * (
        2 * (48 + 48) + 2 * (48 + 24) + 3 * (48 + 96)
    )  # layers × rank × (q and o + k and v + the MLP)
    with torch.no_grad():
        torch.testing.assert_close(llm.hidden_states(llm.embed(ids), prefix), before)

    optimizer = torch.optim.SGD(learning, lr=1.0)
    losses = []
    for _ in range(5):
        loss = (
            llm.logits(llm.hidden_states(llm.embed(ids), prefix))
            .log_softmax(-1)[..., 11]
            .neg()
            .mean()
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.no_grad():
        after = llm.hidden_states(llm.embed(ids), prefix)
        assert not torch.allclose(after, before, atol=1e-2)
        whole = llm.hidden_states(llm.embed(torch.tensor([prefix + ids[0].tolist()])))[
            :, len(prefix) :
        ]
        torch.testing.assert_close(after, whole)  # the prefix, too, is read with the adapters
        with llm.untuned():
            torch.testing.assert_close(llm.hidden_states(llm.embed(ids), prefix), before)
    assert llm.generate_ids([start], max_new_tokens=6) != answer
    with llm.untuned():
        assert llm.generate_ids([start], max_new_tokens=6) == answer
    assert [p.requires_grad for p in learning] == [True] * len(learning)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_gives_the_same_gradients_and_keeps_less(kind):
    llm = tiny.backbone(kind)
    prefix, start = (5, 6, 7), torch.randn(2, 40, tiny.WIDTH)
    target = torch.randn(2, 40, tiny.WIDTH)

    weights = {p.untyped_storage().data_ptr() for p in llm.model.parameters()}

    def gradient() -> tuple[torch.Tensor, int]:
        """The gradient at the embeddings, and the bytes of activations that waited for it."""
        embeddings, kept = start.clone().requires_grad_(), {}

        def keep(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = (llm.hidden_states(embeddings, prefix) - target).square().mean()
        loss.backward()
        return embeddings.grad, sum(size for place, size in kept.items() if place not in weights)

    plain, all_of_it = gradient()
    llm.gradient_checkpointing = True
    again, less = gradient()
    torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-7)
    assert less < 0.5 * all_of_it
    assert not [name for name, module in llm.model.named_modules() if "forward" in vars(module)]
    spoken = torch.randn(1, 4, tiny.WIDTH)
    ids = llm.generate(inputs_embeds=spoken, max_new_tokens=4)
    llm.gradient_checkpointing = False
    assert torch.equal(llm.generate(inputs_embeds=spoken, max_new_tokens=4), ids)


def test_the_head_is_given_rows_that_lie_together(monkeypatch: pytest.MonkeyPatch):
    """Else torch copies its weights for every row: gigabytes, and most of the time of an answer."""
    llm, seen = tiny.backbone(), []
    head = llm.model.get_output_embeddings()
    plain = head.forward
    monkeypatch.setattr(head, "forward", lambda x: seen.append(x.is_contiguous()) or plain(x))
    streams = [TokenStream(tuple(range(5, 5 + n)), n) for n in (4, 6, 7)]
    llm.generate_ids(streams, max_new_tokens=3)
    ids, real = llm.pad_left(streams)
    llm.generate_branches(llm.embed(ids), real, [[[5, 6, 7], [8, 9]]] * 3, max_new_tokens=3)
    assert seen and all(seen)
