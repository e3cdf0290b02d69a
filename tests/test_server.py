"""What the server answers: the numbers of the runtime, alone or many at once."""

import asyncio
import json
import subprocess
import sys
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from glassgate import load
from glassgate.edits import Edit
from glassgate.errors import GlassgateError
from glassgate.folder.counting import count_folder
from glassgate.runtime import Model
from glassgate.runtime.sampling import Sampling
from glassgate.server import engine
from glassgate.server.engine import BusyError, Call, Engine, LateError, Want
from glassgate.server.pace import Pace
from glassgate.server.readers import Predictor, Writer
from serving import Client, serving, write_folder

TEXTS = ["", "the", "the gate opens", "a door , the baker", "there", "the unheard door"]

# Rows that are multiplied together may be summed in another order: see test_runtime.py, CLOSE.
CLOSE = 1e-5


@pytest.fixture(scope="module", params=["lstm", "gru"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("served") / "drawn", request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder)


def pairs(words: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(entry["word"], entry["probability"]) for entry in words]


@pytest.mark.parametrize("text", TEXTS)
def test_predictions_are_the_runtimes(client: Client, model: Model, text: str) -> None:
    found = client.post("/predict", {"text": text, "k": 7}).json
    assert pairs(found["words"]) == model.predict(text, 7, unknown=True)


@pytest.mark.parametrize("text", ["ga", "the g", "the gate ", "the th", "the zz"])
def test_begun_words_are_completed(client: Client, model: Model, text: str) -> None:
    found = client.post("/predict", {"text": text, "k": 4, "complete": True}).json
    assert pairs(found["words"]) == model.predict(text, 4, unknown=True, complete=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 3}, {"top_p": 0.5, "seed": 9}, {"seed": 2}],
)
def test_generated_text_is_the_runtimes(client: Client, model: Model, options: dict[str, Any]) -> None:
    for text in ("the gate", '( "', ""):
        events = client.events("/generate", {"text": text, "words": 30, **options})
        pieces = list(model.generate(text, 30, **options))
        prompt = len(model.vocabulary.cut(text))
        assert [event["text"] for event in events] == pieces[prompt:]
        read = model.vocabulary.cut(text)
        for event in events[:5]:
            known = dict(model.predict(" ".join(read), 1000)) if "<eos>" not in read else {}
            if known:  # the text was read in the same steps, one row each: the same bits
                assert event["probability"] == pytest.approx(known[event["word"]], rel=1e-12)
            read.append(event["word"])


EDITS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"set": 0.5, "units": [0, 3]}, {"set": 0.5, "units": [0, 3]}),
    ({"scale": 0.5, "steps": [1, 3]}, {"scale": 0.5, "steps": slice(1, 3)}),
    ({"add": -0.25, "layer": "l1"}, {"add": -0.25, "layer": "l1"}),
    ({"clamp": [-0.1, 0.1], "steps": [-1, None]}, {"clamp": (-0.1, 0.1), "steps": slice(-1, None)}),
    ({"clamp": [0.1, -0.1]}, {"clamp": (-0.1, 0.1)}),
]


@pytest.mark.parametrize(("sent", "meant"), EDITS)
def test_traces_and_edits_are_the_runtimes(
    client: Client, model: Model, sent: dict[str, Any], meant: dict[str, Any]
) -> None:
    text = "the gate opens , then"
    edits, gate = [Edit("candidate", **meant)], {"gate": "candidate", **sent}
    for given, own in (([], []), ([gate], edits)):
        found = client.post("/trace", {"text": text, "k": 3, "edits": given}).json
        expected = model.trace(text, own)
        assert found["words"] == list(expected.words)
        assert pairs(found["next"]) == expected.best(3)
        assert [layer["name"] for layer in found["layers"]] == ["l0", "l1"]
        for layer in found["layers"]:
            traced = expected.layers[layer["name"]]
            assert set(layer["values"]) == set(traced.names)
            assert layer["units"] == 7
            assert layer["reset"] == (None if layer["cell"] == "lstm" else "before")
            for name, packed in layer["values"].items():
                values = np.frombuffer(b64decode(packed["float32"]), "<f4").reshape(packed["shape"])
                np.testing.assert_array_equal(values, getattr(traced, name)[:, 0])
    compared = client.post("/edit", {"text": text, "k": 4, "edits": [gate]}).json
    assert pairs(compared["before"]) == model.trace(text).best(4)
    assert pairs(compared["after"]) == model.trace(text, edits).best(4)
    assert compared["before"] != compared["after"]


@pytest.mark.parametrize("closed", [False, True])
def test_a_begun_last_word_is_completed_with_gates_and_edits(tmp_path: Path, closed: bool) -> None:
    folder = write_folder(tmp_path / "drawn", closed=closed)
    model = load(folder)
    edit = {"gate": "candidate", "set": 0.5}

    def allowed(text: str, begun: str, edits: list[Edit]) -> list[tuple[str, float]]:
        ranked = model.trace(text, edits).best(len(model.vocabulary))
        return [(word, y) for word, y in ranked if word.startswith(begun) and not word.startswith("<")][:3]

    with serving(folder) as client:
        for text, before, begun in (("the ga", "the", "ga"), ("the gate, op", "the gate ,", "op")):
            body = {"text": text, "k": 3, "complete": True}
            traced = client.post("/trace", {**body, "edits": [edit]}).json
            assert traced["begun"] == begun
            assert traced["words"] == list(model.trace(before).words)
            edited = allowed(before, begun, [Edit("candidate", set=0.5)])
            assert pairs(traced["next"]) == edited
            both = client.post("/edit", {**body, "edits": [edit]}).json
            plain = allowed(before, begun, [])
            assert (pairs(both["after"]), both["begun"]) == (edited, begun)
            assert pairs(both["before"]) == plain != edited
            assert pairs(client.post("/predict", body).json["words"]) == [
                (word, pytest.approx(y, rel=CLOSE)) for word, y in plain
            ]
        # Words that are known, or followed by a space, or that nothing completes: read as they stand.
        for text in ("the gate", "the ga ", "the zz"):
            reply = client.post("/trace", {"text": text, "complete": True})
            if closed and text != "the gate":
                word = text.split()[1]
                assert reply.status == 422
                assert reply.error.startswith(f"the text: the model does not know the word '{word}'")
            else:
                assert reply.json["begun"] == ""
                assert reply.json["words"] == list(model.trace(text, unknown=True).words)
        # Alone it stands behind <eos>; where there is none, behind nothing that could be read.
        reply = client.post("/trace", {"text": "th", "k": 9, "complete": True})
        assert reply.status == (422 if closed else 200)
        if not closed:
            assert (reply.json["words"], reply.json["begun"]) == (["<eos>"], "th")
            assert {word for word, _ in pairs(reply.json["next"])} == {"the", "then", "there"}


def test_the_model_is_told(client: Client, folder: Path) -> None:
    told = client.get("/model").json
    assert told["count"] == count_folder(folder).as_dict()
    assert told["config"] == json.loads((folder / "config.json").read_text())
    assert told["name"] == "drawn"
    assert (told["figures"], told["training"]) == ([], [])  # a folder without card and course
    assert [layer["name"] for layer in told["layers"]] == ["l0", "l1"]
    assert told["vocabulary"] == told["config"]["vocabulary"]
    assert (told["unknown"], told["eos"], told["compared"]) == (True, True, False)
    words = told["opening"].split()
    assert words[0] == "the"
    best = [word for word, _ in load(folder).predict(told["opening"].rpartition(" ")[0], 1)]
    assert best == words[-1:]


def test_card_and_course_are_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "drawn")
    (folder / "README.md").write_text(
        "# A\n\n## Measured\n\n| | |\n|---|---|\n| test perplexity | 9.5 |\n\n## B\n"
    )
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": NaN}\nbroken\n')
    with serving(folder) as client:
        told = client.get("/model").json
    assert told["figures"] == [{"name": "test perplexity", "value": "9.5"}]
    assert told["training"] == [{"step": 1, "loss": 2.5}, {"step": 2}]


def test_many_at_once_are_answered_as_alone(client: Client, model: Model) -> None:
    words = ["the", "gate", "opens", ",", "then", "a", "door"]
    texts = [" ".join([words[n % 7]] * (n % 5 + 1)) for n in range(48)]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda text: client.post("/predict", {"text": text, "k": 5}), texts))
    for text, reply in zip(texts, replies, strict=True):
        assert reply.status == 200
        expected = dict(model.predict(text, 1000))
        for word, probability in pairs(reply.json["words"]):
            assert probability == pytest.approx(expected[word], rel=CLOSE)


def in_engine(model: Model, work: Any, **limits: int) -> Any:
    """Run a coroutine function with a started engine; what it submits before it awaits is in one batch."""

    async def run() -> Any:
        engine = Engine(model.network, model.vocabulary.unk, **limits)
        engine.start()
        try:
            return await work(engine)
        finally:
            await engine.stop()

    return asyncio.run(run())


@pytest.mark.parametrize("quick", [0.0, 10.0])
def test_a_batch_is_one_kernel_step_a_word(
    model: Model, quick: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of 1 to 20 words and their continuations, joining and leaving the batch at different steps."""
    monkeypatch.setattr(engine, "QUICK", quick)  # all steps in a thread; or in the event loop, but the first
    lengths = list(range(1, 21))

    async def work(engine: Engine) -> Any:
        late = monotonic() + 30
        words = len(model.vocabulary)
        readers = [Predictor([n % words for n in range(size)], Want(3), late) for size in lengths]
        sampling = Sampling(temperature=0.0)
        writers = [Writer([n % words for n in range(size)], 4, sampling, words, late) for size in lengths]
        engine.submit([*readers, *writers])
        best = [await reader.future for reader in readers]
        written = [[token.number async for token in writer.tokens()] for writer in writers]
        return best, written, engine.steps, engine.words, engine.load

    threads: set[int] = set()
    step = model.network.step

    def noting(*arguments: Any) -> None:
        threads.add(threading.get_ident())
        step(*arguments)

    monkeypatch.setattr(model.network, "step", noting)
    best, written, steps, words, load = in_engine(model, work)
    assert (threading.get_ident() in threads) == (quick > 0)
    assert steps == max(lengths) + 3  # the last word drawn is not read
    assert words == sum(lengths) + sum(size + 3 for size in lengths)
    assert load == 0
    network = model.network
    for size, (numbers, y), drawn in zip(lengths, best, written, strict=True):
        state = network.initial_state(1)
        for number in range(size):
            network.step(np.array([number % len(model.vocabulary)]), state)
        ((expected, shares),) = network.output.best(
            network.features(state[0][-1]), 3, None, model.vocabulary.unk
        )
        assert numbers.tolist() == expected.tolist()
        np.testing.assert_allclose(y, shares, rtol=CLOSE)
        assert drawn[0] == expected[0]  # greedy: the most probable word


def test_texts_wait_for_room_in_the_batch(model: Model) -> None:
    async def work(engine: Engine) -> Any:
        readers = [Predictor([n], Want(1), monotonic() + 30) for n in range(6)]
        engine.submit(readers)
        with pytest.raises(BusyError):
            engine.submit([Predictor([1], Want(1), monotonic() + 30)])
        found = [await reader.future for reader in readers]
        after = Predictor([1], Want(1), monotonic() + 30)
        engine.submit([after])
        return found, await after.future, engine.steps

    found, after, steps = in_engine(model, work, rows=2, waiting=4)
    assert steps == 4  # three of two texts, and one
    assert after[0].tolist() == found[1][0].tolist()


def test_what_is_late_or_unwanted_leaves_the_batch(model: Model) -> None:
    async def work(engine: Engine) -> Any:
        late = Predictor([1, 2], Want(1), monotonic() - 1)
        slow = Call(lambda: 1, monotonic() - 1)
        unwanted = Writer([1], 10**9, Sampling(), len(model.vocabulary), monotonic() + 600)
        engine.submit([late, slow, unwanted])
        for work in (late, slow):
            with pytest.raises(LateError):
                await work.future
        tokens = unwanted.tokens()
        assert not (await anext(tokens)).last
        await tokens.aclose()
        while engine.load:
            await asyncio.sleep(0.001)

    in_engine(model, work)


def test_a_failing_step_is_told_and_the_engine_goes_on(model: Model) -> None:
    async def work(engine: Engine) -> None:
        late = monotonic() + 30

        def fail() -> None:
            raise GlassgateError("the call: failed")

        call, wrong = Call(fail, late), Predictor([10**9], Want(1), late)
        engine.submit([wrong, call])
        with pytest.raises(GlassgateError, match="the call: failed"):
            await call.future
        with pytest.raises(IndexError):
            await wrong.future
        right = Predictor([1], Want(1), late)
        engine.submit([right])
        assert len((await right.future)[0]) == 1
        assert engine.load == 0

    in_engine(model, work)


def test_serving_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom glassgate.server import Server\n"
        f"server = Server(Path({str(folder)!r}), port=0)\n"
        "server.run(lambda url: server.stop())\nassert 'torch' not in sys.modules\nprint('served')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("served\n", "")


def test_the_pace_follows_what_steps_take() -> None:
    """By hand, from its rules; 1.6 * 1.15 = 1.84 times the steps of one text alone."""
    pace = Pace()
    pace.note(1, 0, 0.010)
    pace.note(1, 4, 0.020)
    pace.leave(0.100, computed=0.100)
    pace.refuse(now=0.0)
    assert pace.room(128, now=0.5) == 128  # not known yet
    pace.note(5, 4, 0.028)  # each of four more takes a tenth of what one alone takes
    pace.leave(0.100, computed=0.100)
    # Ten steps of the first kind, and two of one never seen: it is taken to be like the nearest, the second.
    assert pace.seconds(3, {0: 10, 5: 2}) == pytest.approx((10 * 0.010 + 2 * 0.020) * (1 + 2 * 0.1))
    spare = 1.6 * 1.15 + 0.0003 / 0.100 - 1
    assert pace.room(128, now=0.5) == 1 + int(spare / 0.1) == 9
    assert pace.room(8, now=0.5) == 8
    assert pace.room(128, now=1.1) == 128  # a second without a refusal
    pace.note(1, 4, 1.0, now=0.5)  # in a crowd nothing is learned of one alone
    pace.note(9, 7, 1.0, now=0.5)  # nor of what was never seen alone
    for _ in range(1000):  # half as long again as what is computed for them: the loop does other work
        pace.leave(0.150, computed=0.100)
    assert pace.room(128, now=0.5) == 1 + int(((1.6 * 1.15 * 0.100 + 0.0003) / 0.150 - 1) / 0.1) == 3
    for _ in range(1000):  # slower than one by one is not believed
        pace.note(5, 4, 9.0, now=0.5)
    pace.leave(0.200, computed=0.100)
    assert pace.room(128, now=0.5) == 1  # never fewer


def test_a_burst_without_an_end_is_refused_but_its_oldest(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glassgate.server.engine.PROMPT", float("inf"))

    async def work(engine: Engine) -> None:
        def writer() -> Writer:
            return Writer([1], 40, Sampling(), len(model.vocabulary), monotonic() + 60)

        requests = [[writer()], [writer(), writer(), writer()], [writer()]]
        monkeypatch.setattr(Pace, "room", lambda *_: 128)
        for request in requests:
            engine.submit(request)
        monkeypatch.setattr(Pace, "room", lambda *_: 3)
        engine.refuse()
        (first,), together, (last,) = requests
        await first.begin()
        for one in (*together, last):  # the texts of one request are refused together
            with pytest.raises(BusyError):
                await one.begin()
        monkeypatch.setattr(Pace, "room", lambda *_: 128)
        late = [writer() for _ in range(6)]
        for one in late:
            engine.submit([one])
        for one in late:
            await one.begin()
        monkeypatch.setattr(Pace, "room", lambda *_: 3)
        engine.refuse()  # of these something was heard: they go on
        for one in (first, *late):
            assert [token.last async for token in one.tokens()] == [False] * 39 + [True]

    in_engine(model, work)
