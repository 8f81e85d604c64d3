"""Training on two processes over gloo, started by torchrun, one of them killed on the way."""

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

import blaze_utils.training.batches
from blaze_utils.training import processes
from blaze_utils.training.batches import TrainingBatches
from blaze_utils.detector.checkpoint import load_float
from blaze_utils.data.datasets import FaceFolder, draw_dataset
from blaze_utils.detector.model import Blaze
from maintainers.train import initialise, train
from blaze_utils.training.run import TrainingRun

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()) or sys.platform == "win32",
    reason="needs torchrun over gloo, which on Windows depends on the build",
)

SETTINGS = {"steps": 5, "batch_size": 3, "peak_lr": 4e-3, "weight_decay": 5e-4, "clip": 10.0,
            "averaging": 0.995, "seed": 0, "images": 4}

# What each process runs. After the gradients of one step it trains twice: to `whole.pth` without a
# mishap, to `killed.pth` with process 1 killed by a signal after step 3; torchrun then starts both
# anew, and all is done again but what was saved. (`whole.pth` is finished: it is made afresh.)
SCRIPT = """
import os, signal, sys
from contextlib import nullcontext
sys.path.insert(0, sys.argv[2])
import torch
from blaze_utils import processes, training_run
from blaze_utils.__main__ import main
from test_processes import gradients, small_crops

small_crops()
folder, restart = sys.argv[1], int(os.environ["TORCHELASTIC_RESTART_COUNT"])
advance = training_run.TrainingRun.advance

def noted(run, batch):
    with open(f"{folder}/{name}-{restart}-{os.environ['RANK']}.steps", "a") as file:
        file.write(f"{run.step} {len(batch[0])}\\n")
    if name == "killed" and run.step == 3 and restart == 0 and not processes.is_first():
        os.kill(os.getpid(), signal.SIGKILL)
    advance(run, batch)

arguments = ["train", "--data", folder + "/scenes", "--scenes", "4", "--data-seed", "5",
             "--steps", "5", "--batch-size", "3", "--loaders", "0", "--save-every", "2"]
with processes.group("cpu") as device:
    processes.group = lambda _: nullcontext(device)  # one group is enough for all three
    found = gradients(folder + "/scenes")
    if processes.is_first():
        torch.save(found, folder + "/gradients.pt")
    training_run.TrainingRun.advance = noted
    for name in ("whole", "killed"):
        assert main([*arguments, "--output", f"{folder}/{name}.pth"]) == 0
"""


def small_crops():
    blaze_utils.training.batches.CROP_SIZES, blaze_utils.training.batches.CROP_SIZE_CHANCES = (64,), (1.0,)


def gradients(scenes):
    """The gradients and losses of a step, with batch norms that do not look at the batch."""
    model = initialise(Blaze()).eval().to(memory_format=torch.channels_last)
    run = TrainingRun(model, SETTINGS)
    run.optimizer.zero_grad = lambda **_: None
    run.advance(TrainingBatches(FaceFolder(scenes), 3, 0, processes.share())[0])
    return [run.recent, *(parameter.grad for parameter in run.model.parameters())]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The folder in which two processes have trained, and what they printed."""
    folder = tmp_path_factory.mktemp("launched")
    draw_dataset(folder / "scenes", 4, seed=5, workers=1, progress=False)
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               "--max-restarts=1", str(folder / "script.py"), str(folder),
               os.path.dirname(__file__)]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


def steps(folder, name):
    """The step and the images of each call, of the process that wrote the file."""
    lines = (folder / f"{name}.steps").read_text(encoding="utf-8").splitlines()
    return [tuple(map(int, line.split())) for line in lines]


@needs_gloo
def test_shares_give_the_gradients_of_the_whole_batch(launched, monkeypatch):
    monkeypatch.setattr(blaze_utils.training.batches, "CROP_SIZES", (64,))
    monkeypatch.setattr(blaze_utils.training.batches, "CROP_SIZE_CHANCES", (1.0,))
    stored = torch.load(launched[0] / "gradients.pt", weights_only=True)
    for found, wanted in zip(stored, gradients(launched[0] / "scenes"), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


@needs_gloo
def test_each_process_takes_its_share_of_every_batch(launched):
    assert steps(launched[0], "whole-0-0") == [(step, 2) for step in range(5)]
    assert steps(launched[0], "whole-0-1") == [(step, 1) for step in range(5)]


@needs_gloo
def test_a_killed_run_goes_on_where_it_was_saved_and_ends_the_same(launched):
    folder, _ = launched
    assert [step for step, _ in steps(folder, "killed-0-1")] == [0, 1, 2, 3]
    for rank in (0, 1):
        assert [step for step, _ in steps(folder, f"killed-1-{rank}")] == [2, 3, 4]
    whole = load_float(folder / "whole.pth").state_dict()
    killed = load_float(folder / "killed.pth").state_dict()
    assert all(torch.equal(killed[key], value) for key, value in whole.items())


@needs_gloo
def test_only_the_first_process_logs_saves_and_reports(launched):
    folder, done = launched
    assert done.stdout.count("whole.pth") == 2 and done.stdout.count("killed.pth") == 1
    assert len((folder / "killed.csv").read_text(encoding="utf-8").splitlines()) == 2
    assert json.loads((folder / "killed.json").read_text(encoding="utf-8"))["processes"] == 2
    assert list(folder.glob("*.resume")) == [] and list(folder.glob("*.tmp")) == []


def test_without_torchrun_nothing_acts():
    model, values = Blaze(), torch.ones(2)
    with processes.group("cpu") as device:
        assert device == torch.device("cpu") and not processes.in_group()
    assert processes.parallel(model) is model and processes.mean(values) is values
    assert processes.count() == 1 and processes.is_first() and processes.share() == slice(None)


def test_shares_put_together_are_the_batch(tmp_path):
    folder = draw_dataset(tmp_path / "scenes", 2, seed=5, workers=1, progress=False)
    whole = TrainingBatches(folder, 5)[3]
    for part in range(2):
        for column, wanted in zip(TrainingBatches(folder, 5, 0, slice(part, None, 2))[3], whole):
            assert torch.equal(column, wanted[part::2])


@pytest.mark.parametrize("device", ["quark", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ValueError, match=f"device: .*{device}"), processes.group(device):
        pass


def test_more_processes_than_images_a_step(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(ValueError, match="3 processes share 2 images"):
        train(Blaze(), [None], 1, batch_size=2)
