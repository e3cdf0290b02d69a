"""Tokens back to text as people write it."""

__all__ = ["Detokeniser"]

NO_SPACE_BEFORE = frozenset([*",.;:!?%)]}’”", "...", "n't", "--"])
NO_SPACE_AFTER = frozenset(["(", "[", "{", "$", "£", "“", "‘", "--"])
JOINING = {"@-@": "-", "@,@": ",", "@.@": "."}  # WikiText writes "guest @-@ starring", "1 @,@ 000"


class Detokeniser:
    r"""Write tokens one by one, each with the space that belongs before it.

    Straight quotation marks open and close in turn. An ``<eos>`` ends the line.

    Examples
    --------
    >>> write = Detokeniser()
    >>> "".join(map(write, 'He said , " it is a guest @-@ starring role . "'.split()))
    'He said, "it is a guest-starring role."'
    >>> "".join(map(Detokeniser(), ["do", "n't", "<eos>", "it", "'s"]))
    "don't\nit's"
    """

    def __init__(self) -> None:
        self._glue = True  # no space before the next token: a line begins
        self._quoting: set[str] = set()

    def __call__(self, token: str) -> str:
        """Return the token as it is written after those before it."""
        if token == "<eos>":
            self._glue = True
            self._quoting.clear()
            return "\n"
        if token in JOINING:
            self._glue = True
            return JOINING[token]
        before = "" if self._glue or self._clings(token) else " "
        self._glue = token in NO_SPACE_AFTER
        if token in ('"', "'"):
            opening = token not in self._quoting
            self._quoting ^= {token}
            before = before if opening else ""
            self._glue = opening
        return before + token

    def fork(self) -> "Detokeniser":
        """Return one that has written the same: what it writes next changes nothing here."""
        other = Detokeniser()
        other._glue = self._glue
        other._quoting = set(self._quoting)
        return other

    def _clings(self, token: str) -> bool:
        """Tell whether a token follows the last one without a space: a mark, or an ending such as 's."""
        return token in NO_SPACE_BEFORE or (len(token) > 1 and token[0] in "'’" and token[1:].isalpha())
