"""Text from tokens as they come: whole characters only, and nothing of a stop string."""

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # what a tokenizer decodes to while a character's last bytes are missing
CONTEXT = 6  # tokens decoded again with each new one, since a space may depend on what stands before


class TextStream:
    """The text of an answer, piece by piece.

    decode: from tokens to text. stops: the answer ends before the first of these. trim: leave out white space at the
    beginning, as the chat template's own line break is none of the answer. after: the tokens that it continues, since
    some tokenizers spell a first word without the space before it.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stops: Sequence[str] = (),
        trim: bool = False,
        after: Sequence[int] = (),
    ) -> None:
        self._decode, self._stops, self._trim = decode, [stop for stop in stops if stop], trim
        self._tokens = list(after)
        # Tokens: decoded before `_read`, of which text is given out up to `_known`.
        self._read, self._known = 0, len(self._tokens)
        self._held = ""  # text that may be the beginning of a stop string
        self.text = ""  # all that was given out
        self.stopped = False

    def add(self, token: int) -> str:
        """Return the text that is certain now."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._read : self._known])
        after = self._decode(self._tokens[self._read :])
        if after.endswith(UNFINISHED) and len(self._tokens) - self._known < CONTEXT:
            return ""
        self._read, self._known = max(0, len(self._tokens) - CONTEXT), len(self._tokens)
        if self._read:
            # From here on the text before `_known` is that of the tokens from `_read` on.
            while self._read and self._decode(self._tokens[self._read : self._known]).startswith(UNFINISHED):
                self._read -= 1
        return self._certain(after[len(before) :], last=False)

    def end(self) -> str:
        """Return the rest."""
        before = self._decode(self._tokens[self._read : self._known])
        return self._certain(self._decode(self._tokens[self._read :])[len(before) :], last=True)

    def _certain(self, new: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        if self._trim and not self.text:
            text = text.lstrip()
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, text, self._held = True, text[: min(found)], ""
        elif last:
            self._held = ""
        else:
            kept = max((_overlap(text, stop) for stop in self._stops), default=0)
            text, self._held = text[: len(text) - kept], text[len(text) - kept :]
        self.text += text
        return text


def _overlap(text: str, stop: str) -> int:
    """Return how many of the last characters may be the beginning of a stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def cut(text: str, stops: Sequence[str]) -> str:
    """Return what stands before the first stop string."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]
