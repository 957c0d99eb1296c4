"""The pass manager: verification, records, dumps, notes on failure."""

from __future__ import annotations

import pytest

from dlc.errors import VerificationError
from dlc.ir.parse_graph import parse_graph
from dlc.ir.structure import same_graph
from dlc.passes.cleanup import cleanup
from dlc.passes.manager import Instruments, Pass, run_pipeline
from tests.passes.pass_text import graph_of

TEXT = 'input %x: float32[3] data\n%1 = neg(%x)\n%2 = neg(%x)\n%3 = add(%1, %2)\noutput "y" = %3'


def same(graph):
    return graph


def drop_first(graph):
    return graph.with_nodes(graph.nodes[1:])


def fail(graph, options):
    raise ValueError(f"no {options}")


def test_records_say_what_happened():
    graph, records = run_pipeline(graph_of(TEXT), [Pass("same", same), Pass("cleanup", cleanup)])
    assert [(r.name, r.nodes_before, r.nodes_after, r.changed) for r in records] == [
        ("same", 3, 3, False),
        ("cleanup", 3, 2, True),
    ]
    assert len(graph.nodes) == 2
    assert all(r.milliseconds >= 0 for r in records)


@pytest.mark.parametrize("level", [1, 2])
def test_an_invalid_result_names_its_pass(level):
    passes = [Pass("cleanup", cleanup), Pass("broken", drop_first), Pass("after", same)]
    with pytest.raises(VerificationError) as caught:
        run_pipeline(graph_of(TEXT), passes, Instruments(verify=level))
    assert any("'broken'" in note and "before it: cleanup" in note for note in caught.value.__notes__)


def test_level_0_checks_the_ends():
    with pytest.raises(VerificationError):
        run_pipeline(graph_of(TEXT), [Pass("broken", drop_first), Pass("after", same)], Instruments(verify=0))


def test_an_exception_gets_the_pass_as_note():
    with pytest.raises(ValueError, match="no luck") as caught:
        run_pipeline(graph_of(TEXT), [Pass("same", same), Pass("fail", fail, "luck")])
    assert "in pass 'fail'" in caught.value.__notes__[0] and "same" in caught.value.__notes__[0]


def test_dumps_are_numbered_graphs(tmp_path):
    graph, _ = run_pipeline(
        graph_of(TEXT), [Pass("same", same), Pass("cleanup", cleanup)], Instruments(dump=tmp_path / "dump")
    )
    assert sorted(p.name for p in (tmp_path / "dump").iterdir()) == ["00-input.txt", "02-cleanup.txt"]
    assert same_graph(parse_graph((tmp_path / "dump" / "02-cleanup.txt").read_text()), graph)


def test_observers_see_every_pass():
    seen = []
    passes = [Pass("same", same), Pass("cleanup", cleanup)]
    run_pipeline(graph_of(TEXT), passes, Instruments(observe=lambda name, graph: seen.append((name, len(graph.nodes)))))
    assert seen == [("same", 3), ("cleanup", 2)]
