"""Batches and the training loop, on tiny synthetic scenes."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import blaze_utils.training.batches
from blaze_utils.training.batches import TrainingBatches, batch_loader
from blaze_utils.data.labels import FaceLabels
from blaze_utils.detector.model import Blaze
from blaze_utils.detector.storage import CheckpointError
from maintainers.train import initialise, train
from blaze_utils.training.run import weight_average


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


SHIPPED = {name: getattr(blaze_utils.training.batches, name) for name in ("CROP_SIZES", "CROP_SIZE_CHANCES")}


@pytest.fixture(autouse=True)
def small_crops(monkeypatch):
    monkeypatch.setattr(blaze_utils.training.batches, "CROP_SIZES", (64, 96))
    monkeypatch.setattr(blaze_utils.training.batches, "CROP_SIZE_CHANCES", (0.5, 0.5))


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
    epochs = [seen[i:i + 5] for i in range(0, 30, 5)]
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
        monkeypatch.setattr(blaze_utils.training.batches, name, value)
    batches = TrainingBatches(Spots(), 2, seed=3)
    for step, batch in zip(range(2, 5), batch_loader(batches, range(2, 5), num_workers=1)):
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


def test_initialise_depends_on_the_seed_alone():
    assert same_weights(initialise(Blaze(), 1), initialise(Blaze(), 1))
    assert not same_weights(initialise(Blaze(), 1), initialise(Blaze(), 2))


def test_at_first_everything_is_background():
    with torch.no_grad():
        conf = initialise(Blaze()).eval()(torch.zeros(1, 3, 64, 64))[1]
    assert (conf.softmax(-1)[..., 0] > 0.95).all()


def run(model=None, steps=6, dataset=None, batch_size=2, **options):
    model = initialise(Blaze()) if model is None else model
    return train(model, dataset or Spots(), steps, batch_size=batch_size, num_workers=0, **options)


def test_training_lowers_the_loss(tmp_path):
    log = tmp_path / "log.csv"
    run(steps=24, batch_size=4, peak_lr=1e-2, log_path=log, log_every=6)
    header, *rows = log.read_text(encoding="utf-8").splitlines()
    assert header == "step,loss,box,class,landmark,lr,seconds"
    table = np.array([[float(value) for value in row.split(",")] for row in rows])
    assert table[:, 0].tolist() == [6, 12, 18, 24]
    assert table[-1, 1] < 0.85 * table[0, 1]
    losses = table[:, 2] * 2 + table[:, 3] + table[:, 4] * 0.25
    np.testing.assert_allclose(table[:, 1], losses, atol=1e-3)


class Killed(Exception):
    pass


class DiesAfter(Spots):
    """Raises when more images are asked for than a number of batches needs."""

    def __init__(self, images):
        super().__init__()
        self.left = images

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().__getitem__(index)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    logs = [tmp_path / "whole.csv", tmp_path / "resumed.csv"]
    whole_model, model = initialise(Blaze()), initialise(Blaze())
    whole = run(whole_model, steps=7, log_path=logs[0], log_every=3)
    options = {"steps": 7, "log_path": logs[1], "log_every": 3, "save_every": 2}
    resume = tmp_path / "run.resume"
    with pytest.raises(Killed):
        run(model, dataset=DiesAfter(2 * 5), resume_path=resume, **options)
    model = initialise(Blaze(), seed=9)  # what it holds is replaced by what was saved
    resumed = run(model, resume_path=resume, **options)
    assert same_weights(resumed, whole)
    assert same_weights(model, whole_model)

    def without_seconds(path):
        return [line.rsplit(",", 1)[0] for line in path.read_text(encoding="utf-8").splitlines()]

    assert without_seconds(logs[0]) == without_seconds(logs[1])
    assert len(without_seconds(logs[1])) == 4

    finished = run(initialise(Blaze()), dataset=DiesAfter(0), resume_path=resume, **options)
    assert same_weights(finished, whole)


def test_a_resume_file_of_another_run(tmp_path):
    resume = tmp_path / "run.resume"
    run(steps=1, resume_path=resume)
    with pytest.raises(CheckpointError, match=r"run.resume: .*seed = 0, this one has 5"):
        run(steps=1, resume_path=resume, seed=5)
    resume.write_bytes(resume.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="run.resume: damaged"):
        run(steps=1, resume_path=resume)


def test_averaging():
    model = initialise(Blaze())
    assert same_weights(run(model, steps=3, averaging=0.0), model)
    model = initialise(Blaze())
    averaged = run(model, steps=3)
    assert not same_weights(averaged, model)
    assert not averaged.training
    assert int(averaged.conv1[1].num_batches_tracked) == 3  # counters are copied, not averaged


def test_average_by_hand():
    averaged, current = [torch.tensor([0.0])], [torch.tensor([1.0])]
    weight_average(0.995)(averaged, current, torch.tensor(1))
    assert averaged[0].item() == pytest.approx(1 - 2 / 21)
    averaged = [torch.tensor([0.0])]
    weight_average(0.995)(averaged, current, torch.tensor(100_000))
    assert averaged[0].item() == pytest.approx(0.005)


class Other(nn.Module):
    """Another model with the outputs of Blaze."""

    def __init__(self):
        super().__init__()
        self.network = Blaze()

    def forward(self, x):
        return self.network(x)


def test_other_models_can_be_trained():
    model = Other()
    before = [p.detach().clone() for p in model.parameters()]
    trained = run(model, steps=2)
    assert isinstance(trained, Other)
    assert not equal(before, trained.parameters())


def test_a_loss_that_is_not_finite_stops_the_run():
    model = initialise(Blaze())
    model.conv1[0].weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 1: .*peak_lr"):
        run(model, steps=5, log_every=1)


@pytest.mark.parametrize("options", [{"steps": 0}, {"averaging": 1.0}])
def test_settings_out_of_range(options):
    with pytest.raises(ValueError, match="steps and batch_size"):
        run(**options)
