"""Sites: every value that flows can be named, recorded and edited, and nothing stays behind."""

import pytest
import soundfile
import torch
from torch import nn

from desta_lab.audio import RATE
from desta_lab.model import chat
from desta_lab.model import sites as sites_
from desta_lab.model.connector import FrameStack, QFormer
from tests import tiny

WAVES = [tiny.wave(i) for i in range(3)]
QUESTION = "What is it?"


@pytest.fixture(scope="module")
def llm():
    return tiny.audio_llm(dropout=0.0)


def hooks(llm) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llm.modules())


def test_a_pass_shows_what_flows_and_where_the_answer_begins(llm):
    """An independent reference: the same forward without hooks."""
    seen = llm.run(WAVES, QUESTION, sites=["audio_embeddings", "backbone.0"])
    stream = chat.build_stream(llm.backbone.tokenizer, chat.audio_messages(QUESTION), llm.queries)
    with torch.no_grad():
        embeddings = llm.splice(torch.tensor([stream.ids] * 3), llm.encode_audio(WAVES))
        out = llm.backbone.model(inputs_embeds=embeddings, output_hidden_states=True)
    torch.testing.assert_close(seen.logits, out.logits[:, seen.answer])
    torch.testing.assert_close(seen["backbone.0"], out.hidden_states[1])
    assert list(seen.sites) == ["audio_embeddings", "backbone.0"]
    slots = [i for i, token in enumerate(stream.ids) if token == chat.SLOT]
    assert seen.slots.tolist() == [slots] * 3
    assert seen.tokens[0][slots[1]] == "[audio 1]"
    assert torch.equal(seen.at_slots("backbone.0"), seen["backbone.0"][:, slots])


@pytest.mark.parametrize("kind", ["llama", "neox", "gemma2"])
def test_every_site_of_every_architecture_is_recorded_clip_by_clip(kind):
    llm = tiny.audio_llm(kind, dropout=0.0)
    seen = llm.run(WAVES, QUESTION, sites=["*"])
    assert list(seen.sites) == llm.sites()
    wanted = {
        "encoder.3",
        "encoder.0.attention.pattern",
        "connector.blocks.0",
        "connector.blocks.0.cross_attention.pattern",
        "connector.blocks.0.self_attention.heads",
        "audio_embeddings",
        "backbone.1",
        "backbone.1.attention.heads",
        "backbone.1.attention.pattern",
        "backbone.1.mlp",
        "backbone.norm",
    }
    assert wanted <= set(seen.sites)
    for name, value in seen.sites.items():
        assert len(value) == 3, name
        assert len(seen.axes[name]) == value.dim(), name
        one = llm.run(WAVES[1:2], QUESTION, sites=[name])[name][0]
        torch.testing.assert_close(value[1], one, atol=1e-4, rtol=1e-3)


def test_patterns_are_the_weights_that_the_model_uses(llm):
    seen = llm.run(WAVES, QUESTION, sites=["*pattern"])
    stream = chat.build_stream(llm.backbone.tokenizer, chat.audio_messages(QUESTION), llm.queries)
    llm.backbone.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            embeddings = llm.splice(torch.tensor([stream.ids] * 3), llm.encode_audio(WAVES))
            out = llm.backbone.model(inputs_embeds=embeddings, output_attentions=True)
    finally:
        llm.backbone.model.set_attn_implementation("sdpa")
    torch.testing.assert_close(seen["backbone.1.attention.pattern"], out.attentions[1])
    cross = seen["connector.blocks.0.cross_attention.pattern"]
    assert cross.shape == (3, 4, 4, llm.queries, llm.encoder.frames)  # clip, tap, head, query, key
    for name, weights in seen.sites.items():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), msg=name)
    assert llm.backbone.attention == "sdpa"


def test_heads_add_up_to_what_attention_puts_out(llm):
    seen = llm.run(WAVES, QUESTION, sites=["backbone.0.attention*"])
    mix = llm.backbone.model.get_decoder().layers[0].self_attn.o_proj
    with torch.no_grad():
        together = mix(seen["backbone.0.attention.heads"].flatten(2))
    torch.testing.assert_close(together, seen["backbone.0.attention"])


def test_an_edit_reaches_the_answer_and_leaves_nothing_behind(llm):
    before, plain = hooks(llm), llm.run(WAVES, QUESTION)
    for name in llm.sites():
        if name.endswith("attention.pattern") and not name.startswith("connector"):
            with pytest.raises(ValueError, match=r"edit its attention\.heads"):
                llm.run(WAVES, QUESTION, edits={name: torch.zeros_like})
            continue
        edited = llm.run(WAVES, QUESTION, sites=[name], edits={name: torch.zeros_like})
        assert not edited[name].any(), name
        if not name.startswith("connector.layer") and name != "connector.inputs.0.0":
            assert not torch.equal(edited.logits, plain.logits), name
    assert torch.equal(llm.run(WAVES, QUESTION).logits, plain.logits)
    assert hooks(llm) == before


@pytest.mark.parametrize("edit", [lambda flow: None, lambda flow: flow.mT, lambda flow: flow[:1]])
def test_an_edit_that_returns_no_such_shape_is_refused(llm, edit):
    with pytest.raises(ValueError, match=r"An edit returns .* where \(.*\) flows; return that"):
        llm.run(WAVES, QUESTION, edits={"backbone.1": edit})


@pytest.mark.parametrize("clips", [[], "clip.wav"])
def test_clips_are_a_list(llm, clips):
    with pytest.raises(ValueError, match="clips are a list of files or waveforms, at least one"):
        llm.run(clips, QUESTION)


def test_an_edit_of_one_head_at_one_place_leaves_the_others(llm):
    def silence(heads):
        heads = heads.clone()
        heads[:, -1, 2] = 0  # clip, token, head
        return heads

    name = "backbone.1.attention.heads"
    plain, edited = (
        llm.run(WAVES, QUESTION, sites=[name], edits=edits) for edits in ({}, {name: silence})
    )
    changed = (plain[name] != edited[name]).any(-1)
    assert changed[:, -1, 2].all()
    assert changed.sum() == 3


def test_hooks_are_gone_after_an_error_inside(llm):
    before = hooks(llm)

    def fail(flow):
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        llm.run(WAVES, QUESTION, sites=["*"], edits={"backbone.1": fail})
    assert hooks(llm) == before
    assert llm.backbone.attention == "sdpa"


def test_transcripts_of_other_lengths_change_nothing_for_the_neighbour(llm):
    words = ["one", "a much longer run of words than that", ""]
    together = llm.run(WAVES, QUESTION, transcripts=words)
    for i, text in enumerate(words):
        alone = llm.run(WAVES[i : i + 1], QUESTION, transcripts=[text])
        torch.testing.assert_close(together.logits[i], alone.logits[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            together.at_slots("backbone.1")[i],
            alone.at_slots("backbone.1")[0],
            atol=1e-4,
            rtol=1e-4,
        )
        assert len([token for token in together.tokens[i] if token]) == len(alone.tokens[0])
    with pytest.raises(ValueError, match="3 clips and 1 transcripts"):
        llm.run(WAVES, QUESTION, transcripts=["one"])


def test_batches_files_and_a_stem_give_what_one_batch_of_waveforms_gives(llm, tmp_path):
    paths = []
    for i, wave in enumerate(WAVES):
        paths.append(tmp_path / f"{i}.wav")
        soundfile.write(paths[-1], wave, RATE, subtype="FLOAT")
    whole = llm.run(WAVES, QUESTION, stem="The tone is")
    parts = llm.run(paths, QUESTION, stem="The tone is", batch=2)
    torch.testing.assert_close(parts.logits, whole.logits, atol=1e-5, rtol=1e-5)
    assert whole.tokens[0][whole.answer].strip() != llm.run(WAVES, QUESTION).tokens[0][-1].strip()


def test_gradients_reach_every_place_behind_the_encoder(llm):
    names = ["connector.blocks.0", "audio_embeddings", "backbone.0", "backbone.1.attention.heads"]
    seen = llm.run(WAVES, QUESTION, sites=names, gradients=True)
    grads = torch.autograd.grad(seen.logits[:, 7].sum(), [seen[name] for name in names])
    for name, grad in zip(names, grads, strict=True):
        assert grad.shape == seen[name].shape
        assert grad.any(), name
    assert not llm.run(WAVES, QUESTION).logits.requires_grad
    step = 1e-3 * torch.randn_like(seen["audio_embeddings"])
    moved = llm.run(WAVES, QUESTION, edits={"audio_embeddings": lambda flow: flow + step})
    expected = (grads[1] * step).sum()
    torch.testing.assert_close(
        (moved.logits - seen.logits)[:, 7].sum().detach(), expected, rtol=0.1, atol=1e-3
    )


class Mean(nn.Module):
    """Somebody's own connector: one embedding, the mean of all states."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.linear = 1, nn.Linear(64, tiny.WIDTH)

    def forward(self, states):
        return self.linear(states.mean((0, 2)))[:, None]


@pytest.mark.parametrize(
    ("connector", "site"),
    [
        (lambda: FrameStack(d_enc=64, d_llm=tiny.WIDTH, queries=4), "connector.mlp.1"),
        (Mean, "connector.linear"),
    ],
)
def test_any_connector_has_its_own_modules_as_sites(connector, site):
    llm = tiny.audio_llm()
    llm.connector = connector()
    seen = llm.run(WAVES, QUESTION, sites=[site, "audio_embeddings"])
    assert len(seen[site]) == 3
    edited = llm.run(WAVES, QUESTION, edits={site: torch.zeros_like})
    assert not torch.equal(edited.logits, seen.logits)


def test_a_single_tap_has_the_axes_that_several_have(llm):
    single = tiny.audio_llm(dropout=0.0)
    single.encoder.taps = (3,)
    sizes = {"queries": 5, "depth": 1, "heads": 4, "ffn": 64, "width": 32}
    single.connector = QFormer(taps=1, d_enc=64, d_llm=tiny.WIDTH, **sizes)
    names = [f"connector.blocks.0.cross_attention{end}" for end in ("", ".heads", ".pattern")]
    one, four = (mine.run(WAVES, QUESTION, sites=names) for mine in (single, llm))
    for name in names:
        assert one.axes[name] == four.axes[name]
        assert one[name].shape == torch.Size([3, 1, *four[name].shape[2:]])
    edited = single.run(WAVES, QUESTION, sites=names[:1], edits={names[1]: torch.zeros_like})
    assert edited[names[0]].shape == one[names[0]].shape
    assert not torch.equal(edited.logits, one.logits)


def test_a_tuned_backbone_has_the_same_sites(llm):
    tuned = tiny.audio_llm()
    before = tuned.sites()
    tuned.backbone.unfreeze("lora-2")
    assert tuned.sites() == before
    assert len(tuned.run(WAVES, QUESTION, sites=["*"])["backbone.1.attention"]) == 3


def test_an_unknown_site_is_named_with_those_there_are(llm):
    with pytest.raises(
        ValueError, match=r"no site 'nothing'; llm\.sites\(\) lists all, such as enc"
    ):
        llm.run(WAVES, QUESTION, sites=["nothing"])


@pytest.mark.parametrize("scale", [3e4, float("nan"), float("inf")])
def test_a_waveform_on_another_scale_is_refused(llm, scale):
    with pytest.raises(ValueError, match=r"has a peak of .* where full scale is 1; divide it"):
        llm.run([WAVES[1], scale * WAVES[0]], QUESTION)


def test_a_pass_is_a_table_and_a_file(llm, tmp_path):
    seen = llm.run(WAVES, QUESTION, sites=["backbone.0", "backbone.0.attention.pattern"])
    table = seen.to_frame("backbone.0")
    assert table.index.names == ["clip", "token"]
    assert table.loc[(1, 2), 3] == pytest.approx(float(seen["backbone.0"][1, 2, 3]))
    seen.save(tmp_path / "pass.safetensors")
    again = sites_.ForwardPass.load(tmp_path / "pass.safetensors")
    assert list(again.sites) == list(seen.sites)
    assert (again.axes, again.tokens, again.answer) == (seen.axes, seen.tokens, seen.answer)
    assert all(torch.equal(again[name], seen[name]) for name in seen.sites)
    assert torch.equal(again.slots, seen.slots)
    assert torch.equal(again.logits, seen.logits)


def test_a_pass_of_all_sites_is_a_file(llm, tmp_path):
    """A module and the last module in it give the same tensor."""
    seen = llm.run(WAVES, QUESTION, sites=["*"])
    seen.save(tmp_path / "pass.safetensors")
    again = sites_.ForwardPass.load(tmp_path / "pass.safetensors")
    assert list(again.sites) == llm.sites()
    assert all(torch.equal(again[name], seen[name]) for name in seen.sites)
