"""Can an LLM be a backbone, and what may its readings share? A few tokens are read and compared."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from desta_lab.model.backbone import Backbone, PrecisionError

_TRUNK, _BRANCH = 4, 16  # tokens: of a trunk, and of each of two branches behind it
_CLOSE = (1e-3, 0.1)  # share of the largest logit that rounding moves, in float32 and in half of it


class Trial:
    """A few tokens that a backbone reads in every way used here, and that its LLM reads by itself.

    It tells apart an LLM whose tokens see what follows, one that needs token ids or sees padding,
    one whose logits are more than a head's, layers without keys and values, and attention that
    takes no mask.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        last = backbone.model.get_input_embeddings().num_embeddings - 1
        self.ids = torch.linspace(0, last, _TRUNK + 2 * _BRANCH).long()[None]
        alone = torch.cat([self.ids[:, :_TRUNK], self.ids[:, -_BRANCH:]], dim=1)
        with torch.no_grad():
            self.own = backbone.model(input_ids=alone.to(backbone.device)).logits
        self.embedded = backbone.embed(alone)

    @torch.no_grad()
    def differs(self, read: Callable[[], tuple[Tensor, int]]) -> str:
        """In what the logits of a reading are not the LLM's own there; "" where they are."""
        try:
            logits, place = read()
        except PrecisionError:
            return ""  # said where it is used
        except (RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
            return str(error).partition(". ")[0]
        own = self.own[:, place]
        apart = float((logits - own).abs().max() / own.abs().max())
        close = _CLOSE[self.backbone.dtype.itemsize < 4]
        return f"logits are {apart:.1%} of their size apart" if apart > close else ""

    def read_embeddings(self) -> tuple[Tensor, int]:
        """Embeddings of the tokens, beside some that are no token's, as audio embeddings are."""
        hidden = self.backbone.hidden_states(torch.cat([self.embedded, 1.5 * self.embedded]))
        return self.backbone.logits(hidden)[:1, -1], -1

    def begin_answer(self) -> tuple[Tensor, int]:
        """The trunk behind padding, without what follows it, and the first token of an answer."""
        how: dict[str, Any] = {"max_new_tokens": 1, "pad_token_id": self.backbone.pad_id}
        how |= {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        trunk = self.embedded[:, [*range(_BRANCH), *range(_TRUNK)]]
        real = torch.tensor([[0] * _BRANCH + [1] * _TRUNK], device=trunk.device)
        written = self.backbone.model.generate(inputs_embeds=trunk, attention_mask=real, **how)
        return written.logits[0], _TRUNK - 1

    def read_behind_prefix(self) -> tuple[Tensor, int]:
        """Two rows behind a trunk that was read once."""
        rows = self.embedded[:, _TRUNK:].expand(2, -1, -1)
        hidden = self.backbone.hidden_states(rows, self.ids[0, :_TRUNK].tolist())
        return self.backbone.logits(hidden)[:, -1], -1

    def read_beside_another(self) -> tuple[Tensor, int]:
        """A branch that does not see the other one between the trunk and itself."""
        count, both = self.ids.shape[1], _TRUNK + _BRANCH
        sees = torch.ones(count, count, dtype=torch.bool).tril()
        sees[both:, _TRUNK:both] = False
        places = torch.tensor([*range(both), *range(_TRUNK, both)])[None]
        embedded = self.backbone.embed(self.ids)
        hidden = self.backbone.hidden_states(embedded, sees=sees[None], position_ids=places)
        return self.backbone.logits(hidden)[:, -1], -1
