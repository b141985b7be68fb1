"""What flows where: every site of the system captured by hooks, for many clips, kept on disk by hash."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM

Sites = dict[str, Tensor]  # site → (clip, feature), or (clip, query, feature) in the connector; fp16


def _tensor(out: Any) -> Tensor:
    """What a module says: itself, or the first of several (a transformers layer may return either)."""
    return out if isinstance(out, Tensor) else out[0]


@contextmanager
def record(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Inside, every call of these modules adds its output to the list of its name; outside, the hooks are gone."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}
    with ExitStack() as hooks:
        for name, module in modules.items():

            def keep(_: nn.Module, __: Any, out: Any, name: str = name) -> None:
                seen[name].append(_tensor(out).detach())

            hooks.callback(module.register_forward_hook(keep).remove)
        yield seen


@contextmanager
def replaced(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the module's output is `change(output)`; outside, it is what it was."""

    def swap(_: nn.Module, __: Any, out: Any) -> Any:
        new = change(_tensor(out))
        return new if isinstance(out, Tensor) else (new, *out[1:])

    handle = module.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def layers(llm: AudioLLM) -> dict[str, nn.Module]:
    """The backbone's layers by site name; `backbone 0` is the first layer's output."""
    return {f"backbone {i}": layer for i, layer in enumerate(llm.backbone.model.get_decoder().layers)}
