"""The frozen instruct LLM: tokens or embeddings in, next-token distributions or text out."""

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from desta_lab.model import chat


class Backbone(nn.Module):
    """Any decoder-only instruct LLM of transformers with its tokenizer, frozen; the connector talks to its embeddings."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        if tokenizer.chat_template is None:
            raise ValueError("This tokenizer has no chat template; take an instruct model, or set one.")
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.width = int(self.model.get_input_embeddings().weight.shape[1])
        self._prefix: tuple[tuple[int, ...], Any] = ((), None)

    @classmethod
    def load(cls, folder: Path | str, **how: Any) -> "Backbone":
        """Model and tokenizer of a local folder; `how` goes to `from_pretrained` (dtype, device_map, …)."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(folder, **{"dtype": torch.float32, **how})
        return cls(model, AutoTokenizer.from_pretrained(folder))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the frozen weights."""
        return self.model.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    @property
    def embedding_scale(self) -> float:
        """Root mean square of the token embeddings: the size at which audio embeddings should be born."""
        return float(self.model.get_input_embeddings().weight.float().pow(2).mean().sqrt())

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_llm"]:
        """Token embeddings; audio slots get those of token 0, to be written over."""
        return self.model.get_input_embeddings()(ids.clamp(min=0).to(self.device))  # type: ignore[no-any-return]

    def hidden(
        self, embeddings: Float[Tensor, "batch token d_llm"], prefix: Sequence[int] = (), **how: Any
    ) -> Float[Tensor, "batch token d_llm"]:
        """Final hidden states at every given position, after a common `prefix` of token ids that is read only once.

        The prefix is the same in every row and every step (system prompt and the tag before the clip), and nothing
        trainable stands before it: its keys and values are computed without gradient and kept.
        """
        if prefix:
            if self._prefix[0] != tuple(prefix):
                with torch.no_grad():
                    ids = torch.tensor([list(prefix)], device=self.device)
                    self._prefix = (tuple(prefix), self._decoder(ids, use_cache=True).past_key_values)
            how["past_key_values"] = copy.deepcopy(self._prefix[1])
            how["past_key_values"].batch_repeat_interleave(len(embeddings))
        out = self._decoder(inputs_embeds=embeddings.to(self.dtype), use_cache=bool(prefix), **how)
        return out.last_hidden_state  # type: ignore[no-any-return]

    def _decoder(self, *args: Any, **how: Any) -> Any:
        return self.model.get_decoder()(*args, **how)

    def head(self, hidden: Float[Tensor, "*shape d_llm"]) -> Float[Tensor, "*shape vocabulary"]:
        """Next-token logits in float32, for just the positions that need them."""
        return self.model.get_output_embeddings()(hidden).float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def complete(self, streams: Sequence[chat.Stream], max_new_tokens: int = 32, batch: int = 32) -> list[tuple[int, ...]]:
        """Greedy answers of the untouched LLM to streams without audio: ids up to and with the end-of-turn token."""
        answers: list[tuple[int, ...]] = []
        for first in range(0, len(streams), batch):
            rows = [list(s.ids) for s in streams[first : first + batch]]
            longest = max(map(len, rows))
            pad = self.pad_id
            ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=self.device)
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.device)
            out = self.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens)
            answers += [self.until_end(row[longest:].tolist()) for row in out]
        return answers

    def generate(self, **inputs: Any) -> Int[Tensor, "batch token"]:
        """transformers' generate, greedy unless told otherwise, with this tokenizer's end-of-turn token."""
        how = {"do_sample": False, "eos_token_id": self.tokenizer.eos_token_id, "pad_token_id": self.pad_id}
        if not inputs.get("do_sample"):
            how |= {"temperature": None, "top_p": None, "top_k": None}
        return self.model.generate(**{**how, **inputs})  # type: ignore[no-any-return]

    @property
    def pad_id(self) -> int:
        """The id that fills rows; the end-of-turn token where the tokenizer has no padding token."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def until_end(self, ids: Sequence[int]) -> tuple[int, ...]:
        """An answer's ids without what follows its end-of-turn token, which is kept."""
        end = self.tokenizer.eos_token_id
        return tuple(ids[: ids.index(end) + 1]) if end in ids else tuple(ids)

    def text(self, ids: Sequence[int]) -> str:
        """Ids as words, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def fastest_dtype(device: torch.device) -> torch.dtype:
    """The precision for frozen weights: bf16 from compute capability 8 on, fp16 on older GPUs, measured on a CPU.

    A CPU without bf16 instructions is slower in bf16 than in fp32, one with them two to three times faster, and no
    flag says so portably: a tenth of a second of matrix products decides.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type != "cpu":
        return torch.float32

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        _ = a @ b
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            _ = a @ b
            times.append(time.perf_counter() - begin)
        return min(times)

    return torch.bfloat16 if seconds(torch.bfloat16) < 0.8 * seconds(torch.float32) else torch.float32
