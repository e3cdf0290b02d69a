"""Two models behind one server: the second answers under /compared as the first does under /."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from by_hand import drawn_weights
from glassgate import load
from glassgate.cli import main
from glassgate.errors import GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.runtime import Model
from glassgate.server import Server
from glassgate.server.opening import opening
from serving import CHECKS, Client, serving, validate, write_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    parent = tmp_path_factory.mktemp("compared")
    return write_folder(parent / "one"), write_folder(parent / "other", "gru", layers=1, hidden=6)


@pytest.fixture(scope="module")
def client(folders: tuple[Path, Path]) -> Iterator[Client]:
    with serving(folders[0], compared=folders[1]) as client:
        yield client


def test_each_model_answers_under_its_own_paths(client: Client, folders: tuple[Path, Path]) -> None:
    for at, folder, has_other in (("", folders[0], True), ("/compared", folders[1], False)):
        model = load(folder)
        about = client.get(at + "/model").json
        assert (about["name"], about["compared"]) == (folder.name, has_other)
        assert about["gates"] == list(model.trace("the").layers["l0"].names)
        words = client.post(at + "/predict", {"text": "the gate", "k": 7}).json["words"]
        assert [(w["word"], w["probability"]) for w in words] == model.predict("the gate", 7)
        layers = client.post(at + "/trace", {"text": "the gate"}).json["layers"]
        assert [layer["name"] for layer in layers] == list(model.trace("the").layers)
        assert client.get(at + "/v1/models").json["data"][0]["id"] == folder.name
    refused = client.post("/compared/edit", {"text": "the", "edits": [{"gate": "forget", "set": 0}]})
    assert (refused.status, "forget" in refused.error) == (422, True)


def test_edits_that_lead_beyond_numbers_are_named(client: Client) -> None:
    body = {"text": "the gate " * 9, "edits": [{"gate": "hidden", "scale": 1e6}]}
    for path in ("/compared/edit", "/compared/trace"):
        reply = client.post(path, body)
        line = "edits: what follows from them goes beyond float32: expected smaller changes"
        assert (reply.status, reply.error) == (422, line)


def test_the_opening_is_of_words_that_both_know(tmp_path: Path) -> None:
    models = []
    for words in ("the gate opens a door", "a baker opens the loaf", "loaf"):
        vocabulary = Vocabulary.build([words], tokens="spaces", closed=True, eos=False)
        config = ModelConfig(cell="gru", vocabulary=len(vocabulary), eos="none", embedding=3, hidden=4)
        models.append(Model(config, vocabulary, drawn_weights(config, 3)))
    first, second, third = models
    text = opening([first, second])
    assert set(text.split()) <= {"the", "opens", "a"}
    for n in range(1, 9):
        *before, last = text.split()[: n + 1]
        ranked = [word for word, _ in first.predict(" ".join(before), 9) if word in ("the", "opens", "a")]
        assert last == ranked[0]
    assert opening([third, second]) == " ".join(["loaf"] * 9)
    assert opening([first, third]) == opening([first])  # without a word in common the first has its own


def test_what_both_computed_is_counted_together(client: Client) -> None:
    def steps() -> int:
        lines = client.get("/metrics").body.decode().splitlines()
        return int(next(line for line in lines if line.startswith("glassgate_words_total ")).split()[1])

    before = steps()
    for at in ("", "/compared"):
        client.post(at + "/predict", {"text": "the gate"})
    assert steps() - before == 2 * 3  # <eos>, the, gate


def test_what_concerns_the_server_is_there_once(client: Client) -> None:
    for path in ("/compared/health", "/compared/metrics", "/compared/", "/compared/app.js"):
        assert client.get(path).status == 404


def test_a_second_folder_that_is_no_model_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(GlassgateError, match="none: no such model folder"):
        Server(folders[0], port=0, compared=tmp_path / "none")


def test_the_command_takes_a_second_folder(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", str(folders[0]), "--port", "0", "--compare", "no-such-folder"])
    assert capsys.readouterr().err == "glassgate: error: no-such-folder: no such model folder\n"


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_the_second_document_is_as_true(client: Client, mode: schemathesis.GenerationMode) -> None:
    config = schemathesis.Config.from_dict({"checks": CHECKS})
    url = f"{client.server.url}/compared/openapi.json"
    document = schemathesis.openapi.from_url(url, config=config)
    operations = {found.ok().path: found.ok() for found in document.get_all_operations()}
    assert set(operations) == {
        *("/model", "/predict", "/generate", "/trace", "/edit", "/v1/completions", "/v1/models")
    }
    for path in ("/predict", "/edit"):  # what differs from the first: the place, the gates, the layers

        @settings(max_examples=12, suppress_health_check=list(HealthCheck))
        @given(case=operations[path].as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            assert "/compared/" in validate(case)

        check()
