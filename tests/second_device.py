"""A second device without a GPU, and a plugin of pytest that runs tests on it.

Its tensors are numbers of the CPU that claim to be elsewhere. An operation that mixes them with
tensors of the CPU is refused as a GPU refuses it, so what runs here forgets to move nothing. It
says nothing of speed, of kernels or of half precision. `-p tests.second_device` puts every AudioLLM
of the tests on it.
"""

from typing import Any

import pytest
import torch
from torch.utils import backend_registration
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_flatten, tree_map

NAME = "elsewhere"
aten = torch.ops.aten
MOVES = {aten.copy_.default, aten._to_copy.default}  # these may take tensors of both devices
INDEXED = {  # a GPU takes their indices from the CPU, too
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
DEVICE = torch.device(NAME, 0)


class Elsewhere(torch.Tensor):
    """A tensor of the CPU, `inner`, that claims to be on the second device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Elsewhere":
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=DEVICE, **layout
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"Elsewhere({self.inner})"

    # what torch does in C++ for devices that it knows, and not for a class of Python

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: "Elsewhere") -> None:
        torch.Tensor.data.__set__(self, value)
        self.inner = value.inner

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __format__(self, form: str) -> str:
        return format(self.item() if self.dim() == 0 else self, form)

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu().")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __getitem__(self, key: Any) -> torch.Tensor:
        return super().__getitem__(_as_index(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_as_index(key), value)


def _as_index(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(map(_as_index, key))
    return torch.tensor(key) if isinstance(key, list) else key


def _check_devices(func: Any, args: Any, kwargs: Any) -> None:
    """Refuse what a GPU refuses: tensors of both devices, but for single numbers of the CPU."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    away = [x for x in tensors if not isinstance(x, Elsewhere)]
    if func in MOVES or len(away) == len(tensors):
        return
    if func in INDEXED and isinstance(args[0], Elsewhere):
        away = [x for x in away if not any(x is index for index in args[1])]
    fused = "fused_adam" in func.name()  # its kernel reads the number of steps on the device
    if any(x.dim() or fused for x in away):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{DEVICE} and cpu! ({func})"
        )


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute on the CPU; what comes out is where a GPU would leave it."""
    _check_devices(func, args, kwargs)
    flat = tree_flatten((args, kwargs))[0]
    owners = {id(x.inner): x for x in flat if isinstance(x, Elsewhere)}
    stays = bool(owners)
    if func is aten.copy_.default:
        stays = isinstance(args[0], Elsewhere)
    if kwargs.get("device") is not None:
        stays = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain_args, plain = tree_map(_inner, (args, kwargs))
    return tree_map(lambda x: _claim(x, owners, stays), func(*plain_args, **plain))


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Elsewhere) else x


def _claim(x: Any, owners: dict[int, Elsewhere], stays: bool) -> Any:
    if not isinstance(x, torch.Tensor) or not stays:
        return x
    known = owners.get(id(x))  # an operation in place gives back what it was given
    return Elsewhere(x) if known is None else known


_library = torch.library.Library("_", "IMPL")
_library.fallback(lambda func, *args, **kwargs: _compute(func, args, kwargs), "PrivateUse1")
_library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


def _then_move(make: Any) -> Any:
    """torch.tensor makes its numbers where a class of Python cannot be asked."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        moves = device is not None and torch.device(device).type == NAME
        one: torch.Tensor = make(*args, device=None if moves else device, **kwargs)
        return one.to(device) if moves else one

    return made


_device_constructors()  # remembers torch's own functions, for `with torch.device(…)`
torch.tensor = _then_move(torch.tensor)
torch.as_tensor = _then_move(torch.as_tensor)


def pick() -> None:
    """Let every preset be built on the second device."""
    from desta_lab.model import build
    from desta_lab.published import systems

    build.pick_device = systems.pick_device = lambda: DEVICE


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Put every AudioLLM on the second device, whoever builds it."""
    from desta_lab.model.audio_llm import AudioLLM

    begin = AudioLLM.__init__

    def begin_elsewhere(self: AudioLLM, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        for part in (self.encoder, self.connector, self.backbone):
            part.to(DEVICE)
        devices.append(self.backbone.device)

    AudioLLM.__init__ = begin_elsewhere  # type: ignore[method-assign]
    pick()


devices: list[torch.device] = []  # of every AudioLLM that was built


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many AudioLLMs are on the second device, so that nobody tests the CPU again."""
    there = devices.count(DEVICE)
    terminalreporter.write_line(f"{there} of {len(devices)} AudioLLMs were on {DEVICE}.")
