"""What the loop trains: a model, the loss of a part of a step, and what else a kind of training has of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Tally(NamedTuple):
    """What the parts of a step came to, over all devices."""

    loss: float
    finite: bool
    bases: int
    scale: float
    """What the gradient is multiplied by; 0 where there was nothing to learn from."""
    figures: dict[str, float]
    """More of it, by name."""


class Step(NamedTuple):
    """One step of the optimiser."""

    number: int
    """From 1."""
    loss: float
    bases: int
    lr: float
    gradient_norm: float
    """Before clipping; 0 where there was none."""
    skipped: bool
    """True where loss or gradient was not finite, and the parameters were left alone."""
    seconds: float
    """Since the training began, those before it went on included."""
    bases_per_second: float
    figures: dict[str, float]


class Learner(nn.Module):
    """A model with the loss of it. What is trained otherwise than by one loss per part overrides more than `loss`."""

    repeatable = True
    """Whether PyTorch can sum all of its gradients in the same order each time, on a GPU too."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        self.model, self.seed = model, seed
        self._losses: list[Tensor] = []

    def loss(self, part: Any) -> Tensor:
        """Of one part of a step, to be added to those of the other parts: a tensor of one number."""
        raise NotImplementedError

    def entropy(self, step: int, place: int, rank: int) -> Sequence[int] | None:
        """What a part's random numbers, as those of dropout, are drawn from; None: where the part before left off."""
        del rank
        return None if place else (self.seed, step)

    def forward(self, part: Any) -> Tensor:
        """The loss, noted for `tally`."""
        loss = self.loss(part)
        self._losses.append(loss.detach())
        return loss

    def tally(self, fabric: Fabric) -> Tally:
        """After the last part of a step."""
        del fabric
        loss = 0.0
        for one in self._losses:
            loss += float(one)
        self._losses.clear()
        return Tally(loss, math.isfinite(loss), 0, 1.0, {})

    def begin(self) -> None:
        """Told before the first part of a step."""

    def undo(self) -> None:
        """Be as at `begin`: the step is given up in the middle, and done again when the run goes on."""
        self._losses.clear()

    def skip(self) -> None:
        """Told of a step that was passed over."""

    def row(self, step: Step, found: dict[str, float] | None) -> dict[str, float] | None:
        """What is written down of a step, and of the validation where there was one; None: nothing."""
        del step, found

    def note(self, step: Step) -> str:
        """A step in a few words."""
        return f"loss {step.loss:.3f}"

    def keep(self) -> dict[str, Any]:
        """What else a checkpoint needs: plain values and tensors."""
        return {}

    def restore(self, values: dict[str, Any], device: torch.device) -> None:
        """Put back what `keep` gave."""


# Learned starting points and input-independent tokens: to pull them towards zero would be to forget them. A norm's
# gain is spared whatever its shape: there is one for each head.
UNDECAYED_NAMES = ("initial_memory", "persistent", "norm")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for AdamW: matrices, which decay, and the rest, which does not.

    The rest: parameters of one dimension (norms, biases), embeddings, initial memories and persistent tokens. A shared
    parameter (tied embedding) comes once, as an embedding. Order and membership depend on the model's structure alone.
    Look-ups are in neither (`sparse_tables`).
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    apart = {id(one) for one in sparse_tables(model)}
    decayed, undecayed = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or id(parameter) in apart:
            continue
        spared = parameter.ndim < 2 or id(parameter) in embeddings or any(part in name for part in UNDECAYED_NAMES)
        (undecayed if spared else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]


def sparse_tables(model: nn.Module) -> list[Tensor]:
    """Tables of look-ups, of which a step changes the rows that it met."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and module.sparse]
    return [table.weight for table in tables if table.weight.requires_grad]


class Optimisers:
    """Several as one, each with parameters of its own."""

    def __init__(self, *each: torch.optim.Optimizer) -> None:
        self.each = each

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of all. Where a group says `relative`, its learning rate is so many times that of the step."""
        return [group for one in self.each for group in one.param_groups]

    def step(self) -> None:
        """Of all."""
        for one in self.each:
            one.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of all."""
        for one in self.each:
            one.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Of each, by its place."""
        return {str(place): one.state_dict() for place, one in enumerate(self.each)}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for place, one in enumerate(self.each):
            one.load_state_dict(values[str(place)])


def adamw(model: nn.Module, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW | Optimisers:
    """AdamW over `parameter_groups`, those without a parameter left out, beside Adam for the rows of look-ups that a step met;
    the learning rate is set at each step."""
    groups = [group for group in parameter_groups(model, weight_decay) if group["params"]]
    return _beside_tables(model, betas, torch.optim.AdamW(groups, lr=0.0, betas=betas))


def muon_adamw(model: nn.Module, weight_decay: float, betas: tuple[float, float], relative: float) -> Optimisers:
    """Muon for the matrices of blocks (`block_matrices`), `adamw` for all else.

    Muon steps by the sum of gradients made orthogonal: equally far in every direction of the matrix, however small its
    gradient (Jordan 2024, https://kellerjordan.github.io/posts/muon). relative: its learning rate over AdamW's. Raises
    ValueError for a model in whose blocks no matrix is trained.
    """
    matrices = block_matrices(model)
    if not matrices:
        raise ValueError("--optimizer: got muon for a model in whose blocks no matrix is trained, want adamw")
    apart = {id(one) for one in matrices}
    groups = parameter_groups(model, weight_decay)
    for group in groups:
        group["params"] = [one for one in group["params"] if id(one) not in apart]
    mine = {"params": matrices, "weight_decay": weight_decay, "relative": relative}
    rest = torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=betas)
    return _beside_tables(model, betas, torch.optim.Muon([mine], lr=0.0), rest)


def _beside_tables(model: nn.Module, betas: tuple[float, float], *each: torch.optim.Optimizer) -> Any:
    if tables := sparse_tables(model):
        return Optimisers(*each, torch.optim.SparseAdam(tables, lr=1.0, betas=betas))
    return each[0] if len(each) == 1 else Optimisers(*each)


def block_matrices(model: nn.Module) -> list[Tensor]:
    """The weights of the linear layers inside blocks, but for those of the gates, which have a few rows of a head each (that
    AdamW serves these better is not measured)."""
    return [
        layer.weight
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and "blocks" in name.split(".")
        and not name.endswith(".gates")
        and layer.weight.requires_grad
    ]


def warmup_cosine(
    step: int, *, warmup: float, rise: float, fall: float, high: float, low: float, scale: float = 1.0
) -> float:
    """Learning rate of a step (from 0): linear until `warmup`, then a cosine from `high` to `low` over `fall` steps.

    rise: steps in which the line would reach `high`. fall: below 1, `low` comes at once. scale: of the whole curve.
    A pure function of the step, so that there is no schedule to save.
    """
    if step < warmup:
        return scale * high * (step + 1) / rise
    done = min((step - warmup) / fall, 1.0) if fall > 0 else 1.0
    return scale * (low + 0.5 * (high - low) * (1 + math.cos(math.pi * done)))
