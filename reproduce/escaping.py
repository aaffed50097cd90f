"""Text from outside, made safe to print, to record and to put into Markdown: it is shown, and does nothing."""

import re

# Up to the last @ before the path, as a password may contain one.
USER_INFO = re.compile(r"(?<=://)[^\s/?#]*@")
SECRET_ARGUMENT = re.compile(r"(?i)(?<=[?&;])(\w*(?:password|passwd|pwd|token|secret|signature|sig|key)=)[^\s&;#]*")
SENTENCE_END = re.compile(r"(?<=[a-z)'\"`])[.!?](?= [A-Z`])")
# Characters that have a meaning in Markdown, and what shows them.
MARKDOWN = str.maketrans({"&": "&amp;", "<": "&lt;", "|": "\\|", "[": "\\[", "`": "&#96;"})


def printable(text: str) -> str:
    r"""Return the text in one line, with control characters written out: an escape character is \x1b."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in " ".join(text.split())
    )


def sentences(text: str, longest: int = 300) -> str:
    """Return the first sentences, as many as fit, without the last stop; of one sentence that is too long, words."""
    if len(text) <= longest:
        return text
    ends = [match.end() for match in SENTENCE_END.finditer(text) if match.end() <= longest]
    return text[: ends[-1] - 1] if ends else f"{text[:longest].rpartition(' ')[0] or text[:longest]} …"


def short_line(text: str) -> str:
    """Return what a program or a server said, in one short line without passwords."""
    return sentences(printable(without_credentials(text)), 200)


def without_credentials(text: str) -> str:
    """Return the text with `***` for user, password and tokens in the addresses in it."""
    return SECRET_ARGUMENT.sub(r"\1***", USER_INFO.sub("***@", text))


def markdown(text: str) -> str:
    """Return the text as a cell of a Markdown table, in which it is no markup, no link and no image."""
    return printable(text).translate(MARKDOWN)
