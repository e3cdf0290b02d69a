"""What ``glassgate count`` prints, and how it fails."""

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from glassgate.cli import main
from glassgate.cli.count import show
from glassgate.folder.config import ModelConfig
from glassgate.parameters import Network, count

EXERCISE = ["count", "--cell", "lstm", "--input", "10", "--hidden", "20", "--vocabulary", "100", "--no-bias"]
WIDEST = Network(
    cell="gru",
    input=512,
    hidden=1024,
    layers=3,
    directions=2,
    vocabulary=33278,
    reset="after",
    tied=True,
)


@pytest.fixture(autouse=True)
def plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):  # with which rich colours pipes too
        monkeypatch.delenv(name, raising=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_the_exercise_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *EXERCISE)
    assert (code, err) == (0, "")
    assert (
        out
        == """\
LSTM, 1 layer of 20, input 10, no bias, 100 words

  matrix  role               gate       shape     weights
layer 0                                             2,400
  U_f     input weights      forget     20 x 10       200
  U_i     input weights      input      20 x 10       200
  U_g     input weights      candidate  20 x 10       200
  U_o     input weights      output     20 x 10       200
  W_f     recurrent weights  forget     20 x 20       400
  W_i     recurrent weights  input      20 x 20       400
  W_g     recurrent weights  candidate  20 x 20       400
  W_o     recurrent weights  output     20 x 20       400
output                                              2,000
  V       output                        100 x 20    2,000
embedding, outside of the count                     1,000
  E       embedding                     100 x 10    1,000

layer 0    4 gates x 20 x (10 + 20) = 2,400
output V   100 words x 20 = 2,000
embedding  100 words x 10 = 1,000

                    weights  fp32 bytes  bf16 bytes  int8 bytes
cell                  2,400       9,600       4,800       2,400
output                2,000       8,000       4,000       2,000
embedding, outside    1,000       4,000       2,000       1,000
with the embedding    5,400      21,600      10,800       5,400
total                 4,400      17,600       8,800       4,400
"""
    )


def test_the_exercise_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *EXERCISE, "--json")
    table = json.loads(out)
    matrices = table.pop("matrices")
    assert (code, err) == (0, "")
    assert list(table.items())[:4] == [("cell", 2400), ("output", 2000), ("embedding", 1000), ("total", 4400)]
    assert sum(matrix["count"] for matrix in matrices) == 5400
    assert table == {
        "cell": 2400,
        "output": 2000,
        "embedding": 1000,
        "total": 4400,
        "with_embedding": 5400,
        "bytes": {"fp32": 17600, "bf16": 8800, "int8": 4400},
        "bytes_with_embedding": {"fp32": 21600, "bf16": 10800, "int8": 5400},
    }


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ("--input 10 --hidden 20", 2480),
        ("--input 10 --hidden 20 --bias", 2480),
        ("--input 10 --hidden 20 --bias --bias-form single", 2480),
        ("--input 10 --hidden 20 --no-bias", 2400),
        ("--input 10 --hidden 20 --bias-form double --layers 2", 2560 + 4 * 20 * (20 + 20) + 160),
        ("--input 10 --hidden 20 --no-bias --directions 2", 4800),
        ("--input 10 --hidden 20 --no-bias --projection 10 --tied --vocabulary 100", 2800),
        ("--input 10 --hidden 20 --no-bias --peepholes", 2460),
        ("--input 10 --hidden 20 --cell gru", 1860),
        ("--input 10 --hidden 20 --cell gru --reset after", 1880),
    ],
)
def test_every_option_reaches_the_count(capsys: pytest.CaptureFixture[str], options: str, total: int) -> None:
    _, out, _ = run(capsys, "count", *options.split(), "--json")
    assert json.loads(out)["total"] == total
    _, out, _ = run(capsys, "count", *options.split())
    assert re.match(rf"total +{total:,} ", out.splitlines()[-1])


def test_a_tied_output_says_where_the_embedding_is(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, *EXERCISE, "--tied")
    lines = [re.sub(" +", " ", line) for line in out.splitlines()]
    assert " P output projection 10 x 20 200" in lines
    assert "output V, tied 100 words x 10 = 1,000" in lines
    assert lines[-3:] == [
        "embedding, is V 0 0 0 0",
        "with the embedding 3,600 14,400 7,200 3,600",
        "total 3,600 14,400 7,200 3,600",
    ]


def test_a_folder_is_counted_as_the_same_sizes_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = ModelConfig(cell="lstm", vocabulary=100, embedding=10, hidden=20, bias=False, tied=False)
    (tmp_path / "config.json").write_text(config.to_json())
    tensors = {name: np.zeros(shape, np.float32) for name, shape in config.tensors().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    for options in ([], ["--json"]):
        assert run(capsys, "count", str(tmp_path), *options) == run(capsys, *EXERCISE, *options)


def test_in_a_pipe_everything_is_there_and_no_line_ends_in_blanks() -> None:
    piped = StringIO()
    show(count(WIDEST), Console(file=piped, width=80, highlight=False))
    lines = piped.getvalue().splitlines()
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    assert "\x1b" not in piped.getvalue()
    assert sum(line.startswith("  U_r  ") for line in lines) == 6
    assert {"role", "gate", "shape"} <= set(lines[3].split())
    assert lines[-1].split() == ["total", "65,330,686", "261,322,744", "130,661,372", "65,330,686"]


@pytest.mark.parametrize(("width", "columns", "sums"), [(80, 5, 5), (60, 4, 4), (40, 3, 2), (30, 2, 2)])
def test_a_narrow_terminal_gets_fewer_columns_and_never_a_broken_row(
    width: int, columns: int, sums: int
) -> None:
    terminal = StringIO()
    show(
        count(WIDEST),
        Console(file=terminal, width=width, force_terminal=True, color_system=None, highlight=False),
    )
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if line.startswith("  U_r"))
    assert len(re.split("  +", row.strip())) == columns
    assert len(re.split("  +", lines[-1])) == sums
    assert "65,330,686" in lines[-1]
    assert "= 9,437,184" in re.sub(r"\s+", " ", terminal.getvalue())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "--input: is missing; give --input and --hidden, or a model folder"),
        ("--input 10", "--hidden: is missing; give --input and --hidden, or a model folder"),
        ("--input 10 --hidden -3", "--hidden: must be a whole number of at least 1, got -3"),
        ("--input 0 --hidden 3", "--input: must be a whole number of at least 1, got 0"),
        ("--input 3 --hidden 3 --layers 0", "--layers: must be a whole number of at least 1, got 0"),
        ("--input 3 --hidden 3 --directions 3", "--directions: must be 1 or 2, got 3"),
        (
            "--input 3 --hidden 3 --vocabulary -1",
            "--vocabulary: must be a whole number of at least 1, got -1",
        ),
        ("--input 3 --hidden 3 --projection 3", "--projection: must be smaller than hidden (3), got 3"),
        ("--input 3 --hidden 3 --tied", "--tied: needs a vocabulary, got none"),
        ("--input 3 --hidden 3 --reset after", "--reset: only a GRU has a reset gate, got after for an LSTM"),
        ("--input 3 --hidden 3 --bias-form double --no-bias", "--no-bias: excludes --bias-form double"),
        ("no-such-folder", "no-such-folder: no such model folder"),
        ("no-such-folder --no-bias", "--bias: no-such-folder tells its own; give a folder or sizes"),
        ("no-such-folder --layers 2", "--layers: no-such-folder tells its own; give a folder or sizes"),
    ],
)
def test_each_failure_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert run(capsys, "count", *options.split()) == (2, "", f"glassgate: error: {message}\n")


@pytest.mark.parametrize("options", ["--cell rnn", "--hidden x", "--bias-form two", "--reset never"])
def test_a_word_that_is_no_choice_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], options: str
) -> None:
    code, out, err = run(capsys, *["count", "--input", "3", "--hidden", "3"], *options.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"glassgate count: error: Invalid value for '{options.split()[0]}'")
    assert err.count("\n") == 1


def test_counting_imports_neither_torch_nor_numpy() -> None:
    program = (
        "import sys; from glassgate.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "sys.exit(sorted({'torch', 'numpy', 'safetensors'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, *EXERCISE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
