"""The report of the course: `reports/report.py` and what it checks in `reports/README.md`."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import tasks
from reports import report
from src.mlops import ROOT

TEXT = report.REPORT.read_text(encoding="utf-8")
ITEMS = report.read_checklist(TEXT)
QUICK = [command for item in ITEMS if item.quick for command in item.commands]


def run(command: str, path: Path, *options: str) -> Result:
    return CliRunner().invoke(report.app, [command, "--report", str(path), *options])


def section(number: int, body: str, question: str = "> Why?") -> str:
    return f"### Question {number}\n\n{question}\n\n{body}\n\n"


def words(number: int) -> str:
    return " ".join(["word"] * number)


@pytest.fixture
def sections(tmp_path: Path) -> dict[int, str]:
    """Returns a correct answer to each question. The images that they need exist."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/a.png").write_bytes(b"image")
    found = {}
    for number, limits in report.LIMITS.items():
        least = limits.words[0] if limits.words else 1
        images = "\n\n![an image](a.png)" * (limits.images[0] if limits.images else 0)
        found[number] = section(number, words(least) + images)
    return found


@pytest.fixture
def path(tmp_path: Path, sections: dict[int, str]) -> Path:
    return tmp_path / "reports" / "README.md"


def write(path: Path, sections: dict[int, str], items: list[str] | None = None) -> None:
    checklist = items or ["* [x] Done\n  **Proof:** `true`"] * report.CHECKLIST_ITEMS
    path.write_text("\n".join(["# Report", "", *checklist, "", *sections.values()]), encoding="utf-8")


class TestTheReport:
    def test_passes(self) -> None:
        result = run("check", report.REPORT)
        assert result.exit_code == 0, result.stderr
        assert [line[:21] for line in result.stdout.splitlines() if line.startswith("Not run")] == [
            "Not run: question 19:",
            "Not run: question 20:",
            "Not run: question 21:",
        ]

    def test_is_converted_to_one_file(self, tmp_path: Path) -> None:
        result = run("html", report.REPORT, "--out", str(tmp_path / "report.html"))
        assert result.exit_code == 0, result.stderr
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        sources = re.findall(r'<img [^>]*src="([^"]{10})', page)
        assert len(sources) >= 3
        assert set(sources) == {"data:image"}
        assert page.count("<h3") >= 31
        assert "&#9745; Create a git repository" in page or "☑ Create a git repository" in page

    @pytest.mark.parametrize("command", QUICK)
    def test_quick_commands_of_the_checklist_succeed(self, command: str) -> None:
        folder = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        result = subprocess.run(
            command.removeprefix("uv run "),
            shell=True,
            cwd=ROOT,
            env={**os.environ, "PATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr

    def test_commands_name_files_that_exist(self) -> None:
        spans = " ".join(re.findall(r"`([^`\n]+)`|^(?:uv|docker|curl) [^\n]*", TEXT, flags=re.MULTILINE))
        named = set(re.findall(r"(?:tests|benchmarks|src|docs|configshydra|dockerfiles)/[\w/.-]*\w", spans))
        assert len(named) > 20
        assert [name for name in sorted(named) if not (ROOT / name).exists()] == []

    def test_commands_name_tasks_that_exist(self) -> None:
        named = set(re.findall(r"\binv ([a-z][a-z0-9-]+(?:\.[a-z][a-z-]+)?)", TEXT))
        assert len(named) > 20
        assert named <= {*tasks.namespace.task_names}

    def test_committed_images_are_small(self) -> None:
        images = list((ROOT / "reports" / "figures").iterdir())
        assert images
        assert max(image.stat().st_size for image in images) < 200_000

    def test_generated_results_are_ignored_and_figures_are_not(self) -> None:
        generated = ["reports/latest/metrics.json", "reports/pipeline/metrics.json", "reports/report.html"]
        committed = ["reports/README.md", "reports/report.py", "reports/figures/new.png"]
        result = subprocess.run(
            ["git", "check-ignore", *generated, *committed], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert result.stdout.split() == generated


def test_a_correct_report_passes(path: Path, sections: dict[int, str]) -> None:
    write(path, sections)
    result = run("check", path)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"^ +14 +200 +200 to 300 +1$", result.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("number", "body", "message"),
    [
        (4, words(201), "question 4 has 201 words; at most 200 are allowed"),
        (4, words(99), "question 4 has 99 words; at least 100 are needed"),
        (1, "", "question 1 has 0 words; at least 1 are needed"),
        (4, words(99) + "\n\n```bash\nmore words\n```\n<!-- hidden words -->", "question 4 has 99 words"),
        (4, words(99) + " - --- *", "question 4 has 99 words"),
        (14, words(200), "question 14 has 0 images; 1 to 3 are needed"),
        (14, words(200) + "\n![a](a.png)" * 4, "question 14 has 4 images; 1 to 3 are needed"),
        (14, words(200) + "\n`![a](a.png)`", "question 14 has 0 images"),
        (29, words(200) + "\n```\n![a](a.png)\n```", "question 29 has 0 images; 1 to 1 are needed"),
        (19, "None", "question 19 has 0 images; 1 to 2 are needed"),
        (19, "<!-- not run: no project --> none\n![a](a.png)", "both images and a marker `not run`"),
        (19, "<!-- not run -->\nnone", "question 19 has a broken marker"),
        (19, "<!-- not-run: no project -->\nnone", "question 19 has a broken marker"),
        (19, "<!-- NOT RUN: no project -->\nnone", "question 19 has a broken marker"),
        (19, "<!-- not run: -->\nnone", "question 19 has a broken marker"),
        (19, "<!-- not run: no project\nnone", "question 19 has a comment without an end"),
        (14, f"<!-- not run: no account -->\n{words(200)}", "which only the questions 19, 20, 21 may have"),
        (14, words(200) + "\n![a](none.png)", "the image none.png does not exist"),
        (14, words(200) + "\n![a](empty.png)", "the image empty.png is empty"),
        (14, words(200) + "\n![a](../../a.png)", "the image ../../a.png is outside of the repository"),
        (14, words(200) + "\n![a](https://example.org/a.png)", "must be a path that is relative to the report"),
        (14, words(200) + "\n![a](/a.png)", "must be a path that is relative to the report"),
        (14, words(200) + "\n![a](README.md)", "must have one of the suffixes .png, .jpg, .svg"),
        (14, words(200) + "\n![](a.png)", "write images as `![description](path)`"),
        (14, words(200) + "\n![a](a b.png)", "write images as `![description](path)`"),
        (14, words(200) + '\n<img src="a.png">', "write images as `![description](path)`"),
    ],
)
def test_a_wrong_answer_is_named(path: Path, sections: dict[int, str], number: int, body: str, message: str) -> None:
    (path.parent / "empty.png").touch()
    write(path, {**sections, number: section(number, body)})
    result = run("check", path)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("number", "changed", "message"),
    [
        (7, "", "question 7 is missing"),
        (7, section(8, words(100)), "question 8 is also in line"),
        (7, section(70, words(50)), "`### Question 70` must be `### Question N`, with N from 1 to 31"),
        (7, section(7, words(50)).replace("###", "##"), "`## Question 7` must be `### Question N`"),
        (7, section(7, words(50)).replace("n 7", "n seven"), "`### Question seven` must be"),
        (7, "```\n" + section(7, words(50)) + "```\n\n", "question 7 is missing"),
        (7, section(7, words(50), question=""), "question 7 does not quote the question"),
    ],
)
def test_wrong_questions_are_named(
    path: Path, sections: dict[int, str], number: int, changed: str, message: str
) -> None:
    write(path, {**sections, number: changed})
    result = run("check", path)
    assert result.exit_code == 1
    assert message in result.stderr


def test_questions_in_another_order_are_named(path: Path, sections: dict[int, str]) -> None:
    write(path, dict(reversed(sections.items())))
    assert "sort them by number" in run("check", path).stderr


def test_images_of_a_cloud_console_can_be_marked_as_not_run(path: Path, sections: dict[int, str]) -> None:
    write(path, {**sections, 20: section(20, "<!-- not run: no project -->\nAn emulator.")})
    result = run("check", path)
    assert result.exit_code == 0, result.stderr
    assert "Not run: question 20: no project\n" in result.stdout


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("* [x] Use `data.py` (M6)", "a ticked item needs `**Proof:**`"),
        ("* [x] Done\n  **Proof:** it works", "a ticked item needs `**Proof:**`"),
        ("* [x] Done\n  **Not done:** `true`", "a ticked item needs `**Proof:**`"),
        ("* [ ] Open", "an item that is not ticked needs `**Not done:**`"),
        ("* [ ] Open\n  **Proof:** `true`", "an item that is not ticked needs `**Not done:**`"),
        ("* [X] Done\n  **Proof:** `true`", "the mark [X] must be [x] or [ ]"),
        ("Done", "the checklist has 52 items; 53 are needed"),
    ],
)
def test_a_wrong_item_of_the_checklist_is_named(path: Path, sections: dict[int, str], item: str, message: str) -> None:
    correct = ["* [ ] Open\n  **Not done:** no project."] * (report.CHECKLIST_ITEMS - 1)
    write(path, sections, [*correct, item])
    result = run("check", path)
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b""])
def test_a_file_that_is_no_report_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "README.md").write_bytes(content)
    result = run("check", tmp_path / "README.md")
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert isinstance(result.exception, SystemExit)


class TestHtml:
    def test_contains_images_and_the_checklist(self, path: Path, sections: dict[int, str]) -> None:
        write(path, sections)
        result = run("html", path)
        assert result.exit_code == 0, result.stderr
        page = (path.parent / "report.html").read_text(encoding="utf-8")
        assert f'src="data:image/png;base64,{base64.b64encode(b"image").decode()}"' in page
        assert "[x]" not in page

    def test_text_in_code_is_not_changed(self, path: Path, sections: dict[int, str]) -> None:
        code = '```html\n<p title="&">src="a.png"</p>\n```'
        write(path, {**sections, 3: section(3, code)})
        assert run("html", path).exit_code == 0
        page = (path.parent / "report.html").read_text(encoding="utf-8")
        assert "&lt;p title=&quot;&amp;&quot;&gt;src=&quot;a.png&quot;&lt;/p&gt;" in page

    def test_a_wrong_report_leaves_the_page_as_it_is(self, path: Path, sections: dict[int, str]) -> None:
        (path.parent / "report.html").write_text("before")
        write(path, {**sections, 7: ""})
        assert run("html", path).exit_code == 1
        assert (path.parent / "report.html").read_text() == "before"

    def test_a_page_that_cannot_be_written_is_an_error(self, path: Path, sections: dict[int, str]) -> None:
        write(path, sections)
        result = run("html", path, "--out", str(path / "report.html"))
        assert result.exit_code == 1
        assert "error: Cannot write" in result.stderr
