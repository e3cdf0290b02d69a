"""What the server accepts: the body of each request, every number bounded."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from glassgate.edits import Edit
from glassgate.errors import GlassgateError
from glassgate.runtime.sampling import Sampling

__all__ = [
    "LARGEST_BODY",
    "Body",
    "BodyError",
    "Completion",
    "EditBody",
    "Edited",
    "Generate",
    "Predict",
    "Traced",
    "read_body",
]

LARGEST_BODY = 64 << 10  # bytes
LONGEST_TEXT = 16_384  # characters
MOST_WORDS = 512  # that are written for one request
MOST_EDITS = 256
MOST_UNITS = 4096  # that one edit may name
MOST_STEPS = LONGEST_TEXT + 1
LARGEST_VALUE = 1e6  # that an edit may set, add or scale by: beyond, every gate is saturated long since


def _whole(value: Any) -> Any:
    """Take 5.0 for 5, as JSON Schema does: JSON has one kind of number."""
    return int(value) if type(value) is float and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Count = Annotated[int, Field(ge=1, le=1000), WHOLE]
Words = Annotated[int, Field(ge=1, le=MOST_WORDS), WHOLE]
Temperature = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE]
Value = Annotated[float, Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE, allow_inf_nan=False)]
Unit = Annotated[int, Field(ge=0, le=10_000_000), WHOLE]
Step = Annotated[int, Field(ge=-MOST_STEPS, le=MOST_STEPS), WHOLE]
Number = Annotated[int, Field(ge=0, le=100_000_000), WHOLE]
Numbers = Annotated[list[Number], Field(min_length=1, max_length=4096)]
Neutral = Annotated[float, Field(ge=0, le=0)]

# Of a value that may be of several types one rule says more than an error for each type.
RULES = {
    "prompt": "must be a text, up to 8 texts, word numbers or up to 8 lists of word numbers",
    "stop": "must be a text or up to 4 texts, each of 1 to 64 characters",
    "suffix": "must be null: nothing is put behind",
    "logit_bias": "must be null: probabilities are the model's own",
}


class BodyError(GlassgateError):
    """A body that is not what the request needs."""


class Body(BaseModel):
    """A JSON object with known keys alone, and no value of another type than the one named."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Predict(Body):
    """What stands before, and how many next words are wanted."""

    text: Text
    k: Count = 5
    complete: bool = Field(False, description="The last word is only begun: complete it.")


class Generate(Body):
    """What stands before, and how it is to go on."""

    text: Text
    words: Words = 20
    temperature: Temperature = 1.0
    top_k: Annotated[int, Field(ge=0, le=100_000_000), WHOLE] = 0
    top_p: TopP = 1.0
    seed: Seed = 1

    @property
    def sampling(self) -> Sampling:
        """How a word is drawn."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed)


_CHANGES = ("set", "scale", "add", "clamp")


def _one_change(schema: dict[str, Any]) -> None:
    """Say in the schema what `EditBody` checks: exactly one of the changes is given."""
    schema["oneOf"] = [
        {"required": [name], "properties": {name: {"type": "array" if name == "clamp" else "number"}}}
        for name in _CHANGES
    ]


class EditBody(Body):
    """One change of one gate or state; exactly one of set, scale, add and clamp."""

    model_config = ConfigDict(json_schema_extra=_one_change)

    gate: Annotated[str, Field(max_length=20)]
    set: Value | None = None
    scale: Value | None = None
    add: Value | None = None
    clamp: tuple[Value, Value] | None = Field(None, description="Bounds, the two in any order.")
    units: (
        Annotated[list[Unit], Field(max_length=MOST_UNITS, json_schema_extra={"uniqueItems": True})] | None
    ) = None
    steps: tuple[Step | None, Step | None] | None = Field(
        None, description="[start, stop] as in a slice: stop is not edited, below 0 counts from the end."
    )
    layer: Annotated[str, Field(max_length=20)] | None = None

    @model_validator(mode="after")
    def _check(self) -> "EditBody":
        given = [name for name in _CHANGES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of {', '.join(_CHANGES)} expected, got {', '.join(given) or 'none'}"
            )
        return self

    @property
    def edit(self) -> Edit:
        """The edit that it tells of."""
        return Edit(
            self.gate,
            set=self.set,
            scale=self.scale,
            add=self.add,
            clamp=None if self.clamp is None else (min(self.clamp), max(self.clamp)),
            units=self.units,
            steps=None if self.steps is None else slice(*self.steps),
            layer=self.layer,
        )


Edits = Annotated[list[EditBody], Field(max_length=MOST_EDITS)]


class Traced(Body):
    """A text to be read with every gate in view, edited or not."""

    text: Text
    k: Count = 10
    edits: Edits = []
    complete: bool = Field(
        False, description="A last word that the model does not know is only begun: complete it."
    )


class Edited(Traced):
    """A text, and edits whose effect on the next word is wanted."""


class StreamOptions(Body):
    """What a stream of a completion ends with."""

    include_usage: bool = False


class Completion(Body):
    """What the OpenAI API calls a completion; what this server cannot do is refused, not ignored."""

    model: Annotated[str, Field(max_length=255)] | None = None
    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=8)]
        | Numbers
        | Annotated[list[Numbers], Field(min_length=1, max_length=8)]
    ) = ""
    max_tokens: Annotated[int, Field(ge=0, le=MOST_WORDS), WHOLE] | None = 16
    temperature: Temperature | None = 1.0
    top_p: TopP | None = 1.0
    n: Annotated[int, Field(ge=1, le=8), WHOLE] | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=100), WHOLE] | None = None
    echo: bool | None = False
    stop: (
        Annotated[str, Field(min_length=1, max_length=64)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=4)]
        | None
    ) = None
    seed: Seed | None = None
    user: Annotated[str, Field(max_length=255)] | None = None
    # What the API offers beside these is taken where it changes nothing.
    presence_penalty: Neutral | None = 0
    frequency_penalty: Neutral | None = 0
    best_of: Annotated[int, Field(ge=1, le=1), WHOLE] | None = None
    suffix: None = None
    logit_bias: None = None


B = TypeVar("B", bound=Body)


def read_body(kind: type[B], body: bytes) -> B:
    """Read the body of a request.

    Parameters
    ----------
    kind
        What is expected.
    body
        JSON in UTF-8.

    Raises
    ------
    BodyError
        When it is something else, in one line.

    Examples
    --------
    >>> read_body(Predict, b'{"text": "the gate"}').k
    5
    >>> read_body(Predict, b'{"text": "the gate", "k": 0}')
    Traceback (most recent call last):
    glassgate.server.bodies.BodyError: k: input should be greater than or equal to 1, got 0
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise BodyError(_line(kind, error)) from None


def _line(kind: type[Body], error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = [str(place) for place in first["loc"]]
    field = where[0] if where else ""
    if first["type"] == "extra_forbidden":
        of = kind if len(where) == 1 else EditBody if field == "edits" else StreamOptions
        return f"{'.'.join(where)[:80]!r}: is not known here; known are {', '.join(of.model_fields)}"
    if first["type"] == "missing":
        return f"{'.'.join(where)}: is missing"
    message = first["msg"].removeprefix("Value error, ")
    if field in RULES:
        return f"{field}: {RULES[field]}"
    message = message[:1].lower() + message[1:]
    if not where:
        return f"the body: {message}"
    if first["type"] == "value_error":
        return f"{'.'.join(where)}: {message}"
    came = repr(first["input"])
    return f"{'.'.join(where)}: {message}, got {came if len(came) <= 60 else came[:57] + '...'}"
