"""Memory plans against the program they come from: both are simulated, results and states must agree."""

import random
from dataclasses import replace

import numpy as np
import pytest

from dlc.ir.expr import Var, const
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind
from dlc.ir.plan import KernelStep, LoopBegin, LoopEnd, SlotKind
from dlc.ir.program import CallStep, CopyStep, Program, ProgramBuffer, View
from dlc.ir.types import int64, tensor_type
from dlc.passes.memory.offsets import ALIGNMENT
from dlc.passes.memory.plan import plan_memory

WORDS = 4


def kernel(reads, name="mix", size=WORDS):
    buffers = tuple(Buffer(f"r{k}", int64, size) for k in range(reads))
    return Kernel(name, (*buffers, Buffer("w", int64, size, writable=True)), (), ())


def mix(arrays):
    """What every test kernel does: a mix of its operands that depends on their order, element by element."""
    total = np.full(WORDS, 17, np.int64)
    for number, array in enumerate(arrays):
        total = total * 31 + array * (number + 1)
    return total


COPY = Kernel("copy", (Buffer("r0", int64, WORDS), Buffer("w", int64, WORDS, writable=True)), (), ())


def simulate_program(program, initial):
    memory = {
        n: initial.get(b.name, np.zeros(int(b.type.size), np.int64)).copy() for n, b in enumerate(program.buffers)
    }

    def window(view, iterations):
        start = (view.offset + sum(i * s for i, s in zip(iterations, view.strides))) // 8
        return memory[view.buffer][start : start + WORDS]

    def step(number, iterations):
        match program.steps[number]:
            case CallStep() as call:
                result = mix([window(v, iterations).copy() for v in call.reads])
                for view in call.writes:
                    window(view, iterations)[:] = result
            case CopyStep(source=source, target=target):
                window(target, iterations)[:] = window(source, iterations).copy()

    walk(program.steps, step)
    return {b.name: memory[n] for n, b in enumerate(program.buffers) if b.kind in (SlotKind.OUTPUT, SlotKind.STATE)}


def simulate_plan(plan, initial):
    memory = {}
    for number, slot in enumerate(plan.slots):
        words = max(slot.nbytes // 8, 0)
        memory[number] = initial.get(slot.name, np.full(words, -999, np.int64)).copy()

    def window(argument, iterations):
        start = (argument.offset + sum(i * s for i, s in zip(iterations, argument.strides))) // 8
        assert start >= 0 and start + WORDS <= len(memory[argument.slot])
        return memory[argument.slot][start : start + WORDS]

    def step(number, iterations):
        call = plan.steps[number]
        arguments = [window(a, iterations) for a in call.arguments]
        reads = [a.copy() for a in arguments[:-1]]
        arguments[-1][:] = reads[0] if call.symbol == "copy" else mix(reads)

    walk(plan.steps, step)
    return {s.name: memory[n] for n, s in enumerate(plan.slots) if s.kind in (SlotKind.OUTPUT, SlotKind.STATE)}


def walk(steps, run):
    def block(begin, end, iterations):
        position = begin
        while position < end:
            if isinstance(steps[position], LoopBegin):
                depth, close = 1, position
                while depth:
                    close += 1
                    depth += isinstance(steps[close], LoopBegin) - isinstance(steps[close], LoopEnd)
                for iteration in range(steps[position].count):
                    block(position + 1, close, (*iterations, iteration))
                position = close + 1
            else:
                run(position, iterations)
                position += 1

    block(0, len(steps), ())


class ProgramMaker:
    """Random programs of the shapes that assembling makes: chains, loops with carries and stacked results, state."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.buffers, self.steps, self.initial = [], [], {}
        self.known = []

    def buffer(self, kind, name, words=WORDS):
        self.buffers.append(ProgramBuffer(kind, f"{name}{len(self.buffers)}", tensor_type("int64", (words,))))
        if kind in (SlotKind.INPUT, SlotKind.STATE, SlotKind.CONSTANT):
            self.initial[self.buffers[-1].name] = np.arange(words, dtype=np.int64) * self.random.randrange(1, 99) + len(
                self.buffers
            )
        return View(len(self.buffers) - 1)

    def call(self, pool):
        operands = [self.random.choice(pool) for _ in range(self.random.randrange(1, 4))]
        result = self.buffer(SlotKind.ARENA, "t")
        pairs = tuple((len(operands), k) for k in range(len(operands)) if self.random.random() < 0.8)
        self.steps.append(CallStep(kernel(len(operands)), (*operands, result), in_place=pairs))
        return result

    def chain(self, pool, count):
        pool = list(pool)
        for _ in range(count):
            pool.append(self.call(pool[-4:] if self.random.random() < 0.7 else pool))
        return pool

    def copy(self, source, target):
        self.steps.append(CopyStep(COPY, source, target, WORDS * 8))

    def loop(self, pool, depth):
        count, carries = self.random.randrange(1, 4), self.random.randrange(1, 3)
        holders = []
        for _ in range(carries):
            holders.append(self.buffer(SlotKind.ARENA, "carry"))
            self.copy(self.random.choice(pool), holders[-1])
        stacked = self.buffer(SlotKind.ARENA, "ys", WORDS * count)
        self.steps.append(LoopBegin(count))
        inner = self.chain([*pool[-3:], *holders], self.random.randrange(1, 5))
        if depth < 2 and self.random.random() < 0.4:
            inner.append(self.loop(inner, depth + 1))
        strides = (0,) * depth + (WORDS * 8,)
        self.copy(self.random.choice(inner[-2:]), View(stacked.buffer, 0, strides))
        fresh = [v for v in inner if v not in holders and self.buffers[v.buffer].kind is SlotKind.ARENA]
        for holder in holders:
            new = self.random.choice(fresh)
            if not any(isinstance(s, LoopEnd) for s in self.steps[-3:]):
                self.copy(new, holder)
        self.steps.append(LoopEnd())
        self.known.append(View(stacked.buffer, WORDS * 8 * (count - 1)))
        return self.random.choice(holders)

    def make(self):
        pool = [self.buffer(SlotKind.INPUT, "in"), self.buffer(SlotKind.CONSTANT, "weight")]
        states = [self.buffer(SlotKind.STATE, "state") for _ in range(2)]
        pool += states
        pool = self.chain(pool, self.random.randrange(1, 6))
        for _ in range(self.random.randrange(0, 3)):
            pool.append(self.loop(pool, 0))
            pool += self.known
            self.known = []
            pool = self.chain(pool, self.random.randrange(1, 5))
        for _ in range(2):
            self.copy(self.random.choice(pool), self.buffer(SlotKind.OUTPUT, "out"))
        fresh = [v for v in pool if self.buffers[v.buffer].kind is SlotKind.ARENA]
        for state in states:
            self.copy(self.random.choice(fresh[-3:]), state)
        return Program(tuple(self.buffers), tuple(self.steps))


@pytest.mark.parametrize("seed", range(400))
def test_plan_computes_what_the_program_does(seed):
    print(f"seed {seed}")
    maker = ProgramMaker(seed)
    program = maker.make()
    plan = plan_memory(program, lambda k: k.name)
    expected, got = simulate_program(program, maker.initial), simulate_plan(plan, maker.initial)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=f"seed {seed}, {name}\n{plan}")


def chain_program(length):
    buffers = [ProgramBuffer(SlotKind.INPUT, "in", tensor_type("int64", (WORDS,)))]
    steps = []
    for number in range(length):
        buffers.append(ProgramBuffer(SlotKind.ARENA, "t", tensor_type("int64", (WORDS,))))
        steps.append(CallStep(kernel(1), (View(number), View(number + 1)), in_place=((1, 0),)))
    buffers.append(ProgramBuffer(SlotKind.OUTPUT, "out", tensor_type("int64", (WORDS,))))
    steps.append(CopyStep(COPY, View(length), View(length + 1), WORDS * 8))
    return Program(tuple(buffers), tuple(steps))


def test_a_chain_runs_in_place_and_ends_in_the_output():
    plan = plan_memory(chain_program(10), lambda k: k.name)
    assert plan.arena_bytes == ALIGNMENT
    assert len(plan.steps) == 10
    last = plan.steps[-1]
    assert isinstance(last, KernelStep) and plan.slots[last.arguments[-1].slot].kind is SlotKind.OUTPUT


def test_a_long_chain_is_planned_without_recursion():
    plan = plan_memory(chain_program(50_000), lambda k: k.name)
    assert len(plan.steps) == 50_000 and plan.arena_bytes == ALIGNMENT


def test_state_is_updated_in_place():
    state = ProgramBuffer(SlotKind.STATE, "w", tensor_type("int64", (WORDS,)))
    gradient = ProgramBuffer(SlotKind.INPUT, "g", tensor_type("int64", (WORDS,)))
    fresh = ProgramBuffer(SlotKind.ARENA, "new", tensor_type("int64", (WORDS,)))
    steps = (
        CallStep(kernel(2), (View(0), View(1), View(2)), in_place=((2, 0),)),
        CopyStep(COPY, View(2), View(0), WORDS * 8),
    )
    plan = plan_memory(Program((state, gradient, fresh), steps), lambda k: k.name)
    assert plan.arena_bytes == 0 and len(plan.steps) == 1
    assert plan.steps[0].commits and plan.steps[0].arguments[0] == plan.steps[0].arguments[2]


def loop_program(split, sizes=(WORDS, WORDS), between=()):
    """A loop of two calls: the first makes a temporary of a stack's old row, the second its new row of both."""
    row = WORDS * 8
    stack = ProgramBuffer(SlotKind.OUTPUT, "ys", tensor_type("int64", (6 * WORDS,)))
    old, new = View(0, 0, (row,)), View(0, row, (row,))
    temporary = ProgramBuffer(SlotKind.ARENA, "t", tensor_type("int64", (WORDS,)))
    weight = ProgramBuffer(SlotKind.CONSTANT, "w", tensor_type("int64", (WORDS,)))
    calls = []
    for size, views in zip(sizes, ((old, View(2), View(1)), (View(1), old, new)), strict=True):
        loops = (For(Var("task"), const(2), LoopKind.PARALLEL, ()),)
        calls.append(CallStep(replace(kernel(2, size=size), body=loops), views, split=split))
    steps = (LoopBegin(5), calls[0], *between, calls[1], LoopEnd())
    return Program((stack, temporary, weight), steps)


def chains_of(program):
    return [s.chains for s in plan_memory(program, lambda k: k.name).steps if isinstance(s, LoopBegin)]


def test_a_loop_whose_tasks_stay_within_their_parts_is_one_of_chains():
    assert chains_of(loop_program((0, 1, 2))) == [True]
    assert chains_of(loop_program((0, 2))) == [False], "the second call reads an old row whole"
    assert chains_of(loop_program((0, 1, 2), sizes=(WORDS, WORDS // 2))) == [False], "parts of different sizes"
    other = CallStep(kernel(1), (View(2), View(1)), split=(0, 1))
    assert chains_of(loop_program((0, 1, 2), between=(other,))) == [False], "a step with another number of tasks"


def test_a_step_counts_the_bytes_that_one_call_touches():
    """Of a sequence in a loop that is one iteration's window, of an operand read twice one; a view is not the whole."""
    sequence = ProgramBuffer(SlotKind.INPUT, "xs", tensor_type("int64", (5 * WORDS,)))
    weight = ProgramBuffer(SlotKind.CONSTANT, "w", tensor_type("int64", (WORDS,)))
    stacked = ProgramBuffer(SlotKind.OUTPUT, "ys", tensor_type("int64", (5 * WORDS,)))
    row = WORDS * 8
    steps = (
        LoopBegin(5),
        CallStep(kernel(3), (View(0, 0, (row,)), View(1), View(1), View(2, 0, (row,)))),
        LoopEnd(),
        CallStep(kernel(2), (View(2), View(2, row), View(2, 4 * row))),
    )
    plan = plan_memory(Program((sequence, weight, stacked), steps), lambda k: k.name)
    assert [step.nbytes for step in plan.steps if isinstance(step, KernelStep)] == [3 * row, 3 * row]
