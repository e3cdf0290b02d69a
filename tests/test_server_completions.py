"""The OpenAI API, by its own client; and the OpenAPI document, by schemathesis."""

import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from hypothesis import HealthCheck, given, settings

from glassgate import load
from glassgate.runtime import Model
from serving import CHECKS, Client, serving, validate, write_folder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # libraries of its own, and their own affair
    import schemathesis


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder)


@pytest.fixture(scope="module")
def api(client: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{client.server.url}/v1", api_key="none", max_retries=0) as api:
        yield api


def written(model: Model, prompt: str, words: int, seed: int, **options: float) -> str:
    """What the runtime writes after the prompt."""
    pieces = list(model.generate(prompt, words, seed=seed, unknown=True, **options))  # type: ignore[arg-type]
    return "".join(pieces[len(model.vocabulary.cut(prompt)) :])


def test_the_model_is_listed(api: openai.OpenAI) -> None:
    (only,) = api.models.list()
    assert (only.id, only.object) == ("drawn", "model")
    assert api.models.retrieve("drawn") == only
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("other")


def test_a_completion_is_what_the_runtime_writes(api: openai.OpenAI, model: Model) -> None:
    found = api.completions.create(model="drawn", prompt="the gate", max_tokens=12, seed=5, temperature=0.8)
    (choice,) = found.choices
    assert choice.text == written(model, "the gate", 12, 5, temperature=0.8)
    assert (choice.finish_reason, choice.index, choice.logprobs) == ("length", 0, None)
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (2, 12)


def test_several_prompts_and_choices(api: openai.OpenAI, model: Model) -> None:
    found = api.completions.create(model="drawn", prompt=["the gate", "a door"], n=3, max_tokens=6, seed=5)
    assert [choice.index for choice in found.choices] == list(range(6))
    for choice in found.choices:
        prompt = ["the gate", "a door"][choice.index // 3]
        assert choice.text == written(model, prompt, 6, 5 + choice.index)
    assert len({choice.text for choice in found.choices}) > 1
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (4, 36)


def test_without_a_seed_texts_differ(api: openai.OpenAI) -> None:
    texts = {
        api.completions.create(model="drawn", prompt="the", max_tokens=64).choices[0].text for _ in range(3)
    }
    assert len(texts) == 3


def test_prompts_as_word_numbers(api: openai.OpenAI, model: Model) -> None:
    numbers = model.numbers("the gate opens")
    for prompt in (numbers, [numbers]):
        found = api.completions.create(model="drawn", prompt=prompt, max_tokens=5, seed=1, echo=True)
        assert found.choices[0].text == "the gate opens" + written(model, "the gate opens", 5, 1)


def test_echo_and_logprobs_are_the_runtimes_scores(api: openai.OpenAI, model: Model) -> None:
    """As evaluation harnesses ask for them: echo, one alternative, no or one new token."""
    text = 'the gate opens , " unheard'
    scores = model.score(text, unknown=True)
    for new in (0, 1):
        (choice,) = api.completions.create(
            model="drawn", prompt=text, max_tokens=new, temperature=0, echo=True, logprobs=1
        ).choices
        table = choice.logprobs
        assert table is not None
        assert table.token_logprobs is not None
        assert table.tokens is not None
        assert table.text_offset is not None
        assert table.top_logprobs is not None
        assert len(table.tokens) == len(scores) + new
        for came, (_, log) in zip(table.token_logprobs, scores, strict=False):
            # Single steps and a block are multiplied in another order: test_runtime.py, CLOSE.
            assert came == pytest.approx(log, rel=1e-5, abs=1e-5)
        assert "".join(table.tokens) == choice.text
        for token, offset in zip(table.tokens, table.text_offset, strict=True):
            assert choice.text[offset : offset + len(token)] == token
        read = ""
        for word, top in zip(model.vocabulary.cut(text), table.top_logprobs, strict=False):
            ((_, y),) = model.predict(read, 1, unknown=True)
            ((_, log),) = top.items()
            assert log == pytest.approx(math.log(y), rel=1e-5)
            read += " " + word


def test_word_numbers_that_begin_with_eos_are_read_as_they_stand(api: openai.OpenAI, model: Model) -> None:
    """As lm-evaluation-harness scores a whole text: <eos> before it, which has no score itself."""
    eos = model.vocabulary.eos
    assert eos is not None
    prompt = [eos, *model.numbers("the gate opens")]
    (choice,) = api.completions.create(
        model="drawn", prompt=prompt, max_tokens=1, temperature=0, echo=True, logprobs=1
    ).choices
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    first, *logs, _ = choice.logprobs.token_logprobs
    assert first is None
    # Single steps and a block: test_runtime.py, CLOSE.
    assert logs == pytest.approx([log for _, log in model.score("the gate opens")], rel=1e-5, abs=1e-5)


def test_alternatives_of_written_tokens(api: openai.OpenAI, model: Model) -> None:
    (choice,) = api.completions.create(
        model="drawn", prompt="the gate", max_tokens=4, temperature=0, logprobs=3
    ).choices
    table = choice.logprobs
    assert table is not None
    assert table.top_logprobs is not None
    assert table.tokens is not None
    assert table.token_logprobs is not None
    assert table.text_offset is not None
    expected = model.predict("the gate", 3)
    assert sorted(table.top_logprobs[0].values(), reverse=True) == pytest.approx(
        [math.log(y) for _, y in expected]
    )
    for token, log, top in zip(table.tokens, table.token_logprobs, table.top_logprobs, strict=True):
        assert top[token] == log == max(top.values())
    assert table.text_offset[0] == len("the gate")


def test_stops_cut_the_text(api: openai.OpenAI, model: Model) -> None:
    whole = written(model, "the gate", 40, 3)
    for stop in (whole[20:26], whole[9:11], "never there", whole[:1]):
        place = whole.find(stop)
        for stream in (False, True):
            if stream:
                chunks = [
                    chunk.choices[0]
                    for chunk in api.completions.create(
                        model="drawn",
                        prompt="the gate",
                        max_tokens=40,
                        seed=3,
                        stop=[stop, "\0"],
                        stream=True,
                    )
                ]
                text, finish = "".join(chunk.text for chunk in chunks), chunks[-1].finish_reason
            else:
                (choice,) = api.completions.create(
                    model="drawn", prompt="the gate", max_tokens=40, seed=3, stop=stop
                ).choices
                text, finish = choice.text, choice.finish_reason
            assert text == (whole if place < 0 else whole[:place])
            assert finish == ("length" if place < 0 else "stop")


def test_streams_are_the_same_text_in_pieces(api: openai.OpenAI) -> None:
    given = {
        "model": "drawn",
        "prompt": "the gate",
        "max_tokens": 9,
        "seed": 4,
        "n": 2,
        "logprobs": 2,
        "echo": True,
    }
    whole = api.completions.create(**given)  # type: ignore[call-overload]
    texts, tokens, ends = ["", ""], [[], []], [0, 0]  # type: ignore[var-annotated]
    usage = None
    for chunk in api.completions.create(**given, stream=True, stream_options={"include_usage": True}):  # type: ignore[call-overload]
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True)
            ends[choice.index] += choice.finish_reason == "length"
    assert ends == [1, 1]
    assert usage == whole.usage
    for choice in whole.choices:
        assert texts[choice.index] == choice.text
        table = choice.logprobs
        assert tokens[choice.index] == list(zip(table.tokens, table.text_offset, strict=True))


def test_nothing_to_compute(api: openai.OpenAI) -> None:
    for changed in ({"echo": True}, {}, {"echo": True, "logprobs": 1, "prompt": ""}):
        found = api.completions.create(**{"model": "drawn", "prompt": "the gate", "max_tokens": 0, **changed})  # type: ignore[call-overload]
        expected = "the gate" if changed == {"echo": True} else ""
        assert (found.choices[0].text, found.choices[0].finish_reason) == (expected, "length")


def test_refusals_reach_the_client_as_its_own_errors(api: openai.OpenAI, folder: Path) -> None:
    with pytest.raises(openai.NotFoundError, match="'drawn' is served here, got 'other'"):
        api.completions.create(model="other", prompt="the")
    with pytest.raises(
        openai.UnprocessableEntityError, match="n: input should be less than or equal to 8, got 99"
    ):
        api.completions.create(model="drawn", prompt="the", n=99)
    with serving(folder, token="0123456789abcdef") as client:
        url = f"{client.server.url}/v1"
        wrong = openai.OpenAI(base_url=url, api_key="wrong", max_retries=0)
        with wrong, pytest.raises(openai.AuthenticationError):
            wrong.models.list()
        with openai.OpenAI(base_url=url, api_key="0123456789abcdef", max_retries=0) as right:
            assert right.completions.create(model="drawn", prompt="the", max_tokens=2).choices[0].text


@pytest.fixture(scope="module", params=["open", "closed", "closed, with <eos>"])
def described(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    parent, eos = tmp_path_factory.mktemp("described"), "<eos>" in request.param
    with serving(write_folder(parent / "drawn", closed=request.param != "open", eos=eos)) as client:
        yield client


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_answers_are_as_the_openapi_document_says(
    described: Client, mode: schemathesis.GenerationMode
) -> None:
    """What the document allows is granted, what it does not allow is refused, and no answer is another."""
    config = schemathesis.Config.from_dict({"checks": CHECKS})
    document = schemathesis.openapi.from_url(f"{described.server.url}/openapi.json", config=config)
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) == 9
    for operation in operations:
        if operation.body or mode.is_positive:

            @settings(max_examples=20, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: schemathesis.Case) -> None:
                validate(case)

            check()


def test_a_closed_vocabulary_is_described_by_its_words(described: Client) -> None:
    """What its patterns allow is read, and what they do not is refused; an open one has none."""
    schemas = described.get("/openapi.json").json["components"]["schemas"]
    pattern = schemas["Generate"]["properties"]["text"].get("pattern")
    closed = described.post("/predict", {"text": "the zz"}).status == 422
    assert (pattern is not None) == closed
    if pattern is None:
        return
    plain, begun = (form["properties"]["text"]["pattern"] for form in schemas["Predict"]["anyOf"])
    begun_only = ("zz", "th", "the gat", "<unk>", "5", "the zz.th", "the\u2003zz,,")
    for text in ("", "the", " the gate\n", "( the . '", "thegate", "zz the", "the zz ", *begun_only):
        for complete, rule in ((False, plain), (True, begun)):
            status = described.post("/predict", {"text": text, "complete": complete}).status
            assert (status == 200) == (re.search(rule, text) is not None), (text, complete)
    assert re.search(pattern, "the gate") is not None
