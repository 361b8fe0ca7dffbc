"""The documents against the program: commands parse, links lead somewhere, nothing names a machine."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from emvfm.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SHELLS = {"sh", "bash", "shell", "console", "zsh"}
FENCE = re.compile(r"^(?P<mark>`{3,}|~{3,})(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=mark)", re.M | re.S)
INLINE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)<>\s]+)>?(?:\s+[\"'][^)]*)?\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(\s*<?([^)<>\s]+)")  # also one that is itself the text of a link
REFERENCE = re.compile(r"^\[[^\]]+\]:\s*(\S+)", re.M)
HTML = re.compile(r"<(?:img|a)\b[^>]*?\b(?:src|href)=[\"']([^\"']+)", re.I)
PLACEHOLDER = re.compile(r"[A-Z][A-Z_0-9]*|<.+>|.*(?:…|\.\.\.).*")


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _shell_lines(text: str) -> list[str]:
    """Return the command lines of all shell blocks, continued lines joined, prompts and comments gone."""
    lines = []
    for fence in FENCE.finditer(text):
        words = fence["language"].split() or [""]
        if words[0].lower() not in SHELLS:
            continue
        commands = fence["body"].replace("\\\n", " ").splitlines()
        if words[0] == "console":  # without a prompt it is output
            commands = [line[2:] for line in commands if line.startswith("$ ")]
        lines += [line.strip().removeprefix("$ ") for line in commands]
    return [line for line in lines if line and not line.startswith("#")]


def _calls(line: str) -> list[list[str]]:
    """Split a line of shell into the words of each call of emvfm in it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&")
    lexer.whitespace_split = True
    calls: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();|&"):
            calls.append([])
        else:
            calls[-1].append(word)
    found = []
    for words in calls:
        while words and re.fullmatch(r"\w+=.*", words[0]):  # VARIABLE=value before the program
            words = words[1:]
        if words[:3] == ["python", "-m", "emvfm"]:
            words = words[2:]
        if words[:1] == ["emvfm"]:
            found.append(words[1:])
    return found


def _options(command: Any) -> dict[str, Any]:
    options = {name: p for p in command.params for name in (*p.opts, *p.secondary_opts) if name[:1] == "-"}
    return options | dict.fromkeys(("--help", "-h"))


def _problem(words: list[str]) -> str | None:
    """Say what is wrong with the words after ``emvfm``, None if nothing is; no command is run."""
    command: Any = typer.main.get_command(app)
    path = ["emvfm"]
    words = list(words)
    while hasattr(command, "commands") and words:
        word = words.pop(0)
        if word.startswith("-"):
            if word not in _options(command):
                return f"{' '.join(path)} has no option {word}"
        elif word in command.commands:
            command = command.commands[word]
            path.append(word)
        else:
            return f"{' '.join(path)} has no command {word}"
    known = _options(command)
    for word in words[: words.index("--")] if "--" in words else words:
        name = word.partition("=")[0]
        if re.match(r"-{1,2}[A-Za-z]", word) and name not in known:
            return f"{' '.join(path)} has no option {name}"
    return None


def _refusal(words: list[str]) -> str | None:
    """Say why the program would not even begin with these words: arguments missing, values out of range."""
    command: Any = typer.main.get_command(app)
    if any(word in ("--help", "-h", "--version") for word in words):
        return None
    context, words = None, list(words)
    while hasattr(command, "commands") and words and words[0] in command.commands:
        context = command.make_context("emvfm", [], parent=context, resilient_parsing=True)
        command = command.commands[words.pop(0)]
    if hasattr(command, "commands"):
        return None
    try:
        command.make_context("emvfm", list(words), parent=context)  # it empties the list
    except Exception as error:  # of the parser vendored by Typer, which has no public name
        placeholders = any(PLACEHOLDER.fullmatch(word) for word in words)
        if placeholders and type(error).__name__ == "BadParameter":
            return None
        return f"{type(error).__name__}: {error}"
    return None


DOCUMENTED = [
    pytest.param(call, id=f"{_name(page)}: {shlex.join(call)}")
    for page in PAGES
    for line in _shell_lines(page.read_text(encoding="utf-8"))
    for call in _calls(line)
]


@pytest.mark.parametrize("call", DOCUMENTED)
def test_documented_commands_parse(call: list[str]) -> None:
    assert _problem(call) is None
    assert _refusal(call) is None


def test_commands_named_in_sentences_exist() -> None:
    wrong = []
    for page in PAGES:
        prose = FENCE.sub("", page.read_text(encoding="utf-8"))
        for span in INLINE.finditer(prose):
            text = " ".join(span[2].split())
            # A name may stand for several: `emvfm data fetch | audit`. Only its first is looked at.
            for call in _calls(text)[:1] if text.startswith("emvfm ") else ():
                problem = _problem(call)
                if problem is not None:
                    wrong.append(f"{_name(page)}: `{text}`: {problem}")
    assert not wrong


def test_a_wrong_command_line_is_recognised() -> None:
    assert _calls("A=1 emvfm demo && python -m emvfm data list | head  # emvfm no") == [
        ["demo"],
        ["data", "list"],
    ]
    assert _problem(["domain", "fd", "a", "b", "--layer", "-1", "--json"]) is None
    assert _problem(["domain", "fd", "--permutations=99", "--", "--not-an-option"]) is None
    assert _problem(["no-such-command"]) == "emvfm has no command no-such-command"
    assert _problem(["domain", "df", "a", "b"]) == "emvfm domain has no command df"
    assert _problem(["domain", "fd", "a", "b", "--lora"]) == "emvfm domain fd has no option --lora"
    assert _problem(["domain", "fd", "a", "--permutation=9"]) == "emvfm domain fd has no option --permutation"
    assert _problem(["--verbose", "demo"]) == "emvfm has no option --verbose"
    assert _refusal(["domain", "fd", "a", "b"]) is None
    assert "MissingParameter" in str(_refusal(["domain", "fd"]))
    assert "'max' is not one of" in str(_refusal(["domain", "fd", "a", "b", "--pool", "max"]))
    assert _refusal(["domain", "fd", "A", "B", "--seed", "N"]) is None


def test_shell_blocks_are_found_whatever_their_form() -> None:
    text = (
        "```sh\n$ emvfm a \\\n  --b\n# no\n```\n```python\nemvfm c\n```\n"
        "~~~bash\nemvfm d\n~~~\n```console\n$ emvfm e\nemvfm said\n```\n"
    )
    assert [line.split() for line in _shell_lines(text)] == [
        ["emvfm", "a", "--b"],
        ["emvfm", "d"],
        ["emvfm", "e"],
    ]


def _setup_commands() -> list[str]:
    """Return the shell lines of the README before its second heading."""
    opening = re.split(r"^## ", (ROOT / "README.md").read_text(encoding="utf-8"), maxsplit=1, flags=re.M)[0]
    return _shell_lines(opening)


def test_the_readme_sets_up_with_two_commands_and_the_second_is_what_ci_runs() -> None:
    commands = _setup_commands()
    assert len(commands) == 2
    assert commands[0].startswith("python -m pip install .")
    assert _calls(commands[0]), "the first command shows the program at work"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    steps = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert steps == [commands[1]]


def test_pages_repeat_the_set_up_of_the_readme_word_for_word() -> None:
    different = [
        f"{_name(page)}: {line}"
        for page in PAGES
        for line in _shell_lines(page.read_text(encoding="utf-8"))
        if "pip install" in line and line not in _setup_commands()
    ]
    assert not different


def test_nox_runs_by_default_what_the_readme_promises() -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^nox\.options\.sessions = \[(.*?)\]", noxfile, re.M | re.S)
    sessions = re.findall(r"\"(\w+)\"", listed)
    assert set(sessions) >= {"tests", "lint", "types", "docs"}
    assert set(sessions) <= set(re.findall(r"^def (\w+)\(session", noxfile, re.M))


def _targets(text: str) -> list[str]:
    prose = INLINE.sub("", FENCE.sub("", text))
    return [target for pattern in (LINK, IMAGE, REFERENCE, HTML) for target in pattern.findall(prose)]


def _anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and Python-Markdown make them."""
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", h.replace("`", "").lower()).strip().replace(" ", "-") for h in headings}


def _lost(page: Path, text: str) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    lost = []
    for target in _targets(text):
        if re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.I):
            continue
        path, _, anchor = unquote(target).partition("#")
        goal = (page.parent / path) if path else page
        inside = goal.resolve().is_relative_to(ROOT)
        if not inside or not goal.exists():
            lost += [target] if target not in lost else []
        elif anchor and goal.suffix == ".md":
            there = text if goal == page else goal.read_text(encoding="utf-8")
            if anchor not in _anchors(there):
                lost.append(target)
    return lost


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_and_images_exist(page: Path) -> None:
    assert not _lost(page, page.read_text(encoding="utf-8"))


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = (
        "# A title, `code`\n[ok](docs/index.md) ![no](no.png) [![in](in.png)](README.md) [up](../x)\n"
        '[here](#a-title-code) [not](#b) <img src="lost.svg" width=3> [web](https://example.org/x)\n'
        '`[code](code.md)` [t](docs/index.md#none "title")\n\n[r]: ref.md\n```sh\n[f](fence.md)\n```\n'
    )
    assert set(_lost(ROOT / "README.md", text)) == {
        *("no.png", "in.png", "../x", "#b", "lost.svg", "docs/index.md#none", "ref.md"),
    }


def _tracked() -> list[Path]:
    """Return the files git knows, or skip: an unpacked archive has none."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


# Homes and scratch folders of some machine; a path such as docs/home/ or https://host/home/ is not meant.
MACHINE = re.compile(
    r"(?<![\w.~/})-])(?:/(?:home|Users|root|tmp|mnt|media|work|workspace|scratch|opt|private/var)/\w|[A-Za-z]:\\\\?Users\\)"
)


def test_no_file_names_a_path_of_a_machine() -> None:
    here = {str(folder) for folder in (ROOT, Path.home()) if len(folder.parts) > 2}
    named = []
    for path in _tracked():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if MACHINE.search(line) or any(folder in line for folder in here):
                named.append(f"{_name(path)}:{number}: {line.strip()[:100]}")
    assert not named


def test_paths_of_machines_are_recognised() -> None:
    slash = "/"  # put together here, so that this file names none
    for path in ("home/me/x", "root/x", "tmp/x", "Users/me", "work/main"):
        assert MACHINE.search(f'open("{slash}{path}")'), path
        assert not MACHINE.search(f"https://example.org{slash}{path}")
        assert not MACHINE.search(f"path{slash}to{slash}{path}")
        assert not MACHINE.search(f"{{folder}}{slash}{path}")
    assert MACHINE.search("C:" + "\\Users\\me")
