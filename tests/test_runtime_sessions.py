"""Sessions: texts that are read word by word, alone, together, from a state, and by several threads."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from glassgate import GlassgateError
from glassgate.runtime import Model, Session
from test_runtime import WORDS, example


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_session_is_a_prediction_word_by_word(cell: str) -> None:
    model = example(cell)
    session, read = model.session(), []
    assert session.predict(4) == model.predict("", 4)
    for word in ["the", "gate", "opens", "and", "the", "baker", "bakes", "a", "loaf"]:
        session.feed(word)
        read.append(word)
        assert session.predict(4) == model.predict(" ".join(read), 4)
    at_once = model.session()
    at_once.feed(" ".join(read))
    assert at_once.predict(9) == session.predict(9)
    assert session.model is model


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_fork_goes_its_own_way_and_a_state_can_be_kept(cell: str) -> None:
    model = example(cell)
    session = model.session()
    session.feed("the gate")
    kept, again, expected = session.state, session.state, session.predict(9)
    assert [part.shape for part in kept] == [(2, 9)] * (2 if cell == "lstm" else 1)
    fork = session.fork()
    assert fork.predict(9) == expected
    fork.feed("opens")
    assert session.predict(9) == expected != fork.predict(9)
    session.feed("and")
    assert model.session(kept).predict(9) == expected
    continued = model.session(kept)
    for part in (*kept, *again):  # copies, and the caller's own, on the way out and on the way in
        part[:] = 0.5
    assert continued.predict(9) == expected != model.session(kept).predict(9)
    session.feed("the")
    again = session.state
    for part in again:
        part[:] = 0.5
    assert session.predict(9) == model.predict("the gate and the", 9)
    assert fork.predict(9) == model.predict("the gate opens", 9)
    with pytest.raises(GlassgateError, match=r"^the state: must be \d of \(2, 9\), got"):
        model.session((kept[0][:1],))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h[:1], "must be 1 of (2, 9), got [(1, 9)]"),
        (lambda h: h * np.nan, "must be finite in float32, got nan"),
        (lambda h: h.astype(np.float64) + 1e300, "must be finite in float32, got 1e+300"),
        (lambda h: h + 1j, "must be real numbers, got complex64"),
        (lambda h: h.astype(str), "must be real numbers, got <U32"),
        (lambda h: [[0.0] * 9, [0.0] * 8], "must be 1 of (2, 9), got no arrays: "),
    ],
)
def test_a_state_that_is_none_is_one_line(change: Any, message: str) -> None:
    model = example("gru")
    (h,) = model.session().state
    with pytest.raises(GlassgateError) as raised:
        model.session((change(h),))
    assert str(raised.value).startswith(f"the state: {message}")
    with pytest.raises(GlassgateError, match=r"^the state: must be 1 of \(2, 9\), got no arrays"):
        model.session(3)  # type: ignore[arg-type]


def test_the_state_before_the_first_word_is_nothing_to_go_on_from() -> None:
    model = example(eos=False)
    session = model.session(model.session().state)
    with pytest.raises(GlassgateError, match=r"^the text: is empty"):
        session.predict(1)
    session.feed("the")
    assert session.predict(9) == model.session(session.state).predict(9) == model.predict("the", 9)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_neither_a_model_nor_a_session_is_copied_or_pickled(copied: Any) -> None:
    model = example()
    with pytest.raises(GlassgateError, match=r"^the model: is not copied or pickled: share it, or load"):
        copied(model)
    with pytest.raises(GlassgateError, match=r"^the session: is not copied or pickled: fork copies it"):
        copied(model.session())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_sessions_together_are_sessions_alone(cell: str, dtype: type) -> None:
    """To the bit, the projection of the hidden states too."""
    model = example(cell, dtype)
    assert model.network.projection is not None
    texts = ["", "the", "the gate", "a door", "and then the baker"]
    together, alone = [model.session() for _ in texts], [model.session() for _ in texts]
    for one, other, text in zip(together, alone, texts, strict=True):
        one.feed(text)
        other.feed(text)
    for words in (["gate", "an", "opens", "of", "bakes"], ["in", "the", "gates", "a", "loaf"]):
        model.feed_together(together, words)
        for session, word in zip(alone, words, strict=True):
            session.feed(word)
        for session, found in zip(alone, model.predict_together(together, 6), strict=True):
            assert found == session.predict(6)
    begun = ["g", "", "the", "g", "o"]
    for session, letters, found in zip(alone, begun, model.predict_together(together, 3, begun), strict=True):
        assert found == session.predict(3, letters)
    assert model.predict_together([], 3) == []
    model.feed_together([], [])


def test_sessions_together_say_what_is_wrong() -> None:
    model, other = example(), example()
    sessions = [model.session(), model.session()]
    before = [session.predict(9) for session in sessions]
    wrong: list[tuple[list[Session], list[str], str]] = [
        (sessions, ["the"], "words: one for each of 2 sessions expected, got 1"),
        (sessions, ["the", "stone"], "the text: the model does not know the word 'stone'; close to it"),
        (sessions, ["the", "a gate"], "words: one for each session expected, got 'a gate'"),
        (sessions, ["the", ""], "words: one for each session expected, got ''"),
        ([sessions[0], sessions[0]], ["the", "a"], "sessions: each must stand there once"),
        ([sessions[0], other.session()], ["the", "a"], "sessions: must be of this model"),
    ]
    for several, words, message in wrong:
        with pytest.raises(GlassgateError) as raised:
            model.feed_together(several, words)
        assert str(raised.value).startswith(message.split(";")[0])
    with pytest.raises(GlassgateError, match=r"^begun: one for each of 1 sessions expected, got 2$"):
        model.predict_together(sessions[:1], 3, ["a", "b"])
    assert [session.predict(9) for session in sessions] == before  # nothing was read
    model.feed_together(sessions, ["the", "stone"], unknown=True)
    assert sessions[1].predict(9) == model.predict("<unk>", 9)
    empty = example(eos=False).session()
    with pytest.raises(GlassgateError, match=r"^the text: is empty"):
        empty.predict()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_model_may_be_used_by_several_threads(cell: str) -> None:
    """Each in a session of its own, from a start together: sketches and the words' order are made then."""
    words = WORDS.split()
    texts = [[words[(7 * n + 3 * t) % len(words)] for t in range(40)] for n in range(8)]

    def read(model: Model, text: list[str]) -> list[Any]:
        session, found = model.session(), []
        for word in text:
            session.feed(word)
            found += [session.predict(3), session.predict(2, "g"), model.score(word)]
        return found

    expected, shared, start = example(cell), example(cell), threading.Barrier(len(texts))

    def together(text: list[str]) -> list[Any]:
        start.wait()
        return read(shared, text)

    with ThreadPoolExecutor(len(texts)) as pool:
        found = list(pool.map(together, texts))
    assert found == [read(expected, text) for text in texts]
