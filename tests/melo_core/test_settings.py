"""Settings are read strictly, and without loading torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from melo_core.errors import MeloError
from melo_core.method import complete, for_training
from melo_core.settings import PRESETS, MethodSettings
from melo_core.verifier_files import digest_of


def test_the_settings_are_read_without_torch_and_transformers():
    code = (
        "import sys, melo_core.method\n"
        "melo_core.method.complete({}, 'paper')\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'rapidfuzz') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_settings_that_are_not_given_are_the_presets_and_all_are_returned():
    assert complete({}) == MethodSettings().to_json() | {"verifier_digest": digest_of("packaged")}
    paper = complete({"key_layer": 3, "radius": 12, "modules": ["a.b"]}, "paper")
    assert paper == PRESETS["paper"].to_json() | {"key_layer": 3, "radius": 12.0, "modules": ["a.b"]}
    assert MethodSettings.from_json(paper).to_json() == paper


def test_a_setting_that_was_not_stored_takes_its_default():
    stored = {name: value for name, value in MethodSettings(rank=3).to_json().items() if name != "rounds"}
    assert MethodSettings.from_json(stored) == MethodSettings(rank=3)


def test_a_loss_target_of_zero_is_allowed():
    assert MethodSettings.from_json({"loss_target": 0}).loss_target == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"rnak": 2},
            "unknown method setting 'rnak'; the settings are batch, candidate_radius, candidates, clustering, ",
        ),
        ({"rank": "4"}, "method setting rank must be a whole number, not '4'"),
        ({"rank": True}, "method setting rank must be a whole number, not True"),
        ({"rank": 2.5}, "method setting rank must be a whole number, not 2.5"),
        ({"rank": None}, "method setting rank must be a whole number, not None"),
        ({"rank": 0}, "method setting rank must be at least 1, not 0"),
        ({"key_layer": -1}, "method setting key_layer must be at least 0, not -1"),
        ({"rounds": 0}, "method setting rounds must be at least 1, not 0"),
        ({"edits_per_block": 0}, "method setting edits_per_block must be at least 1, not 0"),
        ({"radius": "wide"}, "method setting radius must be a finite number, not 'wide'"),
        ({"radius": False}, "method setting radius must be a finite number, not False"),
        ({"radius": float("nan")}, "method setting radius must be a finite number, not nan"),
        ({"radius": 10**400}, "method setting radius must be a finite number, not 1000"),
        ({"candidate_radius": -1}, r"method setting candidate_radius must be positive, not -1\.0"),
        ({"candidates": 0}, "method setting candidates must be at least 1, not 0"),
        ({"threshold": 1}, r"method setting threshold must be at least 0 and below 1, not 1\.0"),
        ({"verifier": 3}, "method setting verifier must be a text, not 3"),
        ({"verifier": "/nowhere"}, "there is no verifier '/nowhere': name packaged, none, or a folder with"),
        ({"verifier_digest": "ab"}, r"the verifier 'packaged' has the digest \w{12}…, not the given one ab…"),
        ({"radius": 0}, r"method setting radius must be positive, not 0\.0"),
        ({"loss_target": -0.1}, r"method setting loss_target must be at least 0, not -0\.1"),
        ({"whitened": 1}, "method setting whitened must be true or false, not 1"),
        ({"positions": "some"}, "method setting positions must be one of answer, all, not 'some'"),
        ({"clustering": "k-means"}, "method setting clustering must be one of nearest-point, melo, not 'k-means'"),
        ({"query_keys": 2}, "method setting query_keys must be one of whole, parts, not 2"),
        ({"key_encoder": ["hidden"]}, "method setting key_encoder must be one of sentence, hidden, not"),
        ({"key_pooling": "max"}, "method setting key_pooling must be one of last, mean, not 'max'"),
        ({"modules": "layers.1.mlp"}, "method setting modules must be a list of module names, not 'layers.1.mlp'"),
        ({"modules": ["a", 1]}, "method setting modules must be a list of module names, not"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name_with_what_can_be(values, said):
    with pytest.raises(MeloError, match=said):
        complete(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learning_rate": 10.5}, r"learning_rate must be at most 10, not 10\.5"),
        ({"scale": 1e300}, r"scale must be at most 1000000, not 1e\+300"),
        ({"rank": 5000}, "rank must be at most 4096, not 5000"),
        ({"iterations": 10**30}, "iterations must be at most 1000000, not 1000000000"),
        ({"edits_per_block": 2**31}, "edits_per_block must be at most 1000000, not 2147483648"),
        ({"seed": 2**63}, "seed must be at most 9223372036854775807, not 9223372036854775808"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
    ],
)
def test_a_number_that_nothing_can_be_trained_with_is_refused_where_it_is_given(values, said):
    with pytest.raises(MeloError, match=f"method setting {said}"):
        complete(values)
    with pytest.raises(MeloError, match=f"method setting {said}"):
        for_training(MethodSettings().to_json(), values)


def test_what_an_earlier_release_stored_can_still_be_read_and_trained_with():
    stored = MethodSettings(seed=-1).to_json()
    assert MethodSettings.from_json(stored).seed == -1
    assert for_training(stored, {"rank": 2}) == stored | {"rank": 2}


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(MeloError, match="unknown preset 'papers'; the presets are default, paper"):
        complete({}, "papers")


def test_the_documents_table_has_every_setting_with_what_the_presets_set():
    table = Path(__file__).parents[2].joinpath("docs/method.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|", table, re.MULTILINE)
    shown = [(name, *(value if value[0] in "`–" else json.loads(value) for value in values)) for name, *values in rows]
    default, paper = (PRESETS[name].to_json() for name in ("default", "paper"))
    assert shown == [(name, _cell(value), _cell(paper[name])) for name, value in default.items()]


def _cell(value: object) -> object:
    return "–" if value == "" else f"`{value}`" if isinstance(value, str | list) else value
