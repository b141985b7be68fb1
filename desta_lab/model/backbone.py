"""The frozen instruct LLM: tokens or embeddings in, next-token distributions or text out."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from desta_lab.model import chat


class Backbone(nn.Module):
    """A decoder-only instruct LLM of transformers with its tokenizer, frozen; the connector talks to its embeddings."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        if tokenizer.chat_template is None:
            raise ValueError(
                "This tokenizer has no chat template; take an instruct model, or set one."
            )
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "This tokenizer has no end-of-turn token (eos_token); set the one its chat template ends in."
            )
        config = model.config.get_text_config()
        for scaling in (
            "logit_scale",
            "logits_scaling",
            "lm_head_multiplier",
        ):  # Cohere, Granite, Falcon-H1
            if getattr(config, scaling, None) not in (None, 1.0):
                raise ValueError(
                    f"{config.model_type} scales its logits ({scaling}), which `logits` does not; take another."
                )
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.width = int(model.get_input_embeddings().weight.shape[1])
        self.max_positions: int | None = getattr(
            config, "max_position_embeddings", None
        )  # the longest stream it can read
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)  # Gemma
        self._born: dict[str, Tensor] = {}  # what learns, as it was before it learned anything
        self._prefix: tuple[Any, Any] = (None, None)
        self.gradient_checkpointing = (
            False  # keep no activations inside its layers, but compute them again on the way back
        )

    @classmethod
    def load(cls, folder: Path | str, **how: Any) -> "Backbone":
        """Model and tokenizer of a local folder; `how` goes to `from_pretrained` (dtype, device_map, …)."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(folder, **{"dtype": torch.float32, **how})
        return cls(model, AutoTokenizer.from_pretrained(folder))

    def add_lora(
        self,
        rank: int = 16,
        alpha: int = 16,
        dropout: float = 0.1,
        targets: Sequence[str] | str = ("q_proj", "k_proj", "v_proj"),
    ) -> list[nn.Parameter]:
        """Give it low-rank adapters (peft, float32) that may learn, DeSTA2.5's option; returns their parameters."""
        from peft import LoraConfig

        where = targets if isinstance(targets, str) else list(targets)
        self.model.add_adapter(
            LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=where)
        )
        self.model.eval()
        for parameter in self.trainable_parameters.values():
            parameter.data = parameter.data.float()
        self._born = {
            name: parameter.detach().clone()
            for name, parameter in self.trainable_parameters.items()
        }
        return list(self.trainable_parameters.values())

    def unfreeze(self, tuning: str, seed: int = 0) -> None:
        """Let it learn: adapters beside every linear layer (`lora-8`: of rank 8, scaled by 2), or all of it (`full`).

        Raises:
            ValueError: another word.
        """
        kind, _, rank = tuning.partition("-")
        if kind == "lora" and rank.isdecimal() and int(rank):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.add_lora(int(rank), 2 * int(rank), 0.0, "all-linear")
        elif tuning == "full":
            self.model.requires_grad_(True)
            self._born = {
                name: parameter.detach().clone()
                for name, parameter in self.trainable_parameters.items()
            }
        elif tuning != "frozen":
            raise ValueError(
                f"tuning is 'frozen', 'full' or such as 'lora-8' (rank 8), not {tuning!r}."
            )

    @property
    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """What of it may learn, by name: nothing, unless it was thawed."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def reset_tuning(self) -> None:
        """Put back what has learned to what it was before."""
        for name, born in self._born.items():
            self.model.get_parameter(name).copy_(born)

    @contextmanager
    def untuned(self) -> Iterator[None]:
        """Inside, the backbone answers as it was published, whatever it has learned since."""
        now = {name: self.model.get_parameter(name).detach().clone() for name in self._born}
        self.reset_tuning()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, learned in now.items():
                    self.model.get_parameter(name).copy_(learned)

    def scale_adapters(self, share: float) -> None:
        """Turn all low-rank adapters to this share of what they learned; 1 is all of it, 0 the old backbone."""
        from peft.tuners.lora import LoraLayer

        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.set_scale("default", share)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.get_input_embeddings().weight.device

    @property
    def attention(self) -> str:
        """How it computes attention, by the name that transformers has for it: "sdpa", "eager", …"""
        return str(self.model.config._attn_implementation)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the frozen weights."""
        return self.model.get_input_embeddings().weight.dtype

    @property
    @torch.no_grad()
    def embedding_scale(self) -> float:
        """Root mean square of the token embeddings: the size at which audio embeddings should be born."""
        some = self.embed(torch.tensor([0, 1]))  # what embed returns may be scaled (Gemma 3)
        scaling = some.float().norm() / self.model.get_input_embeddings().weight[:2].float().norm()
        return float(
            scaling * self.model.get_input_embeddings().weight.float().pow(2).mean().sqrt()
        )

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_llm"]:
        """Token embeddings; audio slots get those of token 0, to be written over."""
        return self.model.get_input_embeddings()(ids.clamp(min=0).to(self.device))

    def hidden_states(
        self, embeddings: Float[Tensor, "batch token d_llm"], prefix: Sequence[int] = (), **how: Any
    ) -> Float[Tensor, "batch token d_llm"]:
        """Final hidden states at every given position, after a common `prefix` of token ids that is read only once.

        The prefix is the same in every row and every step (system prompt and the tag before the clip), and nothing
        trainable stands before it: its keys and values are computed without gradient and kept. Where the backbone
        learns, too, or computes its layers twice (`gradient_checkpointing`), it is read anew each time.
        """
        decoder = self.model.get_decoder()
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        if prefix and (self._born or again):
            before = self.embed(torch.tensor(prefix)).expand(len(embeddings), -1, -1)
            return self.hidden_states(torch.cat([before, embeddings.to(self.dtype)], dim=1), **how)[
                :, len(prefix) :
            ]
        if prefix:
            key = (tuple(prefix), self.device, self.dtype)
            if self._prefix[0] != key:
                with torch.no_grad():
                    ids = torch.tensor([list(prefix)], device=self.device)
                    self._prefix = (key, decoder(ids, use_cache=True).past_key_values)
            how["past_key_values"] = copy.deepcopy(self._prefix[1])
            how["past_key_values"].batch_repeat_interleave(len(embeddings))
        with _computed_again(decoder) if again else nullcontext():
            out = decoder(inputs_embeds=embeddings.to(self.dtype), use_cache=bool(prefix), **how)
        return out.last_hidden_state

    def logits(self, hidden: Float[Tensor, "*shape d_llm"]) -> Float[Tensor, "*shape vocabulary"]:
        """Next-token logits in float32 (or better), for just the positions that need them."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return (
            logits if self._softcap is None else self._softcap * torch.tanh(logits / self._softcap)
        )

    def generate_ids(
        self,
        streams: Sequence[chat.TokenStream],
        max_new_tokens: int = 32,
        batch: int = 32,
        **how: Any,
    ) -> list[tuple[int, ...]]:
        """Answers to streams without audio: ids up to and with the end-of-turn token."""
        answers: list[tuple[int, ...]] = []
        for first in range(0, len(streams), batch):
            ids, mask = self.pad_left(streams[first : first + batch])
            out = self.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, **how
            )
            answers += [self.trim_at_end(row) for row in out[:, ids.shape[1] :].tolist()]
        return answers

    def pad_left(
        self, streams: Sequence[chat.TokenStream]
    ) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"]]:
        """Ids and attention mask of streams that are to go on: padding stands in front."""
        longest = max(len(s.ids) for s in streams)
        ids = [[self.pad_id] * (longest - len(s.ids)) + list(s.ids) for s in streams]
        mask = [[0] * (longest - len(s.ids)) + [1] * len(s.ids) for s in streams]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    @torch.no_grad()
    def generate(self, **inputs: Any) -> Int[Tensor, "batch token"]:
        """What generate of transformers returns: greedy unless told otherwise, up to any end-of-turn token."""
        how = {"do_sample": False, "eos_token_id": list(self.end_ids), "pad_token_id": self.pad_id}
        if not inputs.get("do_sample"):
            how |= {"temperature": None, "top_p": None, "top_k": None}
        return self.model.generate(**{**how, **inputs})

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: the tokenizer's end of turn, and what the model's own settings name beside it."""
        return end_ids_of(self.tokenizer, self.model.generation_config)

    @property
    def pad_id(self) -> int:
        """The id that fills rows; the end-of-turn token where the tokenizer has no padding token."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def trim_at_end(self, ids: Sequence[int]) -> tuple[int, ...]:
        """An answer's ids without what follows its end-of-turn token, which is kept."""
        end = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
        return tuple(ids[: end + 1])

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as words, special tokens left out."""
        return chat.decode_ids(self.tokenizer, ids)


@contextmanager
def _computed_again(decoder: nn.Module) -> Iterator[None]:
    """Inside, each layer of a decoder keeps its input alone, and is computed again when its gradient is asked for.

    transformers' own switch does nothing in `eval()`, where a frozen backbone stays.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [
        layer for layer in decoder.modules() if isinstance(layer, GradientCheckpointingLayer)
    ]
    own = [
        vars(layer).get("forward") for layer in layers
    ]  # such as accelerate's, of a spread model
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            del layer.forward
            if before is not None:
                layer.forward = before


def end_ids_of(tokenizer: Any, settings: Any) -> tuple[int, ...]:
    """The ids that end an answer, of a tokenizer and the generation config (transformers) of its model."""
    own = settings.eos_token_id
    return tuple(sorted({tokenizer.eos_token_id, *([own] if isinstance(own, int) else own or [])}))
