"""Batches and the training run, on tiny synthetic scenes."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from blaze_utils.data import FaceLabels
from blaze_utils.detector import Blaze
from blaze_utils.training import TrainingBatches, TrainingRun, batch_loader
from blaze_utils.training import batches as batches_module
from blaze_utils.training.run import LOG_COLUMNS, weight_average


@dataclass
class Sample:
    name: str
    image: np.ndarray
    labels: FaceLabels


class Spots:
    """Scenes of one bright disc each on dark noise; the disc is the face."""

    def __init__(self, count=4):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 60, (96, 128, 3), dtype=np.uint8)
        x, y = rng.integers(30, [98, 66])
        rows, columns = np.ogrid[:96, :128]
        image[(rows - y) ** 2 + (columns - x) ** 2 < 14**2] = 220
        points = np.array([[[-5, -4], [5, -4], [0, 0], [-4, 6], [4, 6]]]) + (x, y)
        box = [[x - 14, y - 14, x + 14, y + 14]]
        ones = np.ones(1)
        labels = FaceLabels(box, points, 0 * ones, 0 * ones, ones, 0 * ones, ones)
        return Sample(f"{index}", image, labels)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Such small networks gain nothing from more, and suffer where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SHIPPED = {name: getattr(batches_module, name) for name in ("CROP_SIZES", "CROP_SIZE_CHANCES")}


@pytest.fixture(autouse=True)
def small_crops(monkeypatch):
    monkeypatch.setattr(batches_module, "CROP_SIZES", (64, 96))
    monkeypatch.setattr(batches_module, "CROP_SIZE_CHANCES", (0.5, 0.5))


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def same_weights(one, other):
    return equal(one.state_dict().values(), other.state_dict().values())


def test_a_batch_depends_on_seed_and_step_alone():
    one, other = TrainingBatches(Spots(), 3, seed=1), TrainingBatches(Spots(), 3, seed=1)
    for step in range(4):
        one[step]
    assert equal(one[4], other[4])
    single = TrainingBatches(Spots(1), 1)
    assert len({single[step][0].numpy().tobytes() for step in range(6)}) == 6
    assert one.indices(0) + one.indices(1) != TrainingBatches(Spots(), 3, seed=2).indices(0)


def test_an_epoch_sees_every_image_once():
    batches = TrainingBatches(Spots(5), batch_size=3, seed=0)
    seen = [index for step in range(10) for index in batches.indices(step)]
    epochs = [seen[i : i + 5] for i in range(0, 30, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_shapes_of_a_batch():
    sizes = set()
    for step in range(8):
        images, labels, boxes, landmarks = TrainingBatches(Spots(), 2)[step]
        size = images.shape[1]
        priors = 2 * (size // 8) ** 2 + 6 * (size // 16) ** 2
        assert images.shape == (2, size, size, 3) and images.dtype == torch.uint8
        assert labels.shape == (2, priors) and labels.dtype == torch.int64
        assert boxes.shape == (2, priors, 4) and landmarks.shape == (2, priors, 10)
        assert boxes.isfinite().all()
        sizes.add(size)
    assert sizes == {64, 96}


def test_workers_give_the_same_batches(monkeypatch):
    for name, value in SHIPPED.items():  # a worker is a new process, where nothing is patched
        monkeypatch.setattr(batches_module, name, value)
    batches = TrainingBatches(Spots(), 2, seed=3)
    for step, batch in enumerate(batch_loader(batches, range(2, 5), num_workers=1), 2):
        assert equal(batch, batches[step])


def test_a_hidden_face_is_neither_face_nor_background():
    class Hidden(Spots):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            sample.labels.occlusion[:] = 0.9
            return sample

    labels = torch.cat([TrainingBatches(Hidden(), 2)[step][1].flatten() for step in range(4)])
    assert (labels == -1).any() and not (labels == 1).any()


def test_nothing_to_train_on():
    with pytest.raises(ValueError, match="empty"):
        TrainingBatches([])
    with pytest.raises(ValueError, match="a.jpg: .*without labels"):
        TrainingBatches([Sample("a.jpg", np.zeros((64, 64, 3), np.uint8), None)], 1)[0]


def run(model, steps=6, batch_size=2, until=None, start=None, **options):
    """Train up to step ``until``, from the state ``start`` if there is one."""
    run = TrainingRun(model.train(), steps, **options)
    if start is not None:
        run.load_state_dict(start)
    for batch in batch_loader(
        TrainingBatches(Spots(), batch_size), range(run.step, until or steps), 0
    ):
        run.advance(batch)
    return run


def blaze(seed=0):
    torch.manual_seed(seed)
    return Blaze()


def test_training_lowers_the_loss_and_logs_it():
    trained = TrainingRun(blaze().train(), 24, peak_lr=1e-2)
    for step, batch in enumerate(batch_loader(TrainingBatches(Spots(), 4), range(24), 0), 1):
        trained.advance(batch)
        if step % 6 == 0:
            trained.add_row()
    table = np.array(trained.rows)
    assert table.shape == (4, len(LOG_COLUMNS)) and table[:, 0].tolist() == [6, 12, 18, 24]
    assert table[-1, 1] < 0.85 * table[0, 1]
    losses = table[:, 2] * 2 + table[:, 3] + table[:, 4] * 0.25
    np.testing.assert_allclose(table[:, 1], losses, rtol=1e-4)
    assert (np.diff(table[:, 6]) > 0).all()  # seconds


def test_a_run_goes_on_from_its_state_as_if_nothing_had_happened(tmp_path):
    whole = run(blaze(), 7)
    torch.save(run(blaze(), 7, until=4).state_dict(), tmp_path / "state")
    stored = torch.load(tmp_path / "state", weights_only=True)
    resumed = run(blaze(seed=9), 7, start=stored)
    assert same_weights(resumed.model, whole.model)
    assert same_weights(resumed.averaged.module, whole.averaged.module)
    for one in (whole, resumed):
        one.add_row()
    assert whole.rows[0][:-1] == resumed.rows[0][:-1]


def test_averaging():
    model = blaze()
    assert same_weights(run(model, 3, averaging=0.0).averaged.module, model)
    averaged = run(model, 3).averaged.module
    assert not same_weights(averaged, model)
    # Counters are copied, not averaged.
    assert int(averaged.conv1[1].num_batches_tracked) == 6


def test_average_by_hand():
    averaged, current = [torch.tensor([0.0])], [torch.tensor([1.0])]
    weight_average(0.995)(averaged, current, torch.tensor(1))
    assert averaged[0].item() == pytest.approx(1 - 2 / 21)
    averaged = [torch.tensor([0.0])]
    weight_average(0.995)(averaged, current, torch.tensor(100_000))
    assert averaged[0].item() == pytest.approx(0.005)


def test_the_learning_rate_rises_to_its_peak_and_falls():
    trained = TrainingRun(blaze(), 100, peak_lr=1e-3)
    rates = []
    for _ in range(99):
        rates.append(trained.optimizer.param_groups[0]["lr"])
        trained.optimizer.step()
        trained.scheduler.step()
    assert rates[0] == pytest.approx(1e-3 / 25) and max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (11, 12) and rates[-1] < 1e-5


def test_a_loss_that_is_not_finite_stops_the_run():
    model = blaze()
    model.conv1[0].weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 1: .*peak_lr"):
        run(model, steps=5, until=1).add_row()


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 1, "averaging": 1.0}])
def test_settings_out_of_range(options):
    with pytest.raises(ValueError, match="steps .* averaging"):
        TrainingRun(Blaze(), **options)
