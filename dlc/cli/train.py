"""``dlc train``: the built-in example, a small network that reads handwritten digits."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from dlc.cli.common import console, size_text
from dlc.errors import ConfigError
from dlc.facade import compile as compile_model
from dlc.facade import compile_training, save_onnx
from dlc.frontends import models
from dlc.frontends.graph import losses, optim

OPTIMIZERS = {
    "sgd": lambda rate: optim.SGD(rate, momentum=0.9),
    "adam": optim.Adam,
    "adamw": optim.AdamW,
}


@click.command("train")
@click.argument("example", default="digits", type=click.Choice(["digits"]))
@click.option("--network", type=click.Choice(["digits_cnn", "mlp"]), default="digits_cnn", show_default=True, help="Network to train.")
@click.option("--epochs", type=click.IntRange(1), default=15, show_default=True, help="Passes over the training images.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images per step.")
@click.option("--optimizer", type=click.Choice(list(OPTIMIZERS)), default="adam", show_default=True, help="Update rule.")
@click.option("--lr", "rate", type=float, default=2e-3, show_default=True, help="Learning rate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights, split and order.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of a step (default: all processors).")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Where to save the training state at the end, and to resume from.")
@click.option("--resume", is_flag=True, help="Go on from --checkpoint.")
@click.option("--export", type=click.Path(path_type=Path, dir_okay=False), help="Write the trained network as an ONNX model.")
def command(example: str, network: str, epochs: int, batch_size: int, optimizer: str, rate: float, seed: int, threads: int | None, checkpoint: Path | None, resume: bool, export: Path | None) -> None:
    """Train on scikit-learn's handwritten digits: 1797 images of 8x8, four fifths to learn from, one fifth to test."""
    if resume and checkpoint is None:
        raise ConfigError("--resume needs --checkpoint, the place to resume from")
    data = models.digits(seed=seed)
    graph = models.build(network, seed=seed)
    step = compile_training(
        graph,
        loss=losses.cross_entropy("logits", "label"),
        optimizer=OPTIMIZERS[optimizer](rate),
        metrics=("accuracy",),
        threads=threads,
    )
    if resume:
        step.load(checkpoint)
        console.print(f"resumed from {checkpoint}")
    train = {"x": shaped(data.train_images, network), "label": data.train_labels}
    test = {"x": shaped(data.test_images, network), "label": data.test_labels}
    step.fit(train, epochs=epochs, batch_size=batch_size, validation_data=test, seed=seed)
    trained = step.inference_graph()
    logits = compile_model(trained, threads=threads).run({"x": test["x"]})["logits"]
    accuracy = float(np.mean(logits.argmax(axis=1) == test["label"]))
    console.print(f"test accuracy: [bold]{accuracy:.2%}[/bold] of {len(test['label'])} images")
    if checkpoint is not None:
        step.save(checkpoint)
        console.print(f"training state saved to {checkpoint}")
    if export is not None:
        save_onnx(trained, export)
        console.print(f"network written to {export} ({size_text(export.stat().st_size)})")


def shaped(images: np.ndarray, network: str) -> np.ndarray:
    """Give images (n, 8, 8) the shape that the network takes."""
    return images.reshape(len(images), 64) if network == "mlp" else images.reshape(len(images), 1, 8, 8)
