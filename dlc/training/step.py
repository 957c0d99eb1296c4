"""TrainingStep: a model, its loss and its optimizer compiled into one native call, with everything around the call.

It belongs to the driver layer: it composes passes, the driver and the runtime, and knows none of their insides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from dlc import config
from dlc.errors import CheckpointError, ConfigError, DlcError, InputError
from dlc.frontends.graph import losses
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Role, Value
from dlc.ir.opdef import Mode, Trait
from dlc.ir.training import Clipping, Lookup, Loss, Optimizer
from dlc.ir.types import tensor_type
from dlc.passes.train_step import TrainOptions, evaluation_step, train_step, trained_parameters, with_values
from dlc.runtime import checkpoint
from dlc.runtime.executable import Port
from dlc.runtime.profile import Profile
from dlc.training.callbacks import Callback
from dlc.training.data import as_batches
from dlc.training.executors import Executor, make_executor, profile_steps
from dlc.training.fit import FitOptions, Position, run_fit

_LEARNING_RATE = "optimizer:learning_rate"
_STEP = "optimizer:step"
_FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """A loss with chosen metrics: those it offers, or rank-0 outputs of the graph."""

    loss: Loss
    names: tuple[str, ...] | None

    def __call__(self, builder: Builder, lookup: Lookup) -> tuple[Value, Mapping[str, Value]]:
        """Emit the loss and the chosen metrics."""
        value, offered = self.loss(builder, lookup)
        if self.names is None:
            return value, offered
        return value, {name: offered[name] if name in offered else lookup(name) for name in self.names}


def compile_training(
    graph: Any,
    loss: Loss | str,
    optimizer: Optimizer,
    *,
    trainable: Sequence[str] | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    metrics: Sequence[str] | None = None,
    device: str = "cpu",
    precision: str = "float32",
    threads: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    memory_limit: int | str | None = None,
    dump: str | Path | None = None,
) -> TrainingStep:
    """Compile one training step: forward, loss, gradients, clipping and update in one native call.

    Args:
        graph: a graph of the graph API or an imported model.
        loss: of ``dlc.losses``, or the name of a rank-0 output of the graph.
        optimizer: of ``dlc.optim``.
        trainable: names of the parameters to train; by default those that are marked as trainable.
        clip_norm: largest global L2 norm of all gradients together.
        clip_value: largest magnitude of one gradient element.
        metrics: names of what ``metrics`` reports besides the loss: what the loss offers (``"accuracy"``) or rank-0
            outputs. By default all that the loss offers.
        device: as for ``dlc.compile``; ``"interpreter"`` runs in NumPy, slowly, to check compiled code.
        precision: as for ``dlc.compile``.
        threads: threads of one step; by default as for ``dlc.compile``.
        shapes: input name -> extents, to bind symbolic dimensions now.
        memory_limit: bytes (or text such as ``"512MB"``) that the values between the first and the last operation of
            a step may take, parameters and optimizer state aside. What does not fit is computed again where gradients
            need it: cheap operations first, matrix products and convolutions if they must be.
        dump: folder for the numbered graphs, kernels, LLVM and assembly of the step.

    Raises NotDifferentiableError, GraphError or CompileError naming the node or the name that is at fault,
    ResourceLimitError with the smallest size that can be reached where no plan fits into ``memory_limit``.
    """
    frozen = graph if isinstance(graph, Graph) else getattr(graph, "ir", None)
    if not isinstance(frozen, Graph):
        raise DlcError(f"{type(graph).__name__} is not a graph; pass what dlc.load or `with dlc.Graph()` gave")
    chosen = losses.output(loss) if isinstance(loss, str) else loss
    measured = Measured(chosen, tuple(metrics) if metrics is not None else None)
    clipping = Clipping(clip_norm, clip_value)
    limit = config.byte_count(memory_limit, "memory_limit") if memory_limit is not None else None
    composed = train_step(frozen, TrainOptions(measured, optimizer, clipping, trainable))
    settings: dict[str, Any] = {"device": device, "precision": precision, "threads": threads, "shapes": shapes}
    executor, state = make_executor(composed, Mode.TRAINING, dump=dump, memory_limit=limit, **settings)
    trained = tuple(name for name, _ in trained_parameters(frozen, trainable))
    return TrainingStep(frozen, measured, optimizer, executor, state, trained, settings)


class TrainingStep:
    """One compiled training step and its state; made by ``dlc.compile_training``.

    ``state`` maps names to the live arrays: trained parameters, running statistics, the random key, and the
    optimizer's. Weights of ordinary convolutions are views, stored as their kernels read them: assign to them with
    ``state[name][...] = value``, since ``reshape`` and ``ravel`` give copies. Use from one thread at a time.
    """

    def __init__(
        self,
        graph: Graph,
        loss: Measured,
        optimizer: Optimizer,
        executor: Executor,
        state: dict[str, np.ndarray],
        trained: tuple[str, ...],
        settings: Mapping[str, Any],
    ) -> None:
        self.graph, self.executor, self.state, self.trained = graph, executor, state, trained
        self.metrics: dict[str, float] = {}
        self.stop_training = False
        self.position: Position | None = None
        self._loss, self._settings = loss, dict(settings)
        rate = getattr(optimizer, "lr", None)
        self._schedule: Callable[[int], float] | None = rate if callable(rate) else None
        self._count = 0
        self._evaluator: Executor | None = None

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What a step is fed: name, dtype and shape of each."""
        return self.executor.inputs

    @property
    def report(self) -> Any:
        """What the last compilation did (times, sizes); None before a step was compiled, or in the interpreter."""
        return self.executor.report

    # -- steps ------------------------------------------------------------------------

    def run(self, feeds: Mapping[str, Any]) -> float:
        """Do one step on a batch (name -> array) and return its loss, before the update; ``metrics`` has the rest.

        Raises InputError for wrong feeds. If a signal interrupts, the state has changed wholly or not at all.
        """
        if self._schedule is not None:
            self.state[_LEARNING_RATE][...] = self._schedule(self.steps)
        results = self.executor.run(feeds)
        self._count += 1
        self.metrics = {name: float(array) for name, array in results.items()}
        return self.metrics["loss"]

    def profile(self, feeds: Mapping[str, Any], runs: int = 10, warmup: int = 2) -> Profile:
        """Train on ``feeds`` for ``warmup + runs`` steps and return where their time goes, as ``dlc profile`` shows it.

        ``print(step.profile(batch).table())`` lists the slowest kernels beside their floor, ``write_html`` writes a
        page for browsers, ``write_trace`` a file for Perfetto. The first call also measures the machine.
        Raises DlcError on the interpreter.
        """
        result = profile_steps(self.executor, feeds, runs, warmup)
        self._count += warmup + runs
        return result

    @property
    def steps(self) -> int:
        """The number of steps done, those before a load included."""
        return int(self.state[_STEP]) if _STEP in self.state else self._count

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step. Setting it ends the optimizer's schedule, if it has one."""
        self._need_rate()
        return self._schedule(self.steps) if self._schedule is not None else float(self.state[_LEARNING_RATE])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._need_rate()
        if not (np.isfinite(value) and value >= 0):
            raise ConfigError(f"learning rate {value} must be a finite number of at least 0")
        self._schedule = None
        self.state[_LEARNING_RATE][...] = value

    def _need_rate(self) -> None:
        if _LEARNING_RATE not in self.state:
            raise ConfigError("this optimizer has no learning rate")

    # -- loops ---------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        epochs: int = 1,
        batch_size: int = 32,
        *,
        validation_data: Any = None,
        callbacks: Sequence[Callback] = (),
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        resume: bool = False,
        verbose: bool | None = None,
    ) -> dict[str, list[float]]:
        """Train for ``epochs`` epochs and return the history: each log's value after every epoch.

        ``data`` is a dict of arrays (name -> array, rows along dimension 0), a tuple of arrays in the order of
        ``inputs``, or an iterable of batches (dicts), iterated anew in every epoch. Arrays are shuffled by ``seed`` and
        epoch. The last batch of an epoch may be smaller: code for its size is made once, if the graph's batch dimension
        is symbolic; ``drop_last`` leaves it out instead. Losses and metrics of an epoch are means weighted by rows.

        ``resume`` continues where the last ``fit``, interrupted or restored by ``load``, stood: with the same data
        and arguments the run goes on bit for bit. After Ctrl-C the state is that after the last whole step.
        ``verbose``: None shows a progress bar on a terminal, False nothing; True prints lines elsewhere too.
        """
        names = [port.name for port in self.inputs]
        batches = as_batches(data, names, batch_size, shuffle, seed, drop_last)
        validate = None
        if validation_data is not None:

            def validate() -> dict[str, float]:
                return self.evaluate(validation_data, batch_size)

        options = FitOptions(epochs, tuple(callbacks), resume, verbose)
        return run_fit(self, batches, options, validate)

    def evaluate(self, data: Any, batch_size: int = 256) -> dict[str, float]:
        """Return the mean loss and metrics over ``data`` (as for ``fit``) in inference form; nothing is updated."""
        executor = self._evaluation()
        live = {**self._frozen_arrays(), **self.state}
        held = {port.name: np.asarray(live[port.name], order="C") for port in executor.inputs if port.name in live}
        names = [port.name for port in executor.inputs if port.name not in live]
        sums: dict[str, float] = {}
        total = 0
        for batch, rows in as_batches(data, names, batch_size).batches(0):
            for name, array in executor.run({**held, **batch}).items():
                sums[name] = sums.get(name, 0.0) + float(array) * rows
            total += rows
        if total == 0:
            raise InputError("there are no data to evaluate")
        return {name: value / total for name, value in sums.items()}

    def _evaluation(self) -> Executor:
        """The compiled evaluation: parameters and state are fed, so that one compilation serves all epochs."""
        if self._evaluator is None:
            graph = evaluation_step(self.graph, self._loss)
            live = {*self._frozen_arrays(), *self.state}
            specs = tuple(
                replace(s, role=Role.DATA, initial=None) if s.name in live else s for s in graph.signature.inputs
            )
            graph = replace(graph, signature=replace(graph.signature, inputs=specs))
            settings = {**self._settings, "shapes": None}
            self._evaluator, _ = make_executor(graph, Mode.INFERENCE, **settings)
        return self._evaluator

    # -- parameters -----------------------------------------------------------------------

    def _frozen_arrays(self) -> dict[str, np.ndarray]:
        """Parameters that are not trained, and state that nothing updates."""
        return {
            s.name: s.initial
            for s in self.graph.signature.inputs
            if s.initial is not None and s.role in (Role.PARAMETER, Role.STATE) and s.name not in self.state
        }

    def parameters(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters, trained or not, by name."""
        names = [s.name for s in self.graph.signature.inputs if s.role is Role.PARAMETER]
        frozen = self._frozen_arrays()
        return {name: np.array(self.state.get(name, frozen.get(name)), order="C") for name in names}

    def inference_graph(self) -> Graph:
        """Return the model with the trained parameters and statistics: compile or export it."""
        current = {name: np.array(array, order="C") for name, array in self.state.items()}
        return without_updates(with_values(self.graph, current))

    # -- checkpoints -------------------------------------------------------------------------

    def save(self, path: str | PathLike) -> Path:
        """Write parameters, statistics, random key, optimizer state and position in ``fit`` to one file, atomically.

        Returns the file's path. Any safetensors reader opens it.
        """
        position = self.position.at(self.steps) if self.position is not None else None
        scalars: dict[str, checkpoint.Scalar] = {
            "dlc.training": _FORMAT,
            "graph": self.graph.name,
            "steps": self._count,
            "scheduled": self._schedule is not None,
            "position": json.dumps(position.to_json()) if position is not None else None,
        }
        return checkpoint.save(path, {**self._frozen_arrays(), **self.state}, scalars)

    def load(self, path: str | PathLike) -> None:
        """Restore what ``save`` wrote, so that training goes on bit for bit (``fit(..., resume=True)``).

        Raises CheckpointError, and changes nothing, if the file is damaged or does not fit.
        """
        saved = checkpoint.load(path)
        if saved.scalars.get("dlc.training") != _FORMAT:
            raise CheckpointError(f"{path} is not a checkpoint of a training step of this version of dlc")
        fixed = self._frozen_arrays()
        types = {name: tensor_type(a.dtype, a.shape) for name, a in {**fixed, **self.state}.items()}
        checkpoint.check_fit(saved.tensors, types)
        for name, array in fixed.items():
            if not np.array_equal(saved.tensors[name], array, equal_nan=array.dtype.kind == "f"):
                raise CheckpointError(
                    f"{path}: {name!r} is not trained here and differs from the checkpoint's; build the step from a "
                    "graph that has the checkpoint's value (load_state)"
                )
        for name, array in self.state.items():
            array[...] = saved.tensors[name]
        self._count = int(saved.scalars["steps"])  # type: ignore[arg-type]
        if not saved.scalars["scheduled"]:
            self._schedule = None
        text = saved.scalars["position"]
        self.position = Position.from_json(json.loads(str(text))) if text is not None else None

    def __repr__(self) -> str:
        return f"TrainingStep({self.graph.name!r}, {len(self.trained)} trained parameters, {self.steps} steps done)"


def without_updates(graph: Graph) -> Graph:
    """Drop the updates of state, except of a random key that something other than dropout draws from."""
    replaced = graph.signature.replacements
    updates = {graph.output(output): name for output, name in replaced.items()}
    kept = set()
    for value, name in updates.items():
        source = graph.input(name)
        readers = [n for n in graph.nodes if source in n.inputs and value not in n.outputs]
        if name.endswith("random_key") and any(not n.op.has(Trait.MODAL) for n in readers):
            kept.add(name)
    pairs = [
        (output, value)
        for output, value in zip(graph.signature.outputs, graph.outputs, strict=True)
        if replaced.get(output) is None or replaced[output] in kept
    ]
    specs = tuple(s if s.name in kept else replace(s, replaced_by=None) for s in graph.signature.inputs)
    signature = replace(graph.signature, inputs=specs, outputs=tuple(o for o, _ in pairs))
    return replace(graph, outputs=tuple(v for _, v in pairs), signature=signature)
