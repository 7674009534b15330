"""Which calls the Triton kernels take, and how a call that they do not take is refused or told of. Imports no Triton."""

# torch has no types for `get_device_properties`, and no public way to ask which transforms are on:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false, reportAttributeAccessIssue=false

from __future__ import annotations

import functools
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .options import LONGEST_CHUNK, READS, UNIT, WIDEST_HIDDEN, WIDTHS


def obstacle(q: Tensor, k: Tensor, v: Tensor, widths: list[int], chunk: int) -> str | None:
    """Why the kernels cannot take this call, or None. widths: of the memory MLP, from keys to values."""
    try:
        from .triton.plan import INTERPRETED
    except ImportError as error:
        return f"Triton missing ({error})"
    if not q.is_cuda and not INTERPRETED:
        return f"tensors on {q.device.type} (kernels need a GPU, or Triton's interpreter: TRITON_INTERPRET=1)"
    return _unsupported(q, k, v, widths, chunk)


@functools.cache
def say_once(message: str) -> None:
    """A warning, the first time."""
    warnings.warn(message, stacklevel=4)


def fail(name: str, got: object, want: object) -> NoReturn:
    """Every wrong argument, in one form."""
    raise ValueError(f"{name}: got {got}, want {want}")


def exact(device: torch.device) -> AbstractContextManager[Any]:
    """While it lasts, whatever autocast is on around it casts nothing; "meta" knows no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def check_transforms(backend: str) -> None:
    """NotImplementedError where a path other than the reference is differentiated in a way that it cannot be."""
    if backend == "reference" or torch.compiler.is_compiling():
        return
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(f"backend: got {backend!r} under a transform of torch.func, want {_WANT}")
    if forward_ad._current_level >= 0:
        raise NotImplementedError(f"backend: got {backend!r} in forward-mode differentiation, want {_WANT}")


def check_first_order(*grads: Tensor | None) -> None:
    """Told by a backward: NotImplementedError where it is to be differentiated itself, which would give zeros in silence, or is
    asked for many gradients at once."""
    if torch.compiler.is_compiling():
        return
    batched = any(one is not None and torch._C._functorch.is_legacy_batchedtensor(one) for one in grads)
    if batched or torch._C._are_functorch_transforms_active():
        raise NotImplementedError(f"memory_scan: got batched gradients, want one at a time, or {_WANT}")
    if torch.is_grad_enabled():
        raise NotImplementedError(f"memory_scan: got create_graph=True, want first derivatives alone, or {_WANT}")


_WANT = "backend='reference'"


def check_options(chunk: int, read: str, max_norm: float | None) -> None:
    """What `memory_scan` and `memory_step` have in common."""
    if chunk < 1:
        fail("chunk", chunk, "at least 1")
    if read not in READS:
        fail("read", repr(read), f"one of {', '.join(READS)}")
    if max_norm is not None and not max_norm > 0:
        fail("max_norm", max_norm, "above 0, or None")


def _unsupported(q: Tensor, k: Tensor, v: Tensor, widths: list[int], chunk: int) -> str | None:
    if q.dtype == torch.float64 or not {q.dtype, k.dtype, v.dtype} <= {torch.float32, torch.float16, torch.bfloat16}:
        return f"q, k, v of {q.dtype}, {k.dtype}, {v.dtype}, not float32, float16 or bfloat16"
    if len(widths) not in (2, 3):
        return f"a memory of {len(widths) - 1} layers, not 1 or 2"
    if widths[0] not in WIDTHS or widths[-1] not in WIDTHS:
        return f"head widths {widths[0]} and {widths[-1]}, not among {', '.join(map(str, WIDTHS))}"
    if len(widths) == 3 and (widths[1] % UNIT or widths[1] > WIDEST_HIDDEN):
        return f"a hidden width of {widths[1]}, not a multiple of {UNIT} up to {WIDEST_HIDDEN}"
    if chunk > LONGEST_CHUNK:
        return f"a chunk of {chunk}, more than {LONGEST_CHUNK}"
    return _too_large(q, (q.dtype, k.dtype, v.dtype), widths, chunk) if q.is_cuda else None


def _too_large(q: Tensor, dtypes: tuple[torch.dtype, ...], widths: list[int], chunk: int) -> str | None:
    """What compiling has shown not to fit a device's shared or tensor memory."""
    wide = max(widths[0], widths[-1])
    size = f"chunks of {chunk} with heads {wide} wide"
    if torch.float32 in dtypes and wide > 64 and chunk > 32:
        return f"float32 in {size}, more than shared memory holds"
    if wide >= 64 and chunk > 64 and _shared_memory(q.device) < 200_000:
        return f"{size}, more than this device's shared memory holds"
    if len(widths) == 2 and wide > 64 and chunk > 32 and _has_tensor_memory(q.device):
        return f"{size} and one layer, more than this device's tensor memory holds"
    return None


def _has_tensor_memory(device: torch.device) -> bool:
    return not torch.version.hip and torch.cuda.get_device_capability(device)[0] == 10


def _shared_memory(device: torch.device) -> int:
    """Bytes that one program may have."""
    if torch.version.hip:
        return 2**16
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin
