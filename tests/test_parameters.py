"""Counts of trainable weights against torch's own modules, ONNX, and the notes."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import save_file
from torch import nn

from glassgate import GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.folder.counting import count_folder
from glassgate.layers import GRU, AdaptiveEmbedding, AdaptiveSoftmax
from glassgate.parameters import Network, count

EXERCISE = Network(cell="lstm", input=10, hidden=20, vocabulary=100, bias="none")


def test_the_exercise_of_the_notes() -> None:
    counted = count(EXERCISE)
    assert (counted.cell, counted.output, counted.embedding) == (2400, 2000, 1000)
    assert (counted.total, counted.with_embedding) == (4400, 5400)
    rows = [(matrix.name, matrix.gate, matrix.shape, matrix.count) for matrix in counted.matrices]
    gates = {"f": "forget", "i": "input", "g": "candidate", "o": "output"}
    assert rows == [
        *((f"U_{letter}", gate, (20, 10), 200) for letter, gate in gates.items()),
        *((f"W_{letter}", gate, (20, 20), 400) for letter, gate in gates.items()),
        ("V", None, (100, 20), 2000),
        ("E", None, (100, 10), 1000),
    ]
    assert [str(reason) for reason in counted.reasoning] == [
        "layer 0: 4 gates x 20 x (10 + 20) = 2,400",
        "output V: 100 words x 20 = 2,000",
        "embedding: 100 words x 10 = 1,000",
    ]


def test_a_gate_of_the_notes_has_21_weights_and_3_biases() -> None:
    counted = count(Network(cell="lstm", input=4, hidden=3, bias="single"))
    gates = Counter[tuple[str | None, bool]]()
    for matrix in counted.matrices:
        gates[matrix.gate, matrix.role == "bias"] += matrix.count
    names = ("forget", "input", "candidate", "output")
    assert gates == {(name, bias): 3 if bias else 21 for name in names for bias in (False, True)}
    assert counted.total == 84 + 12


# What the research says of this network in other libraries, worked out by hand.
@pytest.mark.parametrize(
    ("changes", "cell", "total", "with_embedding"),
    [
        ({"bias": "single"}, 2480, 4580, 5580),  # Keras' cell; c is 100
        ({"bias": "double"}, 2560, 4660, 5660),  # torch's
        ({"peepholes": True}, 2460, 4460, 5460),
        ({"cell": "gru"}, 1800, 3800, 4800),
        ({"projection": 10, "tied": True}, 1800, 2800, 2800),
        ({"tied": True}, 2400, 2400 + 1000 + 200, 3600),  # V is 100 x 10, P is 10 x 20
        ({"cell": "gru", "bias": "single", "reset": "before"}, 1860, 3960, 4960),
        ({"cell": "gru", "bias": "single", "reset": "after"}, 1880, 3980, 4980),
        ({"cell": "gru", "bias": "double", "reset": "before"}, 1920, 4020, 5020),
        ({"cell": "gru", "bias": "double", "reset": "after"}, 1920, 4020, 5020),
    ],
)
def test_variations_of_the_exercise(
    changes: dict[str, Any], cell: int, total: int, with_embedding: int
) -> None:
    counted = count(replace(EXERCISE, **changes))
    assert (counted.cell, counted.total, counted.with_embedding) == (cell, total, with_embedding)


def test_as_dict_is_json_with_the_agreed_keys_first() -> None:
    table = json.loads(json.dumps(count(EXERCISE).as_dict()))
    assert list(table)[:5] == ["cell", "output", "embedding", "total", "matrices"]
    assert table["matrices"][4] == {
        "name": "W_f",
        "tensor": "rnn.weight_hh_l0",
        "role": "recurrent weights",
        "gate": "forget",
        "layer": 0,
        "direction": "forward",
        "shape": [20, 20],
        "count": 400,
    }
    assert table["bytes"] == {"fp32": 17600, "bf16": 8800, "int8": 4400}
    assert table["bytes_with_embedding"] == {"fp32": 21600, "bf16": 10800, "int8": 5400}


def random_network(draw: random.Random) -> Network:
    lstm = draw.random() < 0.6
    hidden = draw.randint(2, 40)
    directions = draw.choice([1, 2])
    projection = draw.randint(1, hidden - 1) if lstm and draw.random() < 0.4 else None
    vocabulary = draw.randint(1, 200) if draw.random() < 0.8 else None
    tied = vocabulary is not None and draw.random() < 0.5
    fitting = directions * (projection or hidden)  # a width that needs no P in half of the cases
    return Network(
        cell="lstm" if lstm else "gru",
        input=fitting if draw.random() < 0.5 else draw.randint(1, 40),
        hidden=hidden,
        layers=draw.randint(1, 4),
        directions=directions,
        vocabulary=vocabulary,
        bias=draw.choice(["none", "double"]),
        tied=tied,
        projection=projection,
        reset="before" if lstm else draw.choice(["before", "after"]),
    )


def torch_module(network: Network) -> nn.Module:
    """The same network of torch's own parts; on the meta device, where weights cost nothing."""
    bias = network.bias == "double"
    sizes: dict[str, Any] = {
        "input_size": network.input,
        "hidden_size": network.hidden,
        "num_layers": network.layers,
        "bias": bias,
        "bidirectional": network.directions == 2,
        "device": "meta",
    }
    module = nn.Module()
    width = network.hidden * network.directions
    if network.cell == "gru":
        module.rnn = nn.GRU(**sizes)
    else:
        module.rnn = nn.LSTM(**sizes, proj_size=network.projection or 0)
        width = (network.projection or network.hidden) * network.directions
    if network.vocabulary is not None:
        module.embedding = nn.Embedding(network.vocabulary, network.input, device="meta")
        if network.tied and width != network.input:
            module.projection = nn.Linear(width, network.input, bias=False, device="meta")
            width = network.input
        module.output = nn.Linear(width, network.vocabulary, bias=bias, device="meta")
        if network.tied:
            module.output.weight = module.embedding.weight
    return module


def test_hundreds_of_random_networks_are_counted_as_torch_counts_them() -> None:
    draw = random.Random(0)
    kinds = set()
    for _ in range(600):
        network = random_network(draw)
        module = torch_module(network)
        counted = count(network)
        # torch goes through a shared parameter once, unless it is asked for every name.
        assert counted.with_embedding == sum(p.numel() for p in module.parameters()), network
        assert counted.cell == sum(p.numel() for p in module.rnn.parameters()), network
        if network.vocabulary:
            embedding = 0 if network.tied else module.embedding.weight.numel()
            assert counted.embedding == embedding, network
            assert counted.total == counted.with_embedding - embedding, network
        own = {
            "embedding.weight" if network.tied and name == "output.weight" else name: tuple(p.shape)
            for name, p in module.named_parameters(remove_duplicate=False)
        }
        assert counted.tensors() == own, network
        if network.bias == "double":
            # One bias for each gate: without torch's second, but for a GRU that resets after the product.
            second = sum(p.numel() for name, p in module.rnn.named_parameters() if "bias_hh" in name)
            kept = second // 3 if network.reset == "after" else 0
            single = count(replace(network, bias="single"))
            assert single.with_embedding == counted.with_embedding - second + kept, network
        kinds.add((network.cell, network.tied, network.bias, network.projection is not None))
    assert len(kinds) == 12  # each kind of network came: 2 x 2 for GRU, 2 x 2 x 2 for LSTM


def test_a_shared_matrix_is_counted_once_where_a_sum_over_names_counts_it_twice() -> None:
    network = Network(cell="lstm", input=650, hidden=650, layers=2, vocabulary=33278, bias="none", tied=True)
    twice = sum(tensor.numel() for tensor in torch_module(network).state_dict().values())
    counted = count(network)
    assert counted.with_embedding == counted.total == twice - 33278 * 650
    assert [matrix.name for matrix in counted.matrices if matrix.part != "cell"] == ["V"]


def test_the_arithmetic_of_the_reasoning_is_right_and_complete() -> None:
    draw = random.Random(1)
    for _ in range(200):
        network = random_network(draw)
        if draw.random() < 0.5:
            network = replace(network, bias="single")
        if network.cell == "lstm" and draw.random() < 0.5:
            network = replace(network, peepholes=True)
        if network.vocabulary and draw.random() < 0.3:
            network = replace(network, clusters=draw.randint(1, 3))
        counted = count(network)
        for reason in counted.reasoning:
            formula = re.sub(r"(?<= )[a-z]{2,}|,", "", reason.formula).replace(" x ", "*").replace("x", "*")
            assert eval(formula) == reason.count, (network, reason)  # digits, *, + and brackets alone
        assert sum(reason.count for reason in counted.reasoning) == counted.with_embedding, network


@pytest.mark.parametrize(("cell", "reset"), [("lstm", "before"), ("gru", "before"), ("gru", "after")])
def test_single_bias_is_as_many_as_the_equations_can_tell_apart(cell: Any, reset: Any) -> None:
    """The rank of d(output)/d(torch's biases): directions along which nothing changes need no weight."""
    torch.manual_seed(0)
    n, m = 3, 2
    network = Network(cell=cell, input=m, hidden=n, reset=reset)
    layer = nn.LSTM(m, n) if cell == "lstm" else GRU(m, n, reset=reset)
    layer = layer.double()
    x = torch.randn(6, 8, m, dtype=torch.float64)
    fixed = {name: p.detach() for name, p in layer.named_parameters()}

    def run(bias_ih: torch.Tensor, bias_hh: torch.Tensor) -> torch.Tensor:
        biases = {"bias_ih_l0": bias_ih, "bias_hh_l0": bias_hh}
        return torch.func.functional_call(layer, fixed | biases, x)[0].flatten()

    start = fixed["bias_ih_l0"], fixed["bias_hh_l0"]
    jacobian = torch.cat(torch.autograd.functional.jacobian(run, start), 1)
    # 144 float64 outputs on up to 24 biases: the smallest true singular value is far above, rounding
    # (some 1e-16 of the largest) far below.
    rank = int(torch.linalg.matrix_rank(jacobian, rtol=1e-9))
    assert sum(row.count for row in count(network).matrices if row.role == "bias") == rank
    double = replace(network, bias="double")
    assert sum(row.count for row in count(double).matrices if row.role == "bias") == jacobian.shape[1]


@pytest.mark.parametrize("directions", [1, 2])
def test_peepholes_are_the_3n_per_direction_that_onnx_takes(directions: int) -> None:
    hidden, m = 5, 4
    network = Network(cell="lstm", input=m, hidden=hidden, directions=directions, peepholes=True, layers=3)
    counts = Counter(
        (row.layer, row.direction, row.gate) for row in count(network).matrices if row.role == "peephole"
    )
    assert len(counts) == 3 * directions * 3
    assert {gate for _, _, gate in counts} == {"forget", "input", "output"}
    per_layer = sum(r.count for r in count(network).matrices if r.role == "peephole" and r.layer == 1)
    assert per_layer == directions * 3 * hidden
    if directions == 1:  # the reference evaluator's two directions take no peepholes
        assert onnx_takes_peepholes(m, hidden, per_layer)
        assert not onnx_takes_peepholes(m, hidden, per_layer + 3)


def onnx_takes_peepholes(m: int, hidden: int, size: int) -> bool:
    names = ["X", "W", "R", "B", "", "", "", "P"]
    shapes = {"X": (2, 1, m), "W": (1, 4 * hidden, m), "R": (1, 4 * hidden, hidden), "B": (1, 8 * hidden)}
    shapes["P"] = (1, size)
    node = onnx.helper.make_node("LSTM", names, ["Y"], hidden_size=hidden)
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "lstm",
        [onnx.helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()],
        [onnx.helper.make_tensor_value_info("Y", kind, None)],
    )
    model = onnx.helper.make_model(graph)
    values = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    try:
        ReferenceEvaluator(model).run(None, values)
    except ValueError:
        return False
    return True


def test_an_adaptive_softmax_has_one_more_row_for_each_cluster() -> None:
    for bias, tied in ((False, False), (True, False), (True, True)):
        width = 10 if tied else 20
        output = AdaptiveSoftmax(width, 100, [20, 50], bias)
        network = Network(
            cell="lstm",
            input=10,
            hidden=20,
            vocabulary=100,
            bias="double" if bias else "none",
            tied=tied,
            clusters=2,
        )
        projection = 10 * 20 if tied else 0
        assert count(network).output == sum(p.numel() for p in output.parameters()) + projection


def test_an_adaptive_embedding_has_narrow_rows_and_a_projection_for_each_band() -> None:
    for hidden in (16, 20):
        embedding = AdaptiveEmbedding(100, 16, [20, 50])
        output = AdaptiveSoftmax(16, 100, [20, 50], embedding=embedding)
        network = Network(
            cell="lstm", input=16, hidden=hidden, vocabulary=100, bias="double", tied=True, clusters=2,
            bands=((30, 4), (50, 1)),
        )  # fmt: skip
        projection = 16 * hidden if hidden != 16 else 0
        counted = count(network)
        assert counted.output == sum(p.numel() for p in output.parameters()) + projection
        assert sum(reason.count for reason in counted.reasoning) == counted.with_embedding
    with pytest.raises(GlassgateError, match=r"^bands: must be some of the words of a tied embedding"):
        Network(cell="lstm", input=16, hidden=16, vocabulary=80, tied=True, bands=((30, 4), (50, 1)))


# Folders


def write_folder(folder: Path, config: ModelConfig) -> dict[str, np.ndarray[Any, Any]]:
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    tensors = {name: np.zeros(shape, np.float32) for name, shape in config.tensors().items()}
    save_file(tensors, folder / "model.safetensors")
    return tensors


FOLDERS = [
    ModelConfig(cell="lstm", vocabulary=100, embedding=10, hidden=20, bias=False, tied=False),
    ModelConfig(cell="lstm", vocabulary=100, embedding=10, hidden=20, layers=2),
    ModelConfig(cell="lstm", vocabulary=100, embedding=20, hidden=20, output="adaptive", cutoffs=(20, 50)),
    ModelConfig(cell="gru", vocabulary=30, embedding=7, hidden=5, layers=3, reset="after", tied=False),
    ModelConfig(
        cell="gru", vocabulary=30, embedding=7, hidden=5, bias=False, output="adaptive", cutoffs=(9,)
    ),
    ModelConfig(
        cell="gru",
        vocabulary=30,
        embedding=7,
        hidden=5,
        output="adaptive",
        cutoffs=(9, 20),
        embedding_cutoffs=(20,),
    ),
]


@pytest.mark.parametrize("config", FOLDERS, ids=lambda config: f"{config.cell}-{config.output}")
def test_a_folder_is_counted_to_the_last_weight(tmp_path: Path, config: ModelConfig) -> None:
    tensors = write_folder(tmp_path / "model", config)
    counted = count_folder(tmp_path / "model")
    assert counted.with_embedding == sum(tensor.size for tensor in tensors.values())
    assert counted.tensors() == config.tensors()
    rnn = sum(tensor.size for name, tensor in tensors.items() if name.startswith("rnn."))
    assert counted.cell == rnn
    assert counted.embedding == (0 if config.tied else tensors["embedding.weight"].size)


def test_the_exercise_from_a_folder_is_the_exercise_from_sizes(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", FOLDERS[0])
    assert count_folder(str(tmp_path / "model")) == count(EXERCISE)


def test_damaged_and_foreign_folders_are_one_clear_line(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def fails(message: str) -> None:
        with pytest.raises(GlassgateError) as caught:
            count_folder(folder)
        assert re.fullmatch(message, str(caught.value)), str(caught.value)  # . is no line break

    where = re.escape(str(folder))
    fails(f"{where}: no such model folder")
    tensors = write_folder(folder, FOLDERS[0])
    weights, config = folder / "model.safetensors", folder / "config.json"
    good = weights.read_bytes()

    weights.write_bytes(good[:-4])
    fails(f"{where}/model.safetensors: is damaged.+")
    weights.write_bytes(b"PK\x03\x04 a pickle in a zip file" * 9)
    fails(f"{where}/model.safetensors: is damaged.+")
    weights.write_bytes(b"")
    fails(f"{where}/model.safetensors: is damaged.+")
    weights.unlink()
    fails(f"{where}: model.safetensors is missing: the model is not whole")

    differ = f"{where}: config.json and model.safetensors differ on "
    save_file({**tensors, "output.weight": np.zeros((100, 21), np.float32)}, weights)
    fails(differ + r"output.weight: expected \(100, 20\), got \(100, 21\)")
    save_file({**tensors, "foreign": np.zeros(3, np.float32)}, weights)
    fails(differ + r"foreign: expected none, got \(3,\)")
    save_file({name: value for name, value in tensors.items() if name != "rnn.weight_hh_l0"}, weights)
    fails(differ + r"rnn.weight_hh_l0: expected \(80, 20\), got none")

    weights.write_bytes(good)
    config.write_text("{")
    fails(f"{where}/config.json: is damaged or no configuration: .+")
    config.write_text('{"architectures": ["Llama"]}')
    fails(f"{where}/config.json: is not the configuration of a glassgate next-word model")
    config.write_text(FOLDERS[0].to_json().replace('"layers": 1', '"layers": 99999999'))
    fails(f"{where}/config.json: layers: must be a whole number from 1 to 10,000, got 99999999")
    config.unlink()
    fails(f"{where}: is no model folder: config.json is missing")


# Errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": "rnn"}, "cell: must be lstm or gru, got 'rnn'"),
        ({"bias": "two"}, "bias: must be none or single or double, got 'two'"),
        ({"cell": "gru", "reset": "never"}, "reset: must be before or after, got 'never'"),
        ({"input": 0}, "input: must be a whole number of at least 1, got 0"),
        ({"hidden": -20}, "hidden: must be a whole number of at least 1, got -20"),
        ({"hidden": True}, "hidden: must be a whole number of at least 1, got True"),
        ({"hidden": 20.0}, "hidden: must be a whole number of at least 1, got 20.0"),
        ({"layers": 0}, "layers: must be a whole number of at least 1, got 0"),
        ({"layers": 10001}, "layers: must be at most 10,000, got 10,001"),
        ({"directions": 3}, "directions: must be 1 or 2, got 3"),
        ({"vocabulary": 0}, "vocabulary: must be a whole number of at least 1, got 0"),
        ({"projection": 0}, "projection: must be a whole number of at least 1, got 0"),
        ({"projection": 20}, "projection: must be smaller than hidden (20), got 20"),
        ({"cell": "gru", "projection": 10}, "projection: only an LSTM has one, got a GRU"),
        (
            {"cell": "gru", "peepholes": True},
            "peepholes: only an LSTM has a cell state to look at, got a GRU",
        ),
        ({"reset": "after"}, "reset: only a GRU has a reset gate, got after for an LSTM"),
        ({"vocabulary": None, "tied": True}, "tied: needs a vocabulary, got none"),
        ({"vocabulary": None, "clusters": 2}, "clusters: need a vocabulary, got none"),
        ({"clusters": -1}, "clusters: must be a whole number of at least 0, got -1"),
    ],
)
def test_each_impossible_network_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GlassgateError, match=f"^{re.escape(message)}$"):
        replace(EXERCISE, **changes)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "LSTM, 1 layer of 20, input 10, no bias, 100 words"),
        (
            {"layers": 2, "directions": 2, "projection": 5, "peepholes": True, "bias": "double"},
            "LSTM, 2 layers of 20, bidirectional, input 10, projection 5, peepholes, two biases per gate, "
            "100 words",
        ),
        (
            {"cell": "gru", "reset": "after", "hidden": 1024, "bias": "single", "tied": True, "clusters": 2},
            "GRU (reset after the product), 1 layer of 1,024, input 10, one bias per gate, 100 words, tied, "
            "adaptive softmax with 2 clusters",
        ),
    ],
)
def test_a_network_describes_itself(changes: dict[str, Any], line: str) -> None:
    assert replace(EXERCISE, **changes).describe() == line
