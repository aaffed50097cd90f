"""Text from outside made fit to be printed, recorded or put into Markdown: it is shown, and does nothing."""

import re

USER_INFO = re.compile(r"(?<=://)[^\s/?#]*@")  # up to the last @ before the path: a password may have one itself
SECRET_ARGUMENT = re.compile(r"(?i)(?<=[?&;])(\w*(?:password|passwd|pwd|token|secret|signature|sig|key)=)[^\s&;#]*")
SENTENCE_END = re.compile(r"(?<=[a-z)'\"`])[.!?](?= [A-Z`])")
# What begins something in Markdown, as what shows it.
MARKDOWN = str.maketrans({"&": "&amp;", "<": "&lt;", "|": "\\|", "[": "\\[", "`": "&#96;"})


def printable(text: str) -> str:
    r"""The text in one line, with whatever could steer a terminal written out: an escape character is \x1b."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in " ".join(text.split())
    )


def sentences(text: str, longest: int = 300) -> str:
    """The first sentences of a text, as many as fit, without the last stop; of one that is too long the first words."""
    if len(text) <= longest:
        return text
    ends = [match.end() for match in SENTENCE_END.finditer(text) if match.end() <= longest]
    return text[: ends[-1] - 1] if ends else f"{text[:longest].rpartition(' ')[0] or text[:longest]} …"


def short_line(text: str) -> str:
    """Return what a program or a server said, in one short line without passwords."""
    return sentences(printable(without_credentials(text)), 200)


def without_credentials(text: str) -> str:
    """The text with user, password and tokens taken out of the addresses in it."""
    return SECRET_ARGUMENT.sub(r"\1***", USER_INFO.sub("***@", text))


def markdown(text: str) -> str:
    """The text as a cell of a Markdown table that reads as it does: no markup of its own, no link, no image."""
    return printable(text).translate(MARKDOWN)
