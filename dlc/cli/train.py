"""``dlc train``: the built-in example, a small network that reads handwritten digits."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from dlc.cli.common import FiniteRange, OutputPath
from dlc.cli.output import note, say, size_text, working
from dlc.driver.report import CompileReport
from dlc.facade import compile as compile_model
from dlc.frontends import models
from dlc.frontends.graph import losses, optim
from dlc.ir.training import Optimizer
from dlc.tools import save_onnx
from dlc.training import Callback, TrainingStep, compile_training

OPTIMIZERS: dict[str, Callable[[float], Optimizer]] = {
    "sgd": lambda rate: optim.SGD(rate, momentum=0.9),
    "adam": optim.Adam,
    "adamw": optim.AdamW,
}
NETWORKS: dict[str, dict[str, Any]] = {"digits_cnn": {}, "mlp": {"features": 64}}  # name -> its options


class SaveEachEpoch(Callback):
    """Keeps the training state on disk: a run that dies loses no more than the epoch it was in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_epoch_end(self, step: Any, epoch: int, logs: Any) -> None:
        step.save(self.path)


def arrays_for(network: str, split: models.Split) -> dict[str, np.ndarray]:
    """Return a part of the digits by the input names and shapes of ``network``."""
    if network == "mlp":
        return {"x": split.image.reshape(len(split), 64), "label": split.label}
    return split.arrays


def logits_of(step: TrainingStep, arrays: dict[str, np.ndarray], threads: int | None) -> np.ndarray:
    """Run the trained network, compiled for inference."""
    feeds = {name: array for name, array in arrays.items() if name != "label"}
    return compile_model(step.inference_graph(), threads=threads).run(feeds)["logits"]


def arena_text(report: CompileReport) -> str:
    """Say what a step's intermediate values take, and what they would without a limit."""
    full = report.full_arena_bytes or report.arena_bytes
    return (
        f"a step's intermediate values take {size_text(report.arena_bytes)}, {size_text(full)} without a limit; "
        f"{report.repeated:.1%} of the work is done twice"
    )


@click.command("train")
@click.argument("example", default="digits", type=click.Choice(["digits"]))
@click.option(
    "--network", type=click.Choice(list(NETWORKS)), default="digits_cnn", show_default=True, help="Network to train."
)
@click.option("--epochs", type=click.IntRange(1), default=15, show_default=True, help="Passes over the images, in all.")
@click.option("--batch-size", type=click.IntRange(1, 1437), default=64, show_default=True, help="Images per step.")
@click.option(
    "--optimizer", type=click.Choice(list(OPTIMIZERS)), default="adam", show_default=True, help="Update rule."
)
@click.option("--lr", "rate", type=FiniteRange(0), default=2e-3, show_default=True, help="Learning rate.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of weights, split and order.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of a step (default: all processors).")
@click.option(
    "--memory-limit", help="Bytes, such as 512K, that a step's intermediate values may take (default: no limit)."
)
@click.option("--checkpoint", type=OutputPath(), help="File that keeps the training state, saved after every epoch.")
@click.option("--resume", is_flag=True, help="Go on from --checkpoint, with the options it was made with.")
@click.option("--export", type=OutputPath(), help="Write the trained network as an ONNX model.")
def command(
    example: str,
    network: str,
    epochs: int,
    batch_size: int,
    optimizer: str,
    rate: float,
    seed: int,
    threads: int | None,
    memory_limit: str | None,
    checkpoint: str | None,
    resume: bool,
    export: str | None,
) -> None:
    """Train on scikit-learn's handwritten digits: 1797 images of 8x8, four fifths to learn from, one fifth to test."""
    if resume and checkpoint is None:
        raise click.UsageError("--resume needs --checkpoint, the file to resume from")
    train, test = (arrays_for(network, split) for split in models.digits(seed=seed))
    with working("composing the training step"):
        step = compile_training(
            models.build(network, seed=seed, **NETWORKS[network]),
            loss=losses.cross_entropy("logits", "label"),
            optimizer=OPTIMIZERS[optimizer](rate),
            threads=threads,
            memory_limit=memory_limit,
        )
    callbacks = [SaveEachEpoch(Path(checkpoint))] if checkpoint is not None else []
    if resume and checkpoint is not None:
        step.load(checkpoint)
        note(f"resumed from {checkpoint} after {step.steps} steps")
    begin = time.perf_counter()
    try:
        history = step.fit(
            train,
            epochs=epochs,
            batch_size=batch_size,
            validation_data=test,
            callbacks=callbacks,
            seed=seed,
            resume=resume,
            verbose=True,
        )
    except KeyboardInterrupt:
        if checkpoint is not None:
            step.save(checkpoint)
            note(f"state after {step.steps} steps saved; --resume goes on from there")
        raise
    seconds = time.perf_counter() - begin
    if not history:
        note(f"the checkpoint has all {epochs} epochs already; --epochs asks for more")
    elif not np.isfinite(history["loss"]).all():
        note("the loss is not finite; a smaller --lr may help")
    if memory_limit is not None and step.report is not None:
        say(arena_text(step.report))
    accuracy = float(np.mean(logits_of(step, test, threads).argmax(axis=1) == test["label"]))
    say(f"test accuracy {accuracy:.2%} of {len(test['label'])} images after {step.steps} steps, {seconds:.1f} s")
    if checkpoint is not None:
        say(f"training state saved to {checkpoint}")
    if export is not None:
        save_onnx(step.inference_graph(), export)
        say(f"network written to {export} ({size_text(Path(export).stat().st_size)})")
