"""The float network: the article's module tree, its names, shapes and seams."""

from pathlib import Path

import pytest
import torch

from blaze_utils.detector import Blaze, BlazeBlock, load_float, prior_boxes

TREE = Path(__file__).parent / "article_float_tree.txt"
SHIPPED = Path(__file__).parents[2] / "data" / "checkpoints" / "blaze_float.pth"


def test_the_tree_is_the_articles():
    # Newer versions of PyTorch print one argument more for BatchNorm2d.
    printed = repr(Blaze()).replace("affine=True, bias=True,", "affine=True,")
    assert printed.splitlines() == TREE.read_text(encoding="utf-8").splitlines()
    assert sum(p.numel() for p in Blaze().parameters()) == 175_280


@pytest.mark.parametrize("size", [(160, 160), (64, 112), (16, 16), (47, 63)])
def test_outputs_have_one_row_a_prior(size):
    loc, conf, landm = Blaze().eval()(torch.zeros(2, 3, *size))
    assert loc.shape == (2, len(prior_boxes(size)), 4)
    assert conf.shape == (2, len(prior_boxes(size)), 2)
    assert landm.shape == (2, len(prior_boxes(size)), 10)


def test_sizes_that_do_not_fit_stop():
    with pytest.raises(RuntimeError, match="must match"):
        Blaze().eval()(torch.zeros(1, 3, 100, 100))


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
    assert loc[2 * 4 * 6 :].tolist() == [0, 1, 2, 3, 4, 5] * 6


def test_rows_run_over_rows_then_columns():
    model = load_float(SHIPPED)
    dark = torch.zeros(1, 3, 128, 256)
    spot = dark.clone()
    spot[..., 50:60, 200:210] = 200.0
    with torch.no_grad():
        changed = (model(spot)[0] - model(dark)[0])[0, : 2 * 16 * 32].abs()
    row, column = divmod(int(changed.reshape(16 * 32, -1).sum(dim=1).argmax()), 32)
    assert abs(row - 55 / 8) < 4 and abs(column - 205 / 8) < 4


def test_block_adds_its_shortcut_and_clips_at_zero():
    block = BlazeBlock(4, 4).eval()
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        block.conv[0][4].weight.zero_()  # the branch gives 0: what is left is the input
        assert torch.equal(block(x.clone()), x.relu())
    halved = BlazeBlock(4, 8, stride=2, bottleneck=3)(torch.zeros(2, 4, 8, 12))
    assert halved.shape == (2, 8, 4, 6)


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
        for wanted, traced in zip(model(x), torch.fx.symbolic_trace(model)(x), strict=True):
            assert torch.equal(wanted, traced)
