"""The words of the code are the field's words: what a reader finds in a textbook, in PyTorch or in Detectron2."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
THIS = Path(__file__).resolve()

# A word that nobody finds in a textbook, and the word to use instead.
BANNED = {
    r"wish(es|ed)?": "config, options, request",
    r"decei\w+|decept\w+": "adversarial, attack",
    r"settl(e|es|ed|ing)\w*": "resolve, rescale, fix",
    r"sittings?": "session",
    r"deaf": "ignores signals",
    r"calm": "limit, MAX_...",
    r"grant(s|ed)?": "allow",
    r"nobody|somebody": "the name of what does it: caller, user, process",
    r"pictures?": "image",
    r"stand_?ins?|lookalikes?": "placeholder, identify",
    r"untouched": "unchanged",
    r"carry_out|alone_in": "run, exclusive",
    r"forgetful": "what is reset",
    r"befriend\w*|gossip\w*|whisper\w*|obey\w*|quarrel\w*|marr(y|ied|ies)": "the technical verb",
}
# Names of the package that say nothing to a reader of it, though the words are good English in a sentence.
BANNED_NAMES = {
    "again": "resume_command",
    "follow": "fit, execute",
    "passes": "micro_batches",
    "gives": "provides",
    "Learner": "TrainState",
    "World": "ProcessGroup",
    "Machine": "RuntimeOptions",
    "Select": "Postprocess",
    "Found": "RawDetections",
    "Undo": "BatchNormSnapshot",
    "Partner": "MixImage",
    "Extra": "BatchAugment",
    "PasteIn": "CopyPaste",
    "Refusal": "UnreadableFile",
    "Blueprint": "ModelSpec",
    "Framed": "PreparedImage",
    "Damage": "UnreadableSource",
    "judged": "validation",
}
WORDS = re.compile(r"(?<![A-Za-z])(" + "|".join(f"(?:{word})" for word in BANNED) + r")(?![A-Za-z])", re.IGNORECASE)


def files() -> list[Path]:
    """The text files of the repository that people read, without this list of words."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file() and ROOT / name != THIS]


def banned_in(text: str) -> list[tuple[int, str]]:
    """(line, word) of every banned word. Parts of names count too: `num_pictures`, `PictureReader`."""
    text = text.replace("Browser.grantPermissions", "")  # a command of the DevTools protocol
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", text)
    return [(parts.count("\n", 0, match.start()) + 1, match.group()) for match in WORDS.finditer(parts)]


def test_names_comments_and_messages_use_the_words_of_the_field() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} '{word}'"
        for path in files()
        for line, word in banned_in(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"{len(found)} words to replace (see BANNED):\n" + "\n".join(found[:40])


def names_in(tree: ast.AST) -> set[str]:
    """The identifiers that a module defines or uses."""
    fields = ("id", "attr", "name", "arg")
    return {word for node in ast.walk(tree) for field in fields if isinstance(word := getattr(node, field, None), str)}


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: path.stem)
def test_names_of_the_package_are_not_private_words(path: Path) -> None:
    found = names_in(ast.parse(path.read_text(encoding="utf-8"))) & BANNED_NAMES.keys()
    assert not found, ", ".join(f"{path.relative_to(ROOT)}: '{name}', say {BANNED_NAMES[name]}" for name in found)


# Turns of phrase in the pages for users, beside the words above.
PHRASES = re.compile(
    r"by heart|taught|mend(ed|ing)?\b|to judge|judge[sd]?\b|made fit|goes on to|likes better", re.IGNORECASE
)


def test_the_pages_for_users_are_in_plain_words() -> None:
    pages = [ROOT / "README.md", *(page for page in (ROOT / "docs").glob("*.md") if page.name != "api.md")]
    found = [
        f"{page.name}:{number} '{match.group()}'"
        for page in pages
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        for match in PHRASES.finditer(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("num_pictures = 3", ["pictures"]),
        ("class PictureReader:", ["Picture"]),
        ("# nobody waits\nx = 1  # calm", ["nobody", "calm"]),
        ("the depicted image is granted_by", ["granted"]),
        ("settings of an image, a stand still", []),
    ],
)
def test_parts_of_names_are_words(text: str, words: list[str]) -> None:
    assert [word for _, word in banned_in(text)] == words
