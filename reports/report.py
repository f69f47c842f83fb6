"""Checks the report in README.md and converts it to one HTML file.

uv run python reports/report.py check    # word limits, images and checklist; prints the number of words of each answer
uv run python reports/report.py html     # the same, then writes reports/report.html, which contains the images
"""

import base64
import html as html_entities
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

REPORT = Path(__file__).with_name("README.md")
CHECKLIST_ITEMS = 53
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}  # by the suffix of an image


@dataclass(frozen=True)
class Limits:
    """Limits of one answer: least and most words and images. `console` marks images of a cloud console."""

    words: tuple[int, int] | None = None
    images: tuple[int, int] | None = None
    console: bool = False


LIMITS = {
    **{number: Limits(words=(100, 200)) for number in range(1, 32)},
    1: Limits(),
    2: Limits(),
    3: Limits(words=(0, 200)),
    7: Limits(words=(50, 100)),
    11: Limits(words=(200, 300)),
    12: Limits(words=(50, 100)),
    14: Limits(words=(200, 300), images=(1, 3)),
    17: Limits(words=(50, 200)),
    **{number: Limits(images=(1, 2), console=True) for number in (19, 20, 21)},
    28: Limits(words=(0, 200)),
    29: Limits(words=(200, 400), images=(1, 1)),
    30: Limits(words=(200, 400)),
    31: Limits(words=(50, 300)),
}


@dataclass(frozen=True)
class Answer:
    """The answer to one question: its line in the report, its text with images, and whether it quotes the question."""

    line: int
    text: str
    quotes_question: bool

    @property
    def prose(self) -> str:
        """The text without code blocks and inline code, in which Markdown has no meaning."""
        return re.sub(r"`[^`\n]*`", "", _without_blocks(self.text))

    @property
    def images(self) -> list[str]:
        """The paths of the images."""
        return _IMAGE.findall(self.prose)

    @property
    def not_run(self) -> str | None:
        """The reason why images of a cloud console are missing; None without the marker."""
        found = _NOT_RUN.search(self.prose)
        return found[1] if found else None

    @property
    def words(self) -> int:
        """The number of words, without code blocks, images, comments and addresses of links."""
        text = re.sub(r"<!--.*?-->", " ", _IMAGE.sub(" ", _without_blocks(self.text)), flags=re.DOTALL)
        text = re.sub(r"\]\([^)\s]*\)", "] ", text)
        return sum(any(letter.isalnum() for letter in word) for word in text.split())


_IMAGE = re.compile(r"!\[[^\]]+\]\(([^)\s]+)\)")
_NOT_RUN = re.compile(r"<!-- not run: (\S[^\n]*?) -->")
_HEADING = re.compile(r"(#{1,3}) (.*)")
_ITEM = re.compile(r"[*+-] \[([^\]]*)\] (.*)")
_FENCE = re.compile(r"(```+|~~~+)")


def _without_blocks(text: str) -> str:
    return "\n".join(line for _, line in _lines(text))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields the lines outside of code blocks, with their numbers from 1."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        found = _FENCE.match(line.lstrip())
        if fence:
            fence = "" if line.strip().startswith(fence) else fence
        elif found:
            fence = found[1]
        else:
            yield number, line


def read_answers(text: str) -> tuple[dict[int, Answer], list[str]]:
    """Returns the answers by the number of their question, and problems with the headings."""
    headings = [(number, found) for number, line in _lines(text) if (found := _HEADING.fullmatch(line.rstrip()))]
    lines, problems = text.splitlines(), []
    answers: dict[int, Answer] = {}
    for (line, heading), (end, _) in zip(headings, [*headings[1:], (len(lines) + 1, None)], strict=False):
        if not heading[2].lower().startswith("question"):
            continue
        numbered = re.fullmatch(r"Question ([1-9][0-9]*)", heading[2])
        number = int(numbered[1]) if numbered else 0
        if heading[1] != "###" or number not in LIMITS:
            problems.append(f"line {line}: `{heading[0]}` must be `### Question N`, with N from 1 to {len(LIMITS)}")
        elif number in answers:
            problems.append(f"line {line}: question {number} is also in line {answers[number].line}; delete one")
        else:
            body = "\n".join(lines[line : end - 1]).strip()
            rest = re.sub(r"\A(>[^\n]*\n?)+", "", body)
            answers[number] = Answer(line, rest.strip(), quotes_question=rest != body)
    problems += [
        f"question {missing} is missing; add the heading `### Question {missing}`, the question and the answer"
        for missing in sorted(LIMITS.keys() - answers.keys())
    ]
    if list(answers) != sorted(answers):
        problems.append(f"the questions are in the order {', '.join(map(str, answers))}; sort them by number")
    return answers, problems


def answer_problems(number: int, answer: Answer) -> Iterator[str]:
    """Yields what is wrong with the length, the markers and the number of images of an answer."""
    limits = LIMITS[number]
    if not answer.quotes_question:
        yield "does not quote the question; put it in front of the answer, in lines that start with `> `"
    least, most = limits.words or (1, None)
    if answer.words < least:
        yield f"has {answer.words} words; at least {least} are needed"
    if most is not None and answer.words > most:
        yield f"has {answer.words} words; at most {most} are allowed"
    if limits.images and not answer.not_run and not limits.images[0] <= len(answer.images) <= limits.images[1]:
        yield f"has {len(answer.images)} images; {limits.images[0]} to {limits.images[1]} are needed"
    markers = _NOT_RUN.findall(answer.prose)
    if re.sub(r"<!--.*?-->", "", answer.prose, flags=re.DOTALL).count("<!--"):
        yield "has a comment without an end; add `-->`"
    elif len(re.findall(r"<!--\W*not\W*run", answer.prose, flags=re.IGNORECASE)) != len(markers):
        yield "has a broken marker; write it in one line, as `<!-- not run: reason -->`"
    if markers and not limits.console:
        numbers = ", ".join(str(number) for number, each in LIMITS.items() if each.console)
        yield f"has a marker `not run`, which only the questions {numbers} may have"
    if markers and answer.images:
        yield "has both images and a marker `not run`; delete one of them"


def image_problems(text: str, folder: Path) -> Iterator[str]:
    """Yields what is wrong with the images of a report. Their paths are relative to `folder`."""
    for number, line in _lines(text):
        prose = re.sub(r"`[^`]*`", "", line)
        images = _IMAGE.findall(prose)
        if len(images) != prose.count("![") + prose.count("<img"):
            yield f"line {number}: write images as `![description](path)`, with a description and a path without spaces"
        yield from (f"line {number}: the image {image} {wrong}" for image in images if (wrong := _wrong(image, folder)))


def _wrong(image: str, folder: Path) -> str | None:
    """Returns why an image cannot be used, or None."""
    path = folder / image
    if re.match(r"[a-z]+:|/", image):
        return "must be a path that is relative to the report"
    if not path.resolve().is_relative_to(folder.parent.resolve()):
        return "is outside of the repository"
    if path.suffix not in TYPES:
        return f"must have one of the suffixes {', '.join(TYPES)}"
    if not path.is_file():
        return "does not exist"
    return None if path.stat().st_size else "is empty"


@dataclass(frozen=True)
class Item:
    """An item of the checklist. A test runs the commands that prove it if they are quick."""

    line: int
    mark: str
    title: str
    commands: tuple[str, ...]
    quick: bool
    reason: str


def read_checklist(text: str) -> list[Item]:
    """Returns the items of the checklist, which is everything before the first question."""
    items, lines = [], text.splitlines()
    questions = (number for number, line in _lines(text) if line.startswith("### Question"))
    end = next(questions, len(lines) + 1)
    for number, line in _lines(text):
        if number < end and (found := _ITEM.fullmatch(line)):
            following = lines[number : end - 1]
            length = next((i for i, each in enumerate(following) if not each.startswith("  ")), len(following))
            body = "\n".join([found[2], *following[:length]])
            title, _, proof = body.partition("**Proof:**")
            title, _, reason = title.partition("**Not done:**")
            commands = tuple(re.findall(r"`([^`\n]+)`", proof))
            items.append(Item(number, found[1], title.strip(), commands, "<!-- quick -->" in proof, reason.strip()))
    return items


def checklist_problems(items: list[Item]) -> Iterator[str]:
    """Yields what is wrong with the checklist."""
    if len(items) != CHECKLIST_ITEMS:
        yield f"the checklist has {len(items)} items; {CHECKLIST_ITEMS} are needed"
    for item in items:
        if item.mark not in ("x", " "):
            yield f"line {item.line}: the mark [{item.mark}] must be [x] or [ ]"
        elif item.mark == "x" and (not item.commands or item.reason):
            yield f"line {item.line}: a ticked item needs `**Proof:**` with a command in backticks, and no reason"
        elif item.mark == " " and (not item.reason or item.commands):
            yield f"line {item.line}: an item that is not ticked needs `**Not done:**` with a reason, and no proof"


def problems(text: str, folder: Path) -> list[str]:
    """Returns all problems of a report.

    Args:
        text: The report in Markdown.
        folder: Folder of the report, a direct subfolder of the repository.
    """
    answers, found = read_answers(text)
    found += checklist_problems(read_checklist(text))
    for number, answer in answers.items():
        found += [f"line {answer.line}: question {number} {each}" for each in answer_problems(number, answer)]
    return [*found, *image_problems(text, folder)]


def to_html(text: str, folder: Path) -> str:
    """Returns the report as one HTML page with all images in it."""
    import markdown

    def embedded(tag: re.Match[str]) -> str:
        path = folder / html_entities.unescape(tag[1])
        return f'src="data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"'

    text = re.sub(r"\n  (\*\*(?:Proof|Not done):\*\* )", r"<br>\1", text)
    text = re.sub(r"^([*+-] )\[x\] ", r"\1&#9745; ", text, flags=re.MULTILINE)
    text = re.sub(r"^([*+-] )\[ \] ", r"\1&#9744; ", text, flags=re.MULTILINE)
    body = markdown.markdown(text, extensions=["tables", "fenced_code", "sane_lists", "toc"])
    body = re.sub(r'src="([^":]+)"', embedded, body)
    return _PAGE.format(title=html_entities.escape(text.partition("\n")[0].lstrip("# ")), body=body)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 50rem; margin: auto; padding: 1rem; overflow-wrap: anywhere }}
img {{ max-width: 100%; height: auto; background: white }}
table {{ overflow-x: auto; display: block; overflow-wrap: normal }}
code {{ font-size: .9em }}
pre {{ white-space: pre-wrap; padding: .8rem; border: 1px solid #8886; border-radius: .3rem }}
th, td {{ border: 1px solid #8886; padding: .2rem .6rem; text-align: left }}
blockquote {{ margin: 0; padding-left: 1rem; border-left: .25rem solid #8886 }}
</style>
{body}
</html>
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Report = Annotated[Path, typer.Option(help="report in Markdown")]


@app.command()
def check(report: Report = REPORT) -> None:
    """Check word limits, images and checklist."""
    _check(report, _read(report))


@app.command("html")
def write_html(
    report: Report = REPORT,
    out: Annotated[Path | None, typer.Option(help="file to write; default: report.html next to the report")] = None,
) -> None:
    """Check the report and write it as one HTML file."""
    text = _read(report)
    _check(report, text)
    path = out or report.with_name("report.html")
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(to_html(text, report.parent), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        _fail(f"Cannot write {path}: {error}.")
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _read(report: Path) -> str:
    try:
        return report.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"Cannot read the report {report}: {error}.")


def _check(report: Path, text: str) -> None:
    """Prints the words and images of each answer and exits with 1 if the report has problems."""
    answers, _ = read_answers(text)
    typer.echo("question   words   allowed      images")
    for number, answer in sorted(answers.items()):
        words = LIMITS[number].words
        allowed = f"{words[0]} to {words[1]}" if words else "any"
        images = "not run" if answer.not_run else str(len(answer.images) or "")
        typer.echo(f"{number:8} {answer.words:7}   {allowed:11}  {images}".rstrip())
    for number, answer in sorted(answers.items()):
        if answer.not_run:
            typer.echo(f"Not run: question {number}: {answer.not_run}")
    items = read_checklist(text)
    ticked = sum(item.mark == "x" for item in items)
    typer.echo(f"Checklist: {ticked} of {len(items)} ticked, {sum(item.quick for item in items)} proved by a test.")
    found = problems(text, report.parent)
    for problem in found:
        typer.echo(f"{report.name}: {problem}.", err=True)
    if found:
        _fail(f"{report} is not correct. Problems, listed above: {len(found)}.")


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
