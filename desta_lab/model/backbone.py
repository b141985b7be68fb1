"""The frozen instruct LLM: tokens or embeddings in, next-token distributions or text out."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from desta_lab.model import chat, weights
from desta_lab.model.presets import parse_tuning

_LAYERS = ("layers", "h", "blocks")  # how architectures name the list of their layers
_MASKED = ("sdpa", "eager")  # implementations of attention that take a mask of who sees whom
# Architectures of which tests say that they can be read in every way that is used here.
TESTED = ("gemma2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")

IN_FRONT: dict[str, Any] = {"batch_first": True, "padding_side": "left"}  # for `pad_sequence`

# Settings of a model that would choose another token than the likeliest, or stop elsewhere.
UNGREEDY = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "min_length",
    "min_new_tokens",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "sequence_bias",
    "guidance_scale",
    "exponential_decay_length_penalty",
    "stop_strings",
    "num_beams",
)


class PrecisionError(RuntimeError):
    """The backbone's logits are no numbers any more; the message names the precision."""


class Backbone(nn.Module):
    """A decoder-only instruct LLM of transformers with its tokenizer, frozen.

    Its own settings of generation are taken from it, but for the ends of an answer: greedy means
    the likeliest token. `ignored_settings` has those that would have changed an answer.

    Raises:
        ValueError: it has no chat template or no end of turn, or is read in another way than here
            (`trial.Trial`).
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        config = model.config.get_text_config()
        _check_tokenizer(tokenizer)
        self.model = model.eval().requires_grad_(False)
        model.get_output_embeddings().register_forward_pre_hook(_join_rows)
        self.tokenizer = tokenizer
        self.width = int(model.get_input_embeddings().weight.shape[1])
        # the longest stream it can read, in tokens
        self.max_positions: int | None = getattr(config, "max_position_embeddings", None)
        self.gradient_checkpointing = False  # compute its layers twice, to save memory
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)  # Gemma
        self._logit_scale = _logit_scale(config)
        self.ignored_settings = _settings_beside_greedy(model.generation_config)
        ends = model.generation_config.eos_token_id
        model.generation_config = type(model.generation_config)(eos_token_id=ends)
        self._initial: dict[str, Tensor] = {}  # tuned parameters as they were before training
        self._prefix: tuple[Any, Any] = (None, None)
        # a prefix read once serves all rows; a mask says which token sees which
        self.shares_prefix, self.takes_masks = True, True
        if config.model_type not in TESTED or self._logit_scale != 1:
            self._try_readings()

    @classmethod
    def load(cls, folder: Path | str, **options: Any) -> "Backbone":
        """Model and tokenizer of a folder; `options` go to `from_pretrained` (dtype, …).

        Raises:
            WeightsError: the folder holds no whole model.
        """
        from transformers import AutoModelForCausalLM

        model = weights.load_whole(AutoModelForCausalLM, folder, **options)
        return cls(model, weights.load_tokenizer(folder))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the frozen weights."""
        return self.model.get_input_embeddings().weight.dtype

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder's layers, first to last; none if they have another name than is known."""
        decoder = self.model.get_decoder()
        named = [getattr(decoder, name) for name in _LAYERS if hasattr(decoder, name)]
        return list(named[0]) if named else []

    @property
    def attention(self) -> str:
        """How it computes attention, by the name in transformers: "sdpa", "eager", …"""
        return str(self.model.config._attn_implementation)

    # ---- tuning ----

    def unfreeze(self, tuning: str, seed: int = 0) -> None:
        """Let it learn: "frozen" (nothing), "lora-8" (adapters of rank 8) or "full" (all of it).

        Adapters (of peft, in float32) stand beside every linear layer and are scaled by 2.

        Raises:
            ValueError: another word.
        """
        rank = parse_tuning(tuning)
        if rank is None:
            self.model.requires_grad_(True)
        elif rank:
            from peft import LoraConfig

            lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.model.add_adapter(lora)
            self.model.eval()
            for parameter in self.trainable_parameters.values():
                parameter.data = parameter.data.float()
        tuned = self.trainable_parameters.items()
        self._initial = {name: parameter.detach().clone() for name, parameter in tuned}

    @property
    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name; none unless it was unfrozen."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def reset_tuning(self) -> None:
        """Undo all that was learned since it was unfrozen."""
        self._copy_in(self._initial)

    @contextmanager
    def untuned(self) -> Iterator[None]:
        """A context in which the backbone answers as before any tuning."""
        tuned = {name: self.model.get_parameter(name).detach().clone() for name in self._initial}
        self.reset_tuning()
        try:
            yield
        finally:
            self._copy_in(tuned)

    @torch.no_grad()
    def _copy_in(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.model.get_parameter(name).copy_(tensor)

    def scale_adapters(self, share: float) -> None:
        """Scale what all low-rank adapters add: 1 is all of it, 0 none."""
        from peft.tuners.lora import LoraLayer

        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.set_scale("default", share)

    # ---- from tokens to logits ----

    @property
    @torch.no_grad()
    def embedding_scale(self) -> float:
        """Root mean square of the token embeddings, the scale for audio embeddings."""
        table = self.model.get_input_embeddings().weight
        embedded = self.embed(torch.tensor([0, 1]))  # `embed` may scale the table (Gemma 3)
        scaling = embedded.float().norm() / table[:2].float().norm()
        return float(scaling * table.float().pow(2).mean().sqrt())

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_llm"]:
        """Token embeddings; audio slots get those of token 0 until they are filled."""
        return self.model.get_input_embeddings()(ids.clamp(min=0).to(self.device))

    def hidden_states(
        self,
        embeddings: Float[Tensor, "batch token d_llm"],
        prefix: Sequence[int] = (),
        *,
        sees: Bool[Tensor, "batch token token"] | None = None,
        position_ids: Int[Tensor, "batch token"] | None = None,
        **options: Any,
    ) -> Float[Tensor, "batch token d_llm"]:
        """Final hidden states at every given position, after the token ids of `prefix`.

        The prefix is the same in every row and every step (system prompt, tag before the clip), and
        nothing that learns stands before it. Its keys and values are computed once, without
        gradient, and kept. A backbone that learns, computes its layers twice or has layers without
        keys and values reads it each time.

        Args:
            sees: which token sees which, of tokens at `position_ids`; by default all before it.

        Raises:
            ChatError: there are more tokens than it can read.
            ValueError: its attention takes no such `sees`.
        """
        decoder = self.model.get_decoder()
        last = embeddings.shape[1] - 1 if position_ids is None else int(position_ids.max())
        self._check_length(len(prefix) + last + 1)
        if position_ids is not None:
            options["position_ids"] = position_ids.to(self.device)
            if sees is not None:
                options["attention_mask"] = self._attention_mask(sees, position_ids)
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        if prefix and (self._initial or recompute or not self.shares_prefix):
            before = self.embed(torch.tensor(prefix)).expand(len(embeddings), -1, -1)
            whole = torch.cat([before, embeddings.to(self.dtype)], dim=1)
            return self.hidden_states(whole, **options)[:, len(prefix) :]
        if prefix:
            options["past_key_values"] = self._read_prefix(prefix)
            options["past_key_values"].batch_repeat_interleave(len(embeddings))
        with _layers_recomputed(decoder) if recompute else nullcontext():
            out = decoder(
                inputs_embeds=embeddings.to(self.dtype), use_cache=bool(prefix), **options
            )
        return out.last_hidden_state

    def _try_readings(self) -> None:
        """Find out what may be shared. Raises ValueError for an LLM that is read in another way."""
        from desta_lab.model.trial import Trial

        trial = Trial(self)
        if fault := trial.differs(trial.read_embeddings) or trial.differs(trial.begin_answer):
            kind = self.model.config.model_type
            raise ValueError(f"A {kind} cannot be a backbone here: {fault}; take another LLM.")
        self.shares_prefix = not trial.differs(trial.read_behind_prefix)
        self.takes_masks = not trial.differs(trial.read_beside_another)

    def _check_length(self, tokens: int) -> None:
        """Raise ChatError for more tokens than it was made to read."""
        if self.max_positions is not None and tokens > self.max_positions:
            known = f"knows {self.max_positions} positions; shorten the conversation"
            raise chat.ChatError(f"The backbone is to read and write {tokens} tokens and {known}.")

    @property
    def _layer_kinds(self) -> list[str]:
        """What its layers see, each kind once: "full_attention", "sliding_attention", …"""
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        uniform = "full_attention" if window is None else "sliding_attention"
        return sorted(set(getattr(config, "layer_types", None) or [uniform]))

    def _attention_mask(
        self, sees: Bool[Tensor, "batch token token"], positions: Int[Tensor, "batch token"]
    ) -> Tensor | dict[str, Tensor]:
        """`sees` as the layers add it to their scores, one for each kind if there are several.

        A layer with a sliding window sees a distance of less than the window, in positions.
        """
        config = self.model.config.get_text_config()
        window, kinds = getattr(config, "sliding_window", None), self._layer_kinds
        known = {"full_attention", "sliding_attention"}
        if not known.issuperset(kinds) or self.attention not in _MASKED:
            raise ValueError(
                f"Options are scored together under eager or sdpa attention in full or sliding "
                f"windows; this backbone has {self.attention} in {', '.join(kinds)}. Set another "
                "attention, or take another backbone."
            )
        near = (positions[:, :, None] - positions[:, None]) < (window or 0)
        masks = {}
        for kind in kinds:
            seen = sees & near if kind == "sliding_attention" else sees
            blocked = torch.zeros(seen.shape, dtype=self.dtype)
            blocked.masked_fill_(~seen, torch.finfo(self.dtype).min)
            masks[kind] = blocked[:, None].to(self.device)
        return masks if len(masks) > 1 else masks[kinds[0]]

    def _read_prefix(self, prefix: Sequence[int]) -> Any:
        """A copy of the prefix's keys and values, computed when the prefix is a new one."""
        key = (tuple(prefix), self.device, self.dtype)
        if self._prefix[0] != key:
            with torch.no_grad():
                ids = torch.tensor([list(prefix)], device=self.device)
                cache = self.model.get_decoder()(ids, use_cache=True).past_key_values
            self._prefix = (key, cache)
        return copy.deepcopy(self._prefix[1])

    def logits(self, hidden: Float[Tensor, "*shape d_llm"]) -> Float[Tensor, "*shape vocabulary"]:
        """Next-token logits in float32 (or better) of final hidden states.

        Raises:
            PrecisionError: they are no numbers.
        """
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * self._logit_scale
        if self._softcap is not None:
            logits = self._softcap * torch.tanh(logits / self._softcap)
        return self._check_finite(None, logits)

    def _check_finite(self, ids: Any, logits: Tensor) -> Tensor:
        """The logits, if the largest of each position is a number; raises PrecisionError."""
        if not torch.isfinite(logits.detach().amax(-1)).all():
            dtype = str(self.dtype).removeprefix("torch.")
            remedy = "load it in bfloat16 or float32 (dtype=…), or check its weights"
            raise PrecisionError(f"The backbone's logits are not finite in {dtype}; {remedy}.")
        return logits

    # ---- from streams to answers ----

    def generate_ids(
        self,
        streams: Sequence[chat.TokenStream],
        max_new_tokens: int = 32,
        batch: int = 32,
        **options: Any,
    ) -> list[tuple[int, ...]]:
        """Ids of the answers to streams without audio, up to and with the end of turn."""
        answers: list[tuple[int, ...]] = []
        for first in range(0, len(streams), batch):
            ids, mask = self.pad_left(streams[first : first + batch])
            how = {"attention_mask": mask, "max_new_tokens": max_new_tokens, **options}
            answers += self.answer(input_ids=ids, **how)
        return answers

    @torch.no_grad()
    def generate_branches(
        self,
        trunks: Float[Tensor, "row token d_llm"],
        real: Int[Tensor, "row token"],
        branches: Sequence[Sequence[Sequence[int]]],
        max_new_tokens: int = 32,
    ) -> list[list[tuple[int, ...]]]:
        """Ids of the answers behind every branch of every trunk, up to and with the end of turn.

        A trunk is read once for all its branches, unless a layer sees a part of what is before it.
        The first branches of all trunks are answered together, then the second: answers to one
        question are about equally long.

        Args:
            trunks: embeddings, padded in front where `real` is 0.
            branches: of every trunk equally many, each the ids that lead on to an answer.
        """
        trunks, real = trunks.to(self.dtype), real.to(self.device)
        read = None
        if self._layer_kinds == ["full_attention"]:
            how = {"use_cache": True, **padding_arguments(real)}
            read = self.model.get_decoder()(inputs_embeds=trunks, **how).past_key_values
        columns = []
        for column in zip(*branches, strict=True):
            if read is None:
                inputs = self._join_branch(trunks, real, column)
            else:
                streams = [chat.TokenStream(tuple(own), len(own)) for own in column]
                ids, mask = self.pad_left(streams)
                inputs = {
                    "input_ids": torch.cat([real * self.pad_id, ids], dim=1),
                    "attention_mask": torch.cat([real, mask], dim=1),
                    "past_key_values": copy.deepcopy(read),
                }
            columns.append(self.answer(**inputs, max_new_tokens=max_new_tokens))
        return [list(row) for row in zip(*columns, strict=True)]

    def _join_branch(
        self,
        trunks: Float[Tensor, "row token d_llm"],
        real: Int[Tensor, "row token"],
        branch: Sequence[Sequence[int]],
    ) -> dict[str, Tensor]:
        """What `generate` reads from the beginning: a branch behind each trunk."""
        rows = [
            torch.cat([trunk[seen.bool()], self.embed(torch.tensor(ids)).to(trunk)])
            for trunk, seen, ids in zip(trunks, real, branch, strict=True)
        ]
        seen = [torch.ones(len(row), dtype=torch.long, device=self.device) for row in rows]
        return {
            "inputs_embeds": pad_sequence(rows, **IN_FRONT),
            "attention_mask": pad_sequence(seen, **IN_FRONT),
        }

    def answer(self, **inputs: Any) -> list[tuple[int, ...]]:
        """What `generate` writes behind its inputs, up to and with the end of turn."""
        before = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        return [self.trim_at_end(row) for row in self.generate(**inputs)[:, before:].tolist()]

    @torch.no_grad()
    def generate(self, **inputs: Any) -> Int[Tensor, "batch token"]:
        """`generate` of transformers up to any end of turn: the likeliest token each time.

        With `do_sample` it draws, and only `temperature` and `top_p` shape the draw.

        Raises:
            ChatError: prompt and answer are longer than the backbone can read.
            PrecisionError: the logits are no numbers.
        """
        options: dict[str, Any] = {
            "do_sample": False,
            "eos_token_id": list(self.end_ids),
            "pad_token_id": self.pad_id,
            "logits_processor": [self._check_finite],
        }
        if inputs.get("do_sample"):
            options["top_k"] = 0
        given = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]
        self._check_length(given.shape[1] + inputs.get("max_new_tokens", 0))
        return self.model.generate(**{**options, **inputs})

    def pad_left(
        self, streams: Sequence[chat.TokenStream]
    ) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"]]:
        """Ids and attention mask of streams that are to be continued, padded in front."""
        rows = [torch.tensor(stream.ids, device=self.device) for stream in streams]
        mask = pad_sequence([torch.ones_like(row) for row in rows], **IN_FRONT)
        return pad_sequence(rows, padding_value=self.pad_id, **IN_FRONT), mask

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end an answer, see `end_ids_of`."""
        return end_ids_of(self.tokenizer, self.model.generation_config)

    @property
    def pad_id(self) -> int:
        """The id that fills rows; the end of turn where the tokenizer has no padding token."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def trim_at_end(self, ids: Sequence[int]) -> tuple[int, ...]:
        """An answer's ids up to and with its end of turn."""
        ends = self.end_ids
        end = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        return tuple(ids[: end + 1])

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text, without special tokens."""
        return chat.decode_ids(self.tokenizer, ids)


def _join_rows(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The last positions of some rows, next to each other in memory.

    `generate` cuts them out of whole rows, and for such a cut torch copies the weights of the head
    once for every row: 17 GB and 46 s for 64 rows and 151,936 words in bf16 on a CPU.
    """
    return (inputs[0].contiguous(), *inputs[1:])


def end_ids_of(tokenizer: Any, generation_config: Any) -> tuple[int, ...]:
    """The ids that end an answer: the end of turn, the tokenizer's `eos_token`, the model's own."""
    own = generation_config.eos_token_id
    more = [own] if isinstance(own, int) else own or []
    return tuple(sorted({chat.end_of_turn(tokenizer), tokenizer.eos_token_id, *more}))


def padding_arguments(mask: Int[Tensor, "row token"]) -> dict[str, Any]:
    """What a backbone is told of padding on the left; nothing where there is none."""
    if mask.all():
        return {}
    return {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def _settings_beside_greedy(settings: Any) -> dict[str, Any]:
    """The settings of a model that greedy decoding leaves out, and that would have changed it."""
    own = {name: getattr(settings, name, None) for name in UNGREEDY}
    return {name: value for name, value in own.items() if value not in (None, False, 0, 1, [], {})}


def _logit_scale(config: Any) -> float:
    """What the logits of a head are multiplied by: in Cohere, Falcon-H1, and divided, Granite."""
    by, more, over = (
        getattr(config, name, None) or 1.0
        for name in ("logit_scale", "lm_head_multiplier", "logits_scaling")
    )
    return float(by * more / over)


def _check_tokenizer(tokenizer: Any) -> None:
    """Raise ValueError for a tokenizer that cannot write a conversation."""
    if tokenizer.chat_template is None:
        raise ValueError("This tokenizer has no chat template; take an instruct model, or set one.")
    if tokenizer.eos_token_id is None:
        raise ValueError("This tokenizer has no end-of-turn token; set its eos_token.")


@contextmanager
def _layers_recomputed(decoder: nn.Module) -> Iterator[None]:
    """A context in which each layer keeps its input only and is computed again for its gradient.

    The switch of transformers has no effect in `eval()`, where a frozen backbone stays.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [
        layer for layer in decoder.modules() if isinstance(layer, GradientCheckpointingLayer)
    ]
    originals = [vars(layer).get("forward") for layer in layers]  # accelerate's, of a spread model
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            del layer.forward
            if original is not None:
                layer.forward = original
