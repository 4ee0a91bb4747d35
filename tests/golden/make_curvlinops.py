"""Writes curvlinops.json: what curvlinops 3.0.1 computes on small PyTorch networks.

In an environment of its own: pip install torch==2.14.1 curvlinops-for-pytorch==3.0.1
"""

import json
from pathlib import Path

import numpy as np
import torch
from curvlinops import GGNLinearOperator, KFACInverseLinearOperator, KFACLinearOperator
from torch import nn

DAMPING = 0.1


class Mean(nn.Module):
    """Mean over the tokens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Averages the second axis."""
        return x.mean(1)


NETWORKS = {
    "dense": ([nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)], (4,), "classes"),
    "regression": ([nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)], (4,), (2,)),
    "convolutions": (
        [nn.Conv2d(2, 3, 3, stride=2), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(2, 3)],
        (2, 5, 6),
        "classes",
    ),
    "tokens": ([nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)], (5, 3), (5, 2)),
    "mean of tokens": ([nn.Linear(3, 4), nn.Tanh(), Mean(), nn.Linear(4, 3)], (5, 3), "classes"),
}


def measure(name: str) -> dict:
    """Weights, data, and products of every matrix with one vector, in PyTorch's shapes."""
    layers, shape, kind = NETWORKS[name]
    torch.manual_seed(0)
    model = nn.Sequential(*layers).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    x = torch.randn(7, *shape, dtype=torch.float64)
    y = torch.randint(0, 3, (7,)) if kind == "classes" else torch.randn(7, *kind, dtype=torch.float64)
    loss = nn.CrossEntropyLoss() if kind == "classes" else nn.MSELoss()
    params = list(model.parameters())
    vector = [torch.randn_like(p) for p in params]
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    ggn = GGNLinearOperator(model, loss, params, batches)
    size = sum(p.numel() for p in params)
    matrix = np.asarray(ggn @ torch.eye(size, dtype=torch.float64))
    found = {
        "params": params,
        "x": x,
        "y": y,
        "vector": vector,
        "ggn": ggn @ vector,
        "ggn_diagonal": split(np.diag(matrix), params),
        "ggn_inverse": split(np.linalg.solve(matrix + DAMPING * np.eye(size), flat(vector)), params),
    }
    # For losses per token, reduce counts every token as a loss of its own there.
    for approximation in ("expand",) if name == "tokens" else ("expand", "reduce"):
        # Gradients of a squared error are sqrt(outputs) times as long there.
        for fisher in ("type-2", "empirical") if kind == "classes" else ("type-2",):
            kfac = KFACLinearOperator(
                *(model, loss, params, batches),
                fisher_type=fisher,
                kfac_approx=approximation,
                separate_weight_and_bias=False,
                num_per_example_loss_terms=5 if name == "tokens" else 1,
            )
            inverse = KFACInverseLinearOperator(kfac, damping=DAMPING, use_exact_damping=True)
            found[f"{approximation} {fisher}"] = kfac @ vector
            found[f"{approximation} {fisher} inverse"] = inverse @ vector
    return {
        key: [p.tolist() for p in value] if key not in ("x", "y") else value.tolist() for key, value in found.items()
    }


def flat(parts: list[torch.Tensor]) -> np.ndarray:
    """Joins tensors to one vector."""
    return np.concatenate([np.ravel(p.detach().numpy()) for p in parts])


def split(vector: np.ndarray, params: list[torch.Tensor]) -> list[np.ndarray]:
    """Splits a vector into the shapes of parameters."""
    ends = np.cumsum([p.numel() for p in params])
    return [part.reshape(p.shape) for part, p in zip(np.split(vector, ends[:-1]), params, strict=True)]


def rounded(value: object) -> object:
    """Keeps 12 digits."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


if __name__ == "__main__":
    about = (
        "Products of GGN and KFAC matrices (weight and bias joint) with a vector, their inverses with damping 0.1, and "
        "the diagonal of the GGN, by curvlinops 3.0.1 under PyTorch 2.14.1 in float64 (make_curvlinops.py). "
        "Shapes are PyTorch's."
    )
    content = {"_about": about, "damping": DAMPING, "cases": {name: rounded(measure(name)) for name in NETWORKS}}
    path = Path(__file__).parent / "curvlinops.json"
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf8")
