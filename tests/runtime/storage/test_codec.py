from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import ArtifactError, Document, PlanError, decode, encode


@dataclass(frozen=True)
class Leaf:
    value: int

    def __post_init__(self) -> None:
        if self.value == 13:
            raise PlanError("Unlucky", got=self.value)


@dataclass(frozen=True)
class Tree:
    name: str
    kind: Literal["oak", "fir", 1]
    size: float
    alive: bool
    pair: tuple[int, str]
    many: tuple[float, ...]
    leaves: tuple[Leaf, ...]
    table: dict[str, float | None]
    either: int | str | None
    leaf: Leaf | None = None
    extra: Any = None
    notes: dict[str, str] = field(default_factory=dict)


TREE = Tree(
    "ä", "oak", 1.5, True, (1, "x"), (1.0, 2.0), (Leaf(1), Leaf(2)), {"a": 1.0, "b": None}, "s", Leaf(3), [1, {"k": 2}]
)


def test_a_nested_dataclass_round_trips_through_json() -> None:
    assert decode(Tree, json.loads(json.dumps(encode(TREE))), "tree") == TREE


def test_encode_gives_plain_json_values() -> None:
    assert encode(Leaf(1)) == {"value": 1}
    assert encode(((Leaf(1),), {"a": (1, 2)})) == [[{"value": 1}], {"a": [1, 2]}]


def test_defaults_fill_what_is_missing() -> None:
    value = encode(TREE)
    del value["leaf"], value["extra"], value["notes"]
    tree = decode(Tree, value, "tree")
    assert (tree.leaf, tree.extra, tree.notes) == (None, None, {})


def test_an_integer_becomes_a_float_where_one_is_asked() -> None:
    tree = decode(Tree, encode(TREE) | {"size": 2, "many": [3]}, "tree")
    assert (tree.size, type(tree.size), type(tree.many[0])) == (2.0, float, float)


@pytest.mark.parametrize("value", [7, "seven", None])
def test_a_union_takes_each_of_its_types(value: object) -> None:
    assert decode(Tree, encode(TREE) | {"either": value}, "tree").either == value


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: list[Any] = [
    10**5000,
    -(10**5000),
    10**400,
    2**63,
    float("inf"),
    float("nan"),
    nested(100_000),
    {"a": nested(100_000)},
    "\ud800",
    {"\udfff": "\udfff"},
    [True],
    True,
    2.5,
    "x" * 10**6,
    {},
    {"value": True},
    {"value": 13},
    {"value": 1, "\ud800": 2},
    {"value": 1, 5: 2},
    object(),
]


@pytest.mark.parametrize("name", [name for name in Tree.__dataclass_fields__ if name != "extra"])
def test_hostile_values_raise_artifact_error_with_short_printable_text(name: str) -> None:
    texts = []
    for value in HOSTILE:
        try:
            decode(Tree, encode(TREE) | {name: value}, "tree")
        except ArtifactError as error:
            texts.append(str(error))
    assert len(texts) >= 14
    for text in texts:
        text.encode()
        assert len(text) < 500
        assert "tree" in text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": True}, "kind has the wrong type or value. Expected one of 'oak', 'fir', 1. Got True"),
        ({"kind": [1]}, "Expected one of"),
        ({"size": True}, "Expected float. Got True"),
        ({"size": 10**400}, "Expected a finite number"),
        ({"size": float("-inf")}, "Expected a finite number. Got -inf"),
        ({"alive": 0}, "Expected bool. Got 0"),
        ({"pair": [1]}, "Expected 2 items"),
        ({"pair": [1, 2]}, "tree.pair\\[1\\] has the wrong type or value. Expected str. Got 2"),
        ({"pair": "1x"}, "Expected a list. Got '1x'"),
        ({"many": [1, None]}, "tree.many\\[1\\]"),
        ({"leaves": [{"value": 13}]}, "tree.leaves\\[0\\] is not valid: Unlucky. Got 13"),
        ({"leaf": {"value": 13}}, "tree.leaf is not valid: Unlucky"),
        ({"table": {"a": "b"}}, "tree.table.a has the wrong type or value. Expected float"),
        ({"table": []}, "Expected an object"),
        ({"either": 2**64}, "either has the wrong type or value"),
        ({"name": "\ud800"}, "Expected a text without lone surrogates"),
        ({"leaves": [{}]}, "tree.leaves\\[0\\] lacks the field 'value'"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ArtifactError, match=text):
        decode(Tree, encode(TREE) | changes, "tree")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(name=st.sampled_from(sorted(Tree.__dataclass_fields__)), value=json_values)
def test_any_json_value_fits_or_raises_artifact_error(name: str, value: Any) -> None:
    try:
        tree = decode(Tree, encode(TREE) | {name: value}, "tree")
    except ArtifactError:
        return
    assert isinstance(tree, Tree)


@given(value=json_values)
def test_any_json_value_in_place_of_a_leaf(value: Any) -> None:
    with pytest.raises(ArtifactError):
        decode(Leaf, value, "leaf")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"schema":"s","schema_version":1,"value":' + "[" * 5000 + "]" * 5000 + "}",
        '{"schema":"s","schema_version":1,"value":1e400}',
        '{"schema":"s","schema_version":1,"value":' + "9" * 10**5 + "}",
        '{"schema":"s","schema_version":1,"value":' + "9" * 4000 + "}",
        '{"schema":"s","schema_version":' + "9" * 4000 + ',"value":1}',
        '{"schema":"s","schema_version":1,"value":-Infinity}',
        '{"schema":"s","schema_version":1,"value":1,"\\ud800":1}',
        '{"schema":"\\ud800","schema_version":1,"value":1}',
        '"text"',
        "null",
        "",
        "\ufeff{}",
    ],
)
def test_hostile_documents_raise_artifact_error(tmp_path: Any, text: str) -> None:
    (tmp_path / "leaf.json").write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError) as caught:
        Document("s", 1, Leaf).read(tmp_path / "leaf.json")
    str(caught.value).encode()
    assert len(str(caught.value)) < 1000
