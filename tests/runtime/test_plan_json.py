"""Stored plans come back equal."""

import random

import pytest

from dlc.errors import DlcError
from dlc.ir.dims import symbol
from dlc.ir.plan import Argument, KernelStep, LoopBegin, LoopEnd, Plan, Slot, SlotKind
from dlc.ir.types import DTYPES, tensor_type
from dlc.runtime.plan_json import plan_from_json, plan_to_json


def random_plan(rng: random.Random) -> Plan:
    names = list(DTYPES)
    slots = tuple(
        Slot(
            rng.choice(list(SlotKind)),
            rng.choice(["", "x", 'quo"te', "naïve", "a/b:0"]),
            rng.randrange(1 << 40),
            rng.choice([None, tensor_type(rng.choice(names), [rng.randrange(9) for _ in range(rng.randrange(4))])]),
        )
        for _ in range(rng.randrange(5))
    )
    steps = []
    for _ in range(rng.randrange(20)):
        arguments = tuple(
            Argument(
                rng.randrange(5), rng.randrange(1 << 40), tuple(rng.randrange(-99, 99) for _ in range(rng.randrange(4)))
            )
            for _ in range(rng.randrange(4))
        )
        steps.append(
            rng.choice(
                [
                    LoopBegin(rng.randrange(1000), rng.random() < 0.5),
                    LoopEnd(),
                    KernelStep("k", arguments, rng.randrange(100), "label", 1 << 60, 7, rng.random() < 0.5),
                    KernelStep("other", arguments, 1),
                ]
            )
        )
    return Plan(slots, tuple(steps), rng.randrange(1 << 50), ("peak", "of", "it")[: rng.randrange(4)])


def test_round_trip():
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(100):
        plan = random_plan(rng)
        assert plan_from_json(plan_to_json(plan)) == plan


def test_symbolic_types_round_trip():
    kind = tensor_type("float32", (symbol("n") * 2 + 1, symbol("n") // 3, 4))
    plan = Plan((Slot(SlotKind.INPUT, "x", 0, kind),), (), 0)
    assert plan_from_json(plan_to_json(plan)) == plan


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"format": 99}', '{"format": 1, "slots": [[]], "texts": [], "steps": []}']
)
def test_anything_else_is_a_typed_error(text):
    with pytest.raises(DlcError, match="stored plan"):
        plan_from_json(text)
