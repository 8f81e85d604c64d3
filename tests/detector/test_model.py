"""The float network: the article's module tree, its keys, shapes and seams."""

from pathlib import Path

import pytest
import torch

from blaze_utils.detector.anchors import prior_boxes
from blaze_utils.detector.model import Blaze, BlazeBlock
from maintainers.train import initialise

TREE = Path(__file__).parent / "article_float_tree.txt"


def test_the_tree_is_the_articles():
    # Newer versions of PyTorch print one argument more for BatchNorm2d.
    printed = repr(Blaze()).replace("affine=True, bias=True,", "affine=True,")
    assert printed.splitlines() == TREE.read_text(encoding="utf-8").splitlines()


def test_parameters_and_keys():
    model = Blaze()
    assert sum(p.numel() for p in model.parameters()) == 175_280
    keys = model.state_dict().keys()
    assert len(keys) == 255
    assert {"conv1.0.weight", "conv7.conv.2.3.weight", "conv10.shortcut.2.running_var",
            "landm.1.2.bias"} <= keys


@pytest.mark.parametrize(("height", "width"), [(160, 160), (64, 112), (16, 16)])
def test_outputs_have_one_row_a_prior(height, width):
    priors = len(prior_boxes((height, width)))
    loc, conf, landm = Blaze().eval()(torch.zeros(2, 3, height, width))
    assert loc.shape == (2, priors, 4)
    assert conf.shape == (2, priors, 2)
    assert landm.shape == (2, priors, 10)


def test_conf_holds_logits_in_both_modes():
    model = Blaze()
    with torch.no_grad():
        for head in model.conf:
            head[-1].weight.zero_()
            head[-1].bias.fill_(3.0)
    for mode in (True, False):
        assert (model.train(mode)(torch.zeros(2, 3, 32, 32))[1] == 3).all()


def test_rows_come_in_the_order_of_the_priors():
    """Biases alone in the heads: each row tells its level and its size."""
    model = Blaze().eval()
    with torch.no_grad():
        for head in model.loc:
            head[-1].weight.zero_()
            head[-1].bias.copy_(torch.arange(len(head[-1].bias)) // 4)
        loc = model(torch.zeros(1, 3, 32, 48))[0][0, :, 0]
    assert loc[: 2 * 4 * 6].tolist() == [0, 1] * 24
    assert loc[2 * 4 * 6:].tolist() == [0, 1, 2, 3, 4, 5] * 6


def test_rows_run_over_rows_then_columns():
    model = initialise(Blaze()).eval()
    with torch.no_grad():
        for head in model.loc:  # the output is the mean of the features around the cell
            head[0].weight.fill_(1 / 9)
            head[2].weight.fill_(1 / 96)
        dark = torch.zeros(1, 3, 128, 256)
        spot = dark.clone()
        spot[..., 50:60, 200:210] = 200.0
        changed = (model(spot)[0] - model(dark)[0])[0, : 2 * 16 * 32].abs()
    row, column = divmod(int(changed.reshape(16 * 32, -1).sum(dim=1).argmax()), 32)
    assert abs(row - 55 / 8) < 4 and abs(column - 205 / 8) < 4


@pytest.mark.parametrize("shape", [(1, 3, 33, 32), (1, 3, 32, 40), (1, 3, 0, 32)])
def test_sizes_that_do_not_fit_are_an_error(shape):
    with pytest.raises(ValueError, match=f"multiples of 16.*{shape[2]} x {shape[3]}"):
        Blaze()(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32)])
def test_other_shapes_are_an_error(shape):
    with pytest.raises(ValueError, match=r"takes \[N, 3, H, W\]"):
        Blaze()(torch.zeros(shape))


def test_block_adds_its_shortcut_and_clips_at_zero():
    block = BlazeBlock(4, 4).eval()
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        block.conv[0][4].weight.zero_()  # the branch gives 0: what is left is the input
        assert torch.equal(block(x.clone()), x.relu())


def test_block_of_stride_2_halves():
    block = BlazeBlock(4, 8, stride=2, bottleneck=3)
    assert block(torch.zeros(2, 4, 8, 12)).shape == (2, 8, 4, 6)


def test_wrong_blocks_are_an_error():
    with pytest.raises(ValueError, match="stride must be 1 or 2, got 3"):
        BlazeBlock(4, 4, stride=3)
    with pytest.raises(ValueError, match="in_channels 4 and out_channels 8"):
        BlazeBlock(4, 8)


def test_a_subclass_of_the_block_is_used_everywhere():
    class Other(BlazeBlock):
        pass

    model = Blaze(block=Other)
    assert sum(isinstance(module, Other) for module in model.modules()) == 11
    assert model.state_dict().keys() == Blaze().state_dict().keys()


def test_torch_fx_can_trace_it():
    model = Blaze().eval()
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for wanted, traced in zip(model(x), torch.fx.symbolic_trace(model)(x)):
            assert torch.equal(wanted, traced)
