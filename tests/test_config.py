"""`change`, `override`, `diff`, `to_plain`, `from_plain`: what they promise, on random values and on mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onelook.config import (
    Difference,
    change,
    diff,
    from_plain,
    get,
    override,
    read_yaml,
    settings,
    to_plain,
    to_text,
    write_yaml,
)
from onelook.errors import ConfigError, UsageError
from settings_example import TYPES, Far, Loss, Near, Range, Root, Term

numbers = st.floats(allow_nan=False, width=64)
positive = st.floats(min_value=1e-9, allow_nan=False, allow_infinity=True)
words = st.text(max_size=12)
assigners = st.one_of(
    st.builds(Near, radius=positive, candidates=st.integers()),
    st.builds(Far, reach=st.integers(), mode=st.sampled_from(["wide", "deep"])),
)
terms = st.builds(Term, name=words, weight=numbers)
losses = st.builds(Loss, assigner=assigners, terms=st.lists(terms, max_size=3).map(tuple), extra=st.none() | terms)
ranges = st.tuples(numbers, numbers).map(lambda pair: Range(low=min(pair), high=max(pair)))
roots = st.builds(
    Root,
    loss=losses,
    range=ranges,
    epochs=st.integers(),
    flag=st.booleans(),
    note=words,
    limit=st.none() | numbers,
    size=st.tuples(st.integers(), st.integers()),
    head=st.sampled_from(["coupled", "decoupled", 3]),
    freeze=st.lists(words, max_size=3).map(tuple),
    repeats=st.dictionaries(words.filter(lambda key: key != "type"), st.integers(), max_size=3),
    stages=st.lists(st.tuples(st.integers(), numbers), max_size=3).map(tuple),
)


@given(roots, roots)
def test_the_difference_of_two_values_makes_one_the_other(a: Root, b: Root) -> None:
    found = diff(a, b)
    changed = change(a, {one.path: one.after for one in found})
    assert changed == b
    assert diff(a, changed) == found
    assert diff(changed, b) == []


@given(roots, roots)
@example(Root(repeats={" ": 0, "1": 0}), Root(repeats={" ": 1, "1": 0}))
@example(Root(repeats={"a=b": 0}), Root(repeats={"a=b": 1}))
def test_a_difference_as_text_overrides_to_the_same_value(a: Root, b: Root) -> None:
    texts = [f"{one.path}={to_text(one.after)}" for one in diff(a, b)]
    assert override(a, *texts, types=TYPES) == b


@given(roots)
def test_plain_data_gives_the_value_back_through_json_and_yaml(value: Root) -> None:
    plain = to_plain(value)
    assert from_plain(plain, TYPES) == value
    assert from_plain(json.loads(json.dumps(plain, allow_nan=False)), TYPES) == value


@given(value=roots)
def test_yaml_files_give_the_value_back(tmp_path_factory: pytest.TempPathFactory, value: Root) -> None:
    path = write_yaml(tmp_path_factory.getbasetemp() / "recipe.yaml", to_plain(value))
    assert from_plain(read_yaml(path), TYPES) == value


@given(roots)
def test_every_listed_path_leads_to_its_setting(value: Root) -> None:
    for path, item in settings(value):
        assert get(value, path) is item


@given(words | st.text("()[]{}=.,+-*/'\"0123456789aenrNi \\", max_size=40))
def test_no_text_does_anything_but_give_a_value_or_a_usage_error(text: str) -> None:
    for path in ("loss.assigner", "epochs", "limit", "size", "note", "repeats", "stages"):
        try:
            override(Root(), f"{path}={text}")
        except UsageError as error:
            assert path in str(error) or "setting" in str(error)


CHANGES: list[tuple[str, dict[str, Any], str, Any]] = [
    ("a number deep inside", {"loss.assigner.radius": 2.0}, "loss.assigner.radius", 2.0),
    ("a whole number for a number", {"loss.assigner.radius": 2}, "loss.assigner.radius", 2.0),
    ("an item by its name", {"loss.terms.box.weight": 7.0}, "loss.terms.0.weight", 7.0),
    ("an item by its index", {"loss.terms.1.weight": 7.0}, "loss.terms.classes.weight", 7.0),
    ("an entry of a plain tuple", {"size.0": 320}, "size", (320, 640)),
    ("another object", {"loss.assigner": Far(reach=3)}, "loss.assigner", Far(reach=3)),
    ("an object and what is inside it", {"loss.assigner": Far(1), "loss.assigner.reach": 9}, "loss.assigner.reach", 9),
    ("the inside given first", {"loss.assigner.reach": 9, "loss.assigner": Far(1)}, "loss.assigner.reach", 9),
    ("two settings that fit only together", {"range.low": 3, "range.high": 5}, "range", Range(low=3, high=5)),
    ("a list for a tuple", {"freeze": ["backbone"]}, "freeze", ("backbone",)),
    ("none where it is allowed", {"limit": None}, "limit", None),
]


@pytest.mark.parametrize(("new", "path", "expected"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_change_is_a_changed_copy(new: dict[str, Any], path: str, expected: Any) -> None:
    before = Root()
    after = change(before, new)
    assert get(after, path) == expected
    assert type(get(after, path)) is type(expected)
    assert before == Root()


OVERRIDES: list[tuple[str, str, Any]] = [
    ("epochs=100", "epochs", 100),
    ("epochs = 100", "epochs", 100),
    ("limit=0.01/64", "limit", 0.01 / 64),
    ("limit=-1e-3", "limit", -1e-3),
    ("limit=inf", "limit", float("inf")),
    ("limit=-inf", "limit", float("-inf")),
    ("limit=none", "limit", None),
    ("limit=None", "limit", None),
    ("flag=true", "flag", True),
    ("flag=False", "flag", False),
    ("note=2.5", "note", "2.5"),
    ("note=none", "note", "none"),
    ("note=a b/c-d.e", "note", "a b/c-d.e"),
    ("note='quoted'", "note", "quoted"),
    ("note=key=value", "note", "key=value"),
    ("note=", "note", ""),
    ("note=__import__('os')", "note", "__import__('os')"),
    ("head=coupled", "head", "coupled"),
    ("head='coupled'", "head", "coupled"),
    ("head=3", "head", 3),
    ("size=(320, 416)", "size", (320, 416)),
    ("size=[320, 416]", "size", (320, 416)),
    ("size=320,416", "size", (320, 416)),
    ("freeze=(backbone, neck.top)", "freeze", ("backbone", "neck.top")),
    ("freeze=(backbone)", "freeze", ("backbone",)),
    ("freeze=neck.top", "freeze", ("neck.top",)),
    ("freeze='none'", "freeze", ("none",)),
    ("freeze=backbone.*", "freeze", ("backbone.*",)),
    ("freeze=traffic light", "freeze", ("traffic light",)),
    ("repeats={'cat': 2, dog: 3}", "repeats", {"cat": 2, "dog": 3}),
    ("loss.assigner=Far(reach=2, mode=deep)", "loss.assigner", Far(2, "deep")),
    ("loss.assigner=Far(7)", "loss.assigner", Far(7)),
    ("loss.assigner=Near", "loss.assigner", Near()),
    ("loss.assigner=Near()", "loss.assigner", Near()),
    ("loss.extra=Term(l1, 0.5)", "loss.extra", Term("l1", 0.5)),
    ("loss.terms=(Term('box'),)", "loss.terms", (Term("box"),)),
    ("loss.terms.box.weight=2", "loss.terms.box.weight", 2.0),
    ("loss=Loss(assigner=Far(3), terms=())", "loss", Loss(assigner=Far(3), terms=())),
    ("stages.1=(4, 2)", "stages", ((1, 0.5), (4, 2.0))),
]


@pytest.mark.parametrize(("text", "path", "expected"), OVERRIDES, ids=[case[0] for case in OVERRIDES])
def test_text_means_what_the_field_allows(text: str, path: str, expected: Any) -> None:
    found = get(override(Root(), text, types=TYPES), path)
    assert found == expected
    assert type(found) is type(expected)


def test_objects_are_set_before_what_is_inside_them() -> None:
    assert override(Root(), "loss.assigner.reach=4", "loss.assigner=Far(1)", types=TYPES).loss.assigner == Far(4)


def test_types_in_annotations_and_values_are_known_without_a_table() -> None:
    assert override(Root(), "loss.extra=Term(l1)").loss.extra == Term("l1")


MISTAKES: list[tuple[str, str]] = [
    ("epochz=3", "There is no setting 'epochz'. Did you mean 'epochs'?"),
    ("loss.asigner.radius=3", "There is no setting 'loss.asigner'. Did you mean 'loss.assigner'?"),
    ("radius=3", "There is no setting 'radius'. Did you mean 'loss.assigner.radius'?"),
    ("loss.terms.bos.weight=3", "Did you mean 'loss.terms.box'?"),
    ("loss.terms.7.weight=3", "Settings of 'loss.terms': box, classes."),
    ("loss.extra.weight=3", "'loss.extra' is none."),
    ("epochs.x=3", "There is no setting 'epochs.x': 'epochs' is 300."),
    ("epochs=3.5", "'epochs' must be a whole number, not 3.5."),
    ("epochs=true", "'epochs' must be a whole number, not 'true'."),
    ("epochs=", "'epochs' must be a whole number"),
    ("epochs=1/0", "division by zero"),
    ("flag=1", "'flag' must be true or false, not 1."),
    ("limit=wide", "'limit' must be a number or none, not 'wide'."),
    ("head=decupled", "'head' must be 'coupled', 'decoupled' or 3, not 'decupled'. Did you mean 'decoupled'?"),
    ("size=(1, 2, 3)", "'size' must be (a whole number, a whole number), not (1, 2, 3)."),
    ("loss.assigner=Nearr", "Did you mean 'Near'?"),
    ("loss.assigner=Near(radus=3)", "Near has no setting 'radus'. Did you mean 'radius'?"),
    ("loss.assigner=Near(radius=wide)", "'loss.assigner.radius' must be a number, not 'wide'."),
    ("loss.assigner=Near(1, 2, 3)", "Near takes 2 settings without a name, not 3."),
    ("loss.assigner=Near(1, radius=2)", "'loss.assigner.radius' is set twice."),
    ("loss.assigner=Far()", "Far needs 'reach' (a whole number)."),
    ("loss.assigner=Near(radius=-1)", "'loss.assigner.radius' cannot be -1.0: the radius must be above 0."),
    ("loss.assigner.radius=-1", "'loss.assigner.radius' cannot be -1.0: the radius must be above 0."),
    ("loss.assigner=__import__('os').system('true')", "'loss.assigner' must be Assigner"),
    ("loss.assigner=(lambda: 1)()", "cannot be read"),
    ("loss.assigner=[x for x in y]", "cannot be read"),
    ("loss.assigner=3", "'loss.assigner' must be Assigner, not 3."),
    ("epochs=9**9**9**9", "cannot be read"),
    ("epochs=" + "(" * 300, "cannot be read"),
    ("epochs=" + "-" * 3000 + "1", "cannot be read"),
    ("note=" + "x" * 5000, "longer than 4000"),
    ("note", "is no setting"),
    ("=3", "is no setting"),
    ("a..b=3", "setting"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[case[0][:40] for case in MISTAKES])
def test_a_mistake_names_the_setting_and_the_nearest(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(Root(), text, types=TYPES)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["a b,c", "(a b)", "none", "", "3", "[backbone.*]", "'open", "inf", "true"])
def test_what_may_not_mean_a_list_of_one_text_shows_how_lists_are_written(text: str) -> None:
    with pytest.raises(UsageError, match="'freeze' must be a list, each text") as caught:
        override(Root(), f"freeze={text}")
    assert "one of a single item (a,)" in caught.value.remedy
    with pytest.raises(ConfigError):
        change(Root(), {"freeze": "backbone"})  # in Python a text is no list


def test_a_path_set_twice_is_an_error() -> None:
    with pytest.raises(UsageError, match="'epochs' is set twice: 3 and 5"):
        override(Root(), "epochs=3", "epochs=5")


def test_a_wrong_value_shows_the_present_one_as_an_example() -> None:
    with pytest.raises(UsageError) as caught:
        override(Root(), "size=big")
    assert caught.value.remedy == "It is size=(640, 640) now."


def test_settings_that_are_wrong_together_are_named_together() -> None:
    with pytest.raises(
        ConfigError, match=r"'range.low' and 'range.high' cannot together be 5.0, 3.0: low is above high"
    ):
        change(Root(), {"range.low": 5, "range.high": 3})


PYTHON_MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("a truth value for a number", {"epochs": True}, "'epochs' must be a whole number, not True"),
    ("text for a number", {"limit": "3"}, "'limit' must be a number or none, not '3'"),
    ("an object without the members", {"loss.assigner": Term("x")}, "'loss.assigner' must be Assigner, not Term(...)"),
    ("an item of the wrong type", {"loss.terms.0": Near()}, "'loss.terms' must be a list, each Term"),
    ("a path with a hole", {"loss..radius": 1}, "is no setting"),
]


@pytest.mark.parametrize(
    ("new", "message"), [case[1:] for case in PYTHON_MISTAKES], ids=[case[0] for case in PYTHON_MISTAKES]
)
def test_a_change_that_does_not_fit_is_refused(new: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        change(Root(), new)
    assert message in str(caught.value)


def test_objects_of_another_type_and_tuples_of_another_length_differ_as_a_whole() -> None:
    before = Root()
    after = change(before, {"loss.assigner": Far(3), "loss.terms": (*before.loss.terms, Term("l1"))})
    assert diff(before, after) == [
        Difference("loss.assigner", Near(), Far(3)),
        Difference("loss.terms", before.loss.terms, after.loss.terms),
    ]


def test_a_whole_number_that_a_file_gives_as_a_fraction_is_no_difference() -> None:
    assert diff(Near(radius=2), Near(radius=2.0)) == []
    assert diff(Term("x", weight=1), Term("x", weight=True)) == [Difference("weight", 1, True)]
    assert diff(Root(flag=False), Root(flag=0)) == [Difference("flag", False, 0)]  # type: ignore[arg-type]


def test_values_of_different_types_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="Near and Term"):
        diff(Near(), Term("x"))


PLAIN_MISTAKES: list[tuple[Any, str]] = [
    ({"type": "Rot"}, "there is no type 'Rot'. Did you mean 'Root'?"),
    ({"type": ["Root"]}, "there is no type"),
    ({"type": "Root", "epochz": 3}, "Root has no setting 'epochz'. Did you mean 'epochs'?"),
    ({"type": "Root", "epochs": "many"}, "'epochs' must be a whole number, not 'many'."),
    ({"type": "Root", "loss": {"type": "Loss", "assigner": {"type": "Far"}}}, "'loss.assigner': Far needs 'reach'"),
    ({"type": "Root", "range": {"type": "Range", "low": 9}}, "'range.low' cannot be 9.0: low is above high."),
    ({"type": "Root", 3: 4}, "Root has no setting '3'."),
]


@pytest.mark.parametrize(("data", "message"), PLAIN_MISTAKES, ids=[case[1] for case in PLAIN_MISTAKES])
def test_plain_data_that_does_not_fit_is_refused_with_its_path(data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_plain(data, TYPES)
    assert message in str(caught.value)


def test_plain_data_nested_without_end_is_refused() -> None:
    data: Any = []
    for _ in range(500):
        data = [data]
    with pytest.raises(ConfigError, match="levels deep"):
        from_plain({"type": "Root", "freeze": data}, TYPES)


def test_settings_missing_in_a_file_take_their_defaults() -> None:
    assert from_plain({"type": "Root", "epochs": 3}, TYPES) == replace(Root(), epochs=3)


def test_what_no_file_can_hold_is_refused_when_writing() -> None:
    for value in (replace(Root(), limit=float("nan")), replace(Root(), rule=print)):
        with pytest.raises(TypeError, match="cannot be written"):
            to_plain(value)
