"""How gradients move the weights: AdamW, and for the embedding an Adam that moves the rows of a step's tokens alone.

A step has a thousand distinct tokens, and the table thirty thousand. Where every step moves all of it, small batches,
from which an LSTM learns most, cost more in the table than in the LSTM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lengthwise.train_config import TrainSettings

_EMBEDDING = "embedding.weight"
_STEP = "step"


class WeightOptimizer:
    """The optimizers of a run's weights, as one.

    Attributes:
        learning_rate: that of the last step, without the embedding's; the highest before the first step.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: TrainSettings) -> None:
        """Optimize weights by name.

        Args:
            parameters: the gradient of `embedding.weight` is sparse, of all others dense.
        """
        self._parameters, self._clip_norm = parameters, settings.clip_norm
        self.learning_rate = settings.learning_rate
        self._optimizers: list[torch.optim.Optimizer] = []
        if _EMBEDDING in parameters:
            of_embedding = {"params": [parameters[_EMBEDDING]], "highest": settings.embedding_learning_rate}
            rate = settings.embedding_learning_rate
            self._optimizers.append(torch.optim.SparseAdam([of_embedding], lr=rate, betas=settings.betas))
        self._optimizers.append(_adamw(parameters, settings))

    def step(self, factor: float) -> float:
        """Clip the gradients, move the weights, and drop the gradients.

        Args:
            factor: of the highest learning rates.

        Returns:
            The norm of all gradients before they were clipped. If it is no number, nothing was moved.
        """
        norm = self._clip()
        if not math.isfinite(norm):
            return norm
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * factor
            optimizer.step()
            optimizer.zero_grad()
        self.learning_rate = self._optimizers[-1].param_groups[-1]["lr"]
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """The moments and counts of steps, by `NAME OF THE WEIGHT/NAME OF THE VALUE`."""
        return {
            f"{name}/{key}": torch.as_tensor(value)
            for name, weight in self._parameters.items()
            for optimizer in self._optimizers
            for key, value in optimizer.state.get(weight, {}).items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the moments of a `state_dict` of the same weights."""
        moments: dict[str, dict[str, Any]] = {}
        for path, value in state.items():
            name, _, key = path.rpartition("/")
            moments.setdefault(name, {})[key] = value
        for name, values in moments.items():
            weight, is_embedding = self._parameters[name], name == _EMBEDDING
            kept = {key: value.to(weight.device) if value.ndim else value for key, value in values.items()}
            if is_embedding:
                kept[_STEP] = int(kept[_STEP])
            self._optimizers[0 if is_embedding else -1].state[weight] = kept

    def _clip(self) -> float:
        """Scale the gradients to the limit of their norm, and give the norm that they had."""
        for weight in self._parameters.values():
            if weight.grad is not None and weight.grad.is_sparse:
                weight.grad = weight.grad.coalesce()
        gradients = [weight.grad for weight in self._parameters.values() if weight.grad is not None]
        values = [each.values() if each.is_sparse else each for each in gradients]
        norm = float(nn.utils.get_total_norm(values))
        if self._clip_norm is not None and norm > self._clip_norm:
            torch._foreach_mul_(values, self._clip_norm / (norm + 1e-6))
        return norm


def _adamw(parameters: Mapping[str, nn.Parameter], settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW with groups: what is decayed, and what is not."""
    others = [weight for name, weight in parameters.items() if name != _EMBEDDING]
    decayed, plain = [each for each in others if each.ndim > 1], [each for each in others if each.ndim <= 1]
    rate = settings.learning_rate
    groups = [
        {"params": weights, "highest": rate, "weight_decay": decay}
        for weights, decay in ((decayed, settings.weight_decay), (plain, 0.0))
        if weights
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=settings.betas, fused=True)
