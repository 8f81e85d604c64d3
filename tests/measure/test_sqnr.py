"""Signal-to-quantization-noise ratios, by hand."""

import math

import pytest
import torch
from torch import nn

from blaze_utils.measure import head_sqnr, layer_sqnr, sqnr

X = torch.tensor([3.0, 4.0])


@pytest.mark.parametrize(
    "reference, other, decibels",
    [
        (X, X + torch.tensor([0.3, 0.4]), 20),
        (X, torch.zeros(2), 0),
        (X, X, math.inf),
        (torch.zeros(2), X, -math.inf),
        (torch.zeros(2), torch.zeros(2), math.nan),
    ],
)
def test_decibels_by_hand(reference, other, decibels):
    assert sqnr(reference, other) == pytest.approx(decibels, abs=1e-4, nan_ok=True)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantized_tensor_is_compared_by_its_values():
    rounded = torch.quantize_per_tensor(X, 0.7, 0, torch.quint8)
    assert sqnr(X, rounded) == sqnr(X, rounded.dequantize()) < 40


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"cannot compare \[2\] with \[1, 2\]"):
        sqnr(X, X[None])


class Heads(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.body = nn.Sequential(nn.Identity(), nn.Linear(2, 2, bias=False))
        self.body[1].weight.data = torch.eye(2) * (1 + error)

    def forward(self, x):
        x = self.body(x)
        return x, 2 * x, x.sum()


def test_heads_and_layers_over_several_inputs():
    exact, rounded = Heads(0).eval(), Heads(0.1).eval()
    inputs = [X, 100 * X]
    heads = head_sqnr(exact, rounded, inputs)
    assert list(heads.index) == ["loc", "conf", "landm"]
    assert heads.tolist() == pytest.approx([20, 20, 20], abs=1e-3)
    layers = layer_sqnr(exact, rounded, inputs)
    assert list(layers.index) == ["body.1"], "containers and identities are left out"
    assert layers["body.1"] == pytest.approx(20, abs=1e-3)
    assert not any(module._forward_hooks for module in exact.modules())
