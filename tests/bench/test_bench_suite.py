"""The benchmark: what it counts, how it compares, what it writes, and that one failing contender ends nothing."""

import json
import os
from math import prod

import numpy as np
import pytest

from bench import prepare, rounds
from bench.floor import floor_ms
from bench.operations import count_flops, weight_bytes
from bench.report import markdown, means, number
from bench.run import load_results
from bench.suite import INFERENCE, PEERS, RIVALS, TRAINING, Case, Peer, cases, peers_of
from dlc.frontends import models
from dlc.ir.graph import Role
from dlc.passes.pipeline import INFERENCE as PASSES

MACHINE = {"threads": 1, "peak_flops": 1e11, "bandwidth": {"1000": 5e9, "1000000": 2e9}}
SETTINGS = rounds.Settings(1, 2, 0.01, 60.0)
CASE = Case("tiny", INFERENCE, "mlp", 2, {"features": 6, "hidden": (5, 4)})


def test_the_cases_have_models_and_peers():
    for name, case in cases().items():
        assert name == case.name and case.kind in (INFERENCE, TRAINING)
        assert case.light or case.model in models.names()
        present = {peer.name for peer in peers_of(case, ("dlc", *RIVALS[case.kind]))}
        assert "dlc" in present and len(present) >= 3


def test_torch_compile_is_measured_where_it_is_asked_for():
    names = ("dlc", "torch-compile")
    assert [p.name for p in peers_of(cases()["resnet50"], names)] == ["dlc", "torch-compile"]
    assert [p.name for p in peers_of(cases()["vit_b"], names)] == ["dlc"]
    assert [p.name for p in peers_of(cases()["vit_b"], names, compile_all=True)] == ["dlc", "torch-compile"]


def test_operations_are_those_of_the_contractions():
    layers = ((784, 512), (512, 512), (512, 10))
    graph = models.build("mlp", batch=64, hidden=(512, 512))
    assert count_flops(graph, PASSES) == sum(2 * 64 * prod(layer) for layer in layers)
    # The known count of ResNet-18: 1.814 billion multiply-adds.
    assert count_flops(models.build("resnet18", batch=1), PASSES) == pytest.approx(2 * 1.814e9, rel=1e-3)


def test_of_a_table_only_the_rows_looked_up_are_read():
    config = models.BertConfig(vocabulary=1000, features=8, layers=1, heads=2, intermediate=16, positions=100)
    graph = models.bert(config, batch=2, sequence=5).ir
    parameters = sum(s.initial.size for _, s in graph.inputs_with(Role.PARAMETER))
    key = 8  # two words of the random key
    tables = (1000 + 100 + 2) * 8
    assert weight_bytes(graph) == 4 * (parameters - tables + (2 * 5 + 5 + 1) * 8) + key
    tied = models.build("small_gpt", batch=1, sequence=5)  # the output layer reads the whole table
    whole = sum(s.initial.size for _, s in tied.inputs_with(Role.PARAMETER))
    assert weight_bytes(tied) == 4 * (whole - (256 - 5) * 128)


def test_a_recurrent_model_counts_its_iterations():
    time, batch, features, hidden = 7, 3, 5, 12
    graph = models.build("lstm", batch=batch, sequence=time, features=features, hidden=hidden, layers=1)
    steps = time * 2 * batch * 4 * hidden * (features + hidden)
    assert count_flops(graph, PASSES) == steps + 2 * batch * hidden * 10


def test_the_floor_is_the_larger_bound():
    assert floor_ms(1e9, 10, MACHINE) == pytest.approx(10.0)
    assert floor_ms(0, 500, MACHINE) == pytest.approx(1e3 * 500 / 5e9)
    assert floor_ms(0, 5000, MACHINE) == pytest.approx(1e3 * 5000 / 2e9)
    assert floor_ms(0, 10**7, MACHINE) == pytest.approx(1e3 * 10**7 / 2e9)  # larger than all that was measured


def test_errors_are_relative_and_shapes_must_agree():
    wanted = [np.array([1.0, -4.0]), np.array([10.0])]
    assert rounds.output_error([np.array([1.0, -4.4]), np.array([10.5])], wanted) == pytest.approx(0.1)
    assert rounds.output_error([np.array([1.0, np.nan]), np.array([10.0])], wanted) == float("inf")
    assert rounds.output_error([np.zeros((2, 1)), np.array([10.0])], wanted) == float("inf")
    assert rounds.loss_error([np.array([2.0, 1.1])], [np.array([2.0, 1.0])]) == pytest.approx(0.1)
    assert rounds.loss_error([np.array([2.0])], [np.array([2.0, 1.0])]) == float("inf")


def test_speed_is_that_of_the_fastest_rival():
    times = {"dlc": [1.0, 2.0, 1.0], "onnxruntime": [3.0, 6.0, 2.0], "openvino": [2.0, 4.0, 8.0], "torch": [1, 1, 1]}
    found = rounds.speeds(CASE, {name: {"round_p50_ms": values} for name, values in times.items()})
    assert found["onnxruntime"] == {"median": 3.0, "low": 2.0, "high": 3.0}
    assert found["best rival"] == found["openvino"] == {"median": 2.0, "low": 2.0, "high": 8.0}
    assert rounds.speeds(CASE, {"dlc": {"failed": "reason"}, "torch": {"round_p50_ms": [1.0]}}) == {}
    narrow = {"dlc-bf16": {"round_p50_ms": [1.0, 2.0]}, "openvino-bf16": {"round_p50_ms": [2.0, 4.0]}}
    assert rounds.speeds(CASE, narrow) == {"bfloat16": {"median": 2.0, "low": 2.0, "high": 2.0}}


def test_means_compare_equal_precisions():
    names = ("dlc", "onnxruntime", "dlc-bf16", "openvino-bf16")
    speeds = {name: {"median": 2.0} for name in (*names[1:], "best rival", "bfloat16")}
    report = {"case": {"name": "m"}, "contenders": {name: {} for name in names}, "speeds": speeds}
    assert [line.partition(":")[0] for line in means(INFERENCE, [report])] == [
        "- Against onnxruntime",
        "- Against the fastest of onnxruntime, openvino",
        "- dlc-bf16 against openvino-bf16",
    ]


def test_numbers_have_three_digits():
    assert [number(v) for v in (123.4, 12.34, 1.234, 0.1234, 0.00001234)] == ["123", "12.3", "1.23", "0.123", "0.0000"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "FILES", tmp_path)
    monkeypatch.setattr(rounds, "FILES", tmp_path)
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.torch
def test_a_case_is_measured_and_a_failing_contender_reported(files):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    assert prepare.prepared(CASE) is None
    facts = prepare.prepare(CASE, 1)
    assert prepare.prepared(CASE) == facts
    assert prepare.prepared(Case("tiny", INFERENCE, "mlp", 3, CASE.options)) is None  # another definition
    peers = [Peer("dlc", "dlc", INFERENCE), Peer("onnxruntime", "onnxruntime", INFERENCE)]
    report = rounds.measure_case(CASE, [*peers, Peer("bad", "bench.peers.absent", INFERENCE)], facts, SETTINGS, MACHINE)
    assert list(report["contenders"]) == ["dlc", "onnxruntime", "bad"]
    for name in ("dlc", "onnxruntime"):
        found = report["contenders"][name]
        assert found["error"] < 1e-5 and len(found["round_p50_ms"]) == SETTINGS.rounds
    assert "bench.peers.absent" in report["contenders"]["bad"]["failed"]
    assert report["speeds"]["best rival"] == report["speeds"]["onnxruntime"]
    assert report["gflop"] == pytest.approx(2 * 2 * (6 * 5 + 5 * 4 + 4 * 10) / 1e9)
    check_written(files, report)


def check_written(folder, report):
    results = {
        "date": "today", "revision": "abc",
        "machine": {"processor": "P", "processors": 2, "system": "S", "python": "3"},
        "settings": {"threads": 1, "rounds": 2, "seconds": 0.01, "limit": 60.0}, "floor": MACHINE,
        "cases": {"tiny": report}, "skipped": {"other": "no time left"},
    }  # fmt: skip
    text = markdown(results)
    assert "| tiny | 0.00 |" in text and "- tiny, bad: " in text and "- other: no time left" in text
    assert "Against onnxruntime: geometric mean" in text
    path = folder / "results.json"
    path.write_text(json.dumps(results))
    assert load_results(path, SETTINGS) == json.loads(json.dumps(results["cases"]))
    assert load_results(path, rounds.Settings(2, 2, 0.01, 60.0)) == {}
    assert load_results(folder / "absent.json", SETTINGS) == {}


@pytest.mark.torch
def test_contenders_for_training_agree(files):
    pytest.importorskip("torch")
    case = cases()["train_lstm"]
    small = Case(case.name, TRAINING, "lstm", 4, {"sequence": 5, "features": 6, "hidden": 8, "layers": 1})
    facts = prepare.prepare(small, 1)
    shared = prepare.folder_of(small)
    from bench.peers import dlc_training, torch_training
    from dlc.cli.contenders import Request
    from dlc.cli.worker import read_feeds

    feeds = read_feeds(str(shared / "inputs.npz"))
    wanted = np.load(shared / "reference.npz")["0"]
    options = {"case": case.name, "weights": str(shared / "weights.npz"), "optimizer": "fused", "compile": False}
    for module in (dlc_training, torch_training):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "cases", lambda: {case.name: small})
            contender = module.open_model(Request("", 1, prepare.SEED, facts["shapes"], options))
        for chosen in (0, 0, 0, 1):
            found = contender.run(feeds[chosen])
        assert rounds.loss_error([found["losses"]], [wanted]) < 1e-5
    assert len(set(wanted)) == 4


@pytest.mark.slow
@pytest.mark.torch
def test_jax_computes_the_same_answers_and_losses(files):
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    from bench import jax_models
    from bench.peers import jax_cpu, torch_inference, torch_training
    from dlc.cli.contenders import Request
    from dlc.cli.worker import read_feeds

    assert {p.models for p in PEERS if p.name == "jax"} == {tuple(jax_models.MODELS)}
    recurrent = {"sequence": 5, "features": 6, "hidden": 8, "layers": 2}
    inference = {"lstm": recurrent, "resnet50": {"size": 32}, "mlp": {"hidden": (5, 4)}}
    training = {"cnn": {}, "resnet18": {"size": 32}, "gpt_4x256": {"sequence": 5}}
    coarse = ("resnet18",)  # Adam's first updates follow the signs of gradients, rounding included
    affinity = os.sched_getaffinity(0)
    for kind, chosen, theirs in ((INFERENCE, inference, torch_inference), (TRAINING, training, torch_training)):
        for model, options in chosen.items():
            case = Case(model, kind, model, 4, options)
            facts = prepare.prepare(case, 1)
            folder = prepare.folder_of(case)
            feeds = read_feeds(str(folder / "inputs.npz"))
            given = {"case": model, "weights": str(folder / "weights.npz"), "optimizer": "default", "compile": False}
            request = Request("", len(affinity), prepare.SEED, facts["shapes"], given)
            answers = []
            for module in (jax_cpu, theirs):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(module, "cases", lambda case=case: {case.name: case})
                    contender = module.open_model(request)
                for taken in (0, 0, 0, 1):
                    found = contender.run(feeds[taken])
                answers.append(list(found.values()))
            assert rounds.output_error(answers[0], answers[1]) < (0.2 if model in coarse else 1e-4), model
            if kind == TRAINING:
                assert answers[0][0][0] == pytest.approx(answers[1][0][0], rel=1e-5), model
    assert os.sched_getaffinity(0) == affinity


def test_weights_must_match_by_name():
    torch = pytest.importorskip("torch")
    from bench.torch_models import load_weights

    module = torch.nn.Linear(2, 3)
    weight, bias = np.ones((3, 2), np.float32), np.ones(3, np.float32)
    load_weights(module, {"weight": weight, "bias": bias, "random_key": np.zeros(2, np.uint32)})
    assert torch.equal(module.weight, torch.ones(3, 2))
    with pytest.raises(ValueError, match="bias"):
        load_weights(module, {"weight": weight})
    with pytest.raises(ValueError, match="scale"):
        load_weights(module, {"weight": weight, "bias": bias, "scale": bias})
