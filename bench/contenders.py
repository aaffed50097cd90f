"""One way to train LeNet-5, for so many steps, in a process of its own; prints images a second and peak memory as JSON.

    python bench/contenders.py NAME DATA_HOME STEPS

The same images, batch size, optimizer and rate for all. The first steps are not timed: they compile, allocate and fill
caches. Everything that comes with a step is: fetching the batch, forward, backward, optimizer.
"""

import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
BATCH, RATE, WARM_STEPS = 128, 6e-4, 20
# Multiply-adds of one image, forward and backward; the first layer has no gradient for its input.
FORWARD = 6 * 25 * 28 * 28 + 16 * 150 * 10 * 10 + 400 * 120 + 120 * 84 + 84 * 10
FLOPS_PER_IMAGE = 2 * (3 * FORWARD - 6 * 25 * 28 * 28)


def lenet5() -> nn.Sequential:
    """The network as a user types it."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip


def in_memory(home: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All training images, (60000, 1, 32, 32) float32 in [0, 1], and their labels."""
    images = np.load(home / "data/mnist/train-32x32.npy")
    labels = (home / "data/mnist/train-labels-idx1-ubyte").read_bytes()[8:]
    return torch.from_numpy(images).float().div_(255), torch.frombuffer(bytearray(labels), dtype=torch.uint8).long()


def through_torchvision(home: Path):
    """MNIST as torchvision's users have it: an image at a time, from PIL, through transforms."""
    import torchvision
    from torchvision import transforms

    # The class looks for MNIST/raw below the folder it is given.
    folder = Path(tempfile.mkdtemp())
    (folder / "MNIST").mkdir()
    (folder / "MNIST" / "raw").symlink_to((home / "data" / "mnist").resolve())
    return torchvision.datasets.MNIST(
        folder, transform=transforms.Compose([transforms.Resize(32), transforms.ToTensor()])
    )


def timed(step: Callable[[], None], steps: int) -> float:
    """Seconds for so many steps, after the warm ones."""
    for _ in range(WARM_STEPS):
        step()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - started


def endless(loader):
    """Batches for ever."""
    while True:
        yield from loader


def paper_loop(home: Path, steps: int) -> float:
    """The report's listing: a DataLoader, `loss.item()` at every step."""
    loader = torch.utils.data.DataLoader(through_torchvision(home), batch_size=BATCH, shuffle=True)
    batches, model, criterion = endless(loader), lenet5(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4500, 0.1)
    losses = []

    def step() -> None:
        images, labels = next(batches)
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())

    return timed(step, steps)


def eager(home: Path, steps: int, compiled: bool = False) -> float:
    """PyTorch at its best without a kernel of one's own: tensors in memory, channels_last, no waiting for the loss."""
    (images, labels), criterion = in_memory(home), nn.CrossEntropyLoss()
    model = lenet5().to(memory_format=torch.channels_last)
    network = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)

    def step() -> None:
        chosen = torch.randint(0, len(images), (BATCH,))
        optimizer.zero_grad()
        loss = criterion(network(images[chosen].to(memory_format=torch.channels_last)), labels[chosen])
        loss.backward()
        optimizer.step()

    return timed(step, steps)


def lightning(home: Path, steps: int, memory: bool) -> float:
    """A LightningModule and its Trainer, logging and checkpoints off."""
    import lightning as lightning_library

    class Module(lightning_library.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.criterion, self.marks = lenet5(), nn.CrossEntropyLoss(), []

        def training_step(self, batch, index):
            images, labels = batch
            return self.criterion(self.model(images), labels)

        def on_train_batch_end(self, *ignored) -> None:
            self.marks.append(time.perf_counter())

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=RATE)

    data = torch.utils.data.TensorDataset(*in_memory(home)) if memory else through_torchvision(home)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
    module = Module()
    trainer = lightning_library.Trainer(
        max_steps=WARM_STEPS + steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader)
    return module.marks[WARM_STEPS + steps - 1] - module.marks[WARM_STEPS - 1]


def fastai(home: Path, steps: int, memory: bool) -> float:
    """A fastai Learner, without the progress bar that a notebook has."""
    from fastai.callback.core import Callback, CancelFitException
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from fastai.optimizer import Adam

    marks = []

    class Clock(Callback):
        def after_batch(self) -> None:
            marks.append(time.perf_counter())
            if len(marks) == WARM_STEPS + steps:
                raise CancelFitException

    data = torch.utils.data.TensorDataset(*in_memory(home)) if memory else through_torchvision(home)
    loader = DataLoader(data, bs=BATCH, shuffle=True, num_workers=0)
    learner = Learner(DataLoaders(loader, loader), lenet5(), nn.CrossEntropyLoss(), Adam, cbs=[Clock()])
    with learner.no_logging():
        learner.fit(1, RATE)
    return marks[-1] - marks[WARM_STEPS - 1]


def ours(home: Path, steps: int, engine: str, target: str | None = None) -> float:
    """A trial of this package as it trains: Colossal-AI's Booster, the schedule, losses and rates recorded.

    `target` is what the fused engine's kernel is compiled for, by default the best that the CPU has.
    """
    sys.path.insert(0, str(ROOT))
    from reproduce.data import datasets
    from reproduce.study import planning
    from reproduce.study.config import StudyConfig
    from reproduce.study.loading import load_paper
    from reproduce.training import engines, loop
    from reproduce.training.fused import library

    kernel = library.compile_kernel(home / "fused", target) if target else engines.resolve(engine, "cpu", home)[1]
    # A range test is a trial without evaluation: its epochs hold steps and nothing else. The first one warms up.
    config = StudyConfig(engine=engine, range_test_epochs=2, train_size=BATCH * steps, lr_start=RATE / 2, lr_end=RATE)
    (trial,) = planning.range_tests(load_paper(), config)
    with tempfile.TemporaryDirectory() as folder:
        records = list(loop.train(trial, datasets.open_files("mnist", home), Path(folder), kernel=kernel))
    return records[-1].wall_seconds


def matrix_rate(home: Path, steps: int) -> float:
    """Seconds in which this machine could do the multiply-adds of so many steps, at the rate of a 1024³ torch.mm."""
    torch.set_num_threads(1)
    a, b, out = torch.rand(1024, 1024), torch.rand(1024, 1024), torch.empty(1024, 1024)
    times = []
    for _ in range(30):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        times.append(time.perf_counter() - started)
    return steps * BATCH * FLOPS_PER_IMAGE / (2 * 1024**3 / float(np.median(times[5:])))


CONTENDERS: dict[str, Callable[[Path, int], float]] = {
    "paper": paper_loop,
    "eager": eager,
    "compiled": lambda home, steps: eager(home, steps, compiled=True),
    "lightning": lambda home, steps: lightning(home, steps, memory=False),
    "lightning-memory": lambda home, steps: lightning(home, steps, memory=True),
    "fastai": lambda home, steps: fastai(home, steps, memory=False),
    "fastai-memory": lambda home, steps: fastai(home, steps, memory=True),
    "ours-torch": lambda home, steps: ours(home, steps, "torch"),
    "ours-fused": lambda home, steps: ours(home, steps, "fused"),
    "matrix": matrix_rate,
}


def main() -> None:
    """Run one and print what came out."""
    name, home, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    warnings.filterwarnings("ignore")
    kind, _, target = name.partition(" ")
    seconds = ours(home, steps, kind, target) if target else CONTENDERS[kind](home, steps)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"images_per_second": steps * BATCH / seconds, "peak_gib": memory, "pid": os.getpid()}))


if __name__ == "__main__":
    main()
