"""YAML files: the subset that is read, what is refused and where, and that writing loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from counting import num_calls
from onelook.config import parse_yaml, read_yaml, read_yaml_lines, write_yaml
from onelook.errors import ConfigError

READ: list[tuple[str, Any]] = [
    ("", None),
    ("names: [no, on, yes, off, y]", {"names": ["no", "on", "yes", "off", "y"]}),
    ("lr: 1e-3", {"lr": 1e-3}),
    ("a: 1_000\nb: 12:30\nc: 2020-01-01", {"a": "1_000", "b": "12:30", "c": "2020-01-01"}),
    ("a: 0x10\nb: 0o17\nc: 017", {"a": 16, "b": 15, "c": 17}),
    ("a: ~\nb:\nc: null", {"a": None, "b": None, "c": None}),
    ("a: .inf\nb: -.inf", {"a": float("inf"), "b": float("-inf")}),
    ("a: '1'\nb: \"true\"\nc: ! 3", {"a": "1", "b": "true", "c": "3"}),
    ("names:\n  0: cat\n  1: dog", {"names": {0: "cat", 1: "dog"}}),
    ('{"a": [1, 2.5, true, null]}', {"a": [1, 2.5, True, None]}),
    ("\ufeffa: 1", {"a": 1}),
    ("a: !!str 3", {"a": "3"}),
    ("- - 1\n  - 2\n- {}", [[1, 2], {}]),
    ("<<: {a: 1}\nb: =", {"<<": {"a": 1}, "b": "="}),
    (
        "a: 0b1\nb: 1:30.5\nc: +1\nd: -0x1\ne: .5\nf: 1.\ng: 1e3",
        {"a": "0b1", "b": "1:30.5", "c": 1, "d": "-0x1"} | {"e": 0.5, "f": 1.0, "g": 1000.0},
    ),
    ("1: a\n'1': b\n0x10: c", {1: "a", "1": "b", 16: "c"}),
    ("a: |\n  x\n  y\nb: >\n  x\n  y\n", {"a": "x\ny\n", "b": "x y\n"}),
    ("a: ! true\nb: ! [1]", {"a": "true", "b": [1]}),
    ("# nothing", None),
]


@pytest.mark.parametrize(("text", "expected"), READ, ids=[case[0][:30] or "empty" for case in READ])
def test_scalars_are_those_of_the_core_schema(text: str, expected: Any) -> None:
    assert parse_yaml(text.encode(), "x.yaml")[0] == expected


REFUSED: list[tuple[str, bytes, str]] = [
    ("alias", b"a: &x [1]\nb: *x", "x.yaml:1: anchors and aliases"),
    ("alias bomb", b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "x.yaml:1: anchors"),
    ("python object", b"\na: !!python/object/apply:os.system [ls]", "x.yaml:2: the tag"),
    ("python name", b"a: !!python/name:os.system", "x.yaml:1: the tag"),
    ("own tag", b"a: !thing 3", "x.yaml:1: the tag !thing"),
    ("key twice", b"a: 1\nb: 2\na: 3", "x.yaml:3: the key 'a' is given twice"),
    ("a list as key", b"? [1]\n: 2", "x.yaml:1: a key must be text"),
    ("two documents", b"a: 1\n---\nb: 2", "x.yaml:2: a second document"),
    ("broken flow", b"a: 1\nb: [1, 2\nc: 3", "x.yaml:3:"),
    ("tab", b"a:\n\t- 1", "x.yaml:2:"),
    ("not UTF-8", b"a: 1\nb: \xff\xfe", "x.yaml:2: is no UTF-8 text"),
    ("a zero byte", b"a: 1\nb: \x00", "x.yaml:2:"),
    ("an image", b"\x89PNG\r\n\x1a\n\x00\x00", "x.yaml:1:"),
    ("deep nesting", b"[" * 1000, "levels deep"),
    ("nesting too deep for the parser itself", b"[" * 100_000, "nest"),  # newer ones have a limit of their own
    ("too large", b"#" * (3 * 2**20), "larger than 2 MB"),
    ("an anchor on a key", b"&a x: 1", "x.yaml:1: anchors"),
    ("a merge of an alias", b"a: {b: 1}\n<<: *a", "x.yaml:2: anchors"),
    ("a tag on a list", b"a: !!set {x}", "x.yaml:1: the tag"),
    ("the tag of text on a list", b"a: !!str [1]", "x.yaml:1: the tag"),
    ("a tag on a key", b"!!int '1': 2", "x.yaml:1: the tag"),
    ("a truth value as key", b"true: 1", "x.yaml:1: a key must be text"),
    ("nothing as key", b"a: 1\n~: 1", "x.yaml:2: a key must be text"),
    ("a fraction as key", b"1.5: 1", "x.yaml:1: a key must be text"),
    ("a mapping as key", b"? {a: 1}\n: 2", "x.yaml:1: a key must be text"),
    ("a key twice, deep", b"a:\n  - b: 1\n    b: 2", "x.yaml:3: the key 'b' is given twice"),
    ("deep mappings", b"{a: " * 1000, "levels deep"),
    ("deep mappings of blocks", b"".join(b" " * n + b"a:\n" for n in range(500)), "levels deep"),
    ("keys that every path below repeats", b"? " + b"k" * 500_000 + b"\n: [" + b"1," * 150_000 + b"]", "keys of more"),
    ("a hundred thousand documents", b"---\n" * 100_000, "a second document"),
    ("nothing but aliases", b"- *a\n" * 100_000, "x.yaml:1: anchors"),
    ("too many", b"[" + b"1," * 300_000 + b"]", "more than 200,000 entries"),
]


@pytest.mark.parametrize(("content", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_refused_is_named_with_its_line(content: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(content, "x.yaml")
    assert message in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)


def test_every_entry_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: a\nnames:\n  - cat\n  - dog\n")
    assert read_yaml_lines(tmp_path / "data.yaml")[1] == {"train": 1, "names": 3, "names.0": 3, "names.1": 4}


def test_the_work_of_reading_class_names_grows_with_their_number() -> None:
    def calls(count: int) -> int:
        text = "names:\n" + "".join(f"  {index}: class {index}\n" for index in range(count))
        found = []
        number = num_calls(lambda: found.append(parse_yaml(text, "x.yaml")[0]))
        assert len(found[0]["names"]) == count
        return number

    assert calls(4000) < 3 * calls(2000)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | texts
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_what_is_written_is_read_back_and_pyyaml_reads_the_same_text(value: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write_yaml(Path(folder) / "x.yaml", value)
        assert read_yaml(path) == value
        assert yaml.safe_load(path.read_bytes()) == value


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "x.yaml", {"a": 1})
    with pytest.raises(yaml.YAMLError):
        write_yaml(path, {"a": object()})
    assert read_yaml(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.yaml"]


def test_a_new_file_has_ordinary_rights(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "x.yaml", {"a": 1})
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
