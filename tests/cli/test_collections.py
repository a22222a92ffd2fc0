"""Collections on the command line, with their settings and calibrations."""

from pathlib import Path

import pytest

from registry.base.digests import sha256_hex
from tests.cli.program import Melo
from tests.registry.workflow import calibration


def test_a_collection_is_made_listed_and_shown(melo: Melo, model_folder: str) -> None:
    made = melo.records(
        "--as", "eve", "collection", "create", "made", "--model", model_folder, "--method", '{"rank": 2}'
    )

    assert (made["name"], made["created_by"], made["method"]["rank"]) == ("made", "eve", 2)
    assert "made" in [each["name"] for each in melo.records("collection", "list")]
    assert melo.records("collection", "show", "made") == made
    assert model_folder in melo("collection", "show", "made").stdout.replace("\n", "").replace(" ", "")


def test_a_model_is_named_by_its_path_from_here(melo: Melo, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(model_folder).resolve()
    monkeypatch.chdir(folder.parent)
    assert melo.records("collection", "create", "from-here", "--model", folder.name)["model"] == str(folder)


def test_a_collection_with_a_preset_shows_all_its_settings_and_its_calibration(
    melo: Melo, model_folder: str, tmp_path: Path
) -> None:
    few = ["--preset", "paper", "--method", '{"layers": 2}']
    assert melo("collection", "create", "as-in-paper", "--model", model_folder, *few).returncode == 0
    shown = melo("collection", "show", "as-in-paper").stdout
    for setting in ("encoder hidden", "key_encoder=hidden", "layers=2", "whitened=false"):
        assert setting in " ".join(shown.split())

    file = tmp_path / "keys.safetensors"
    file.write_bytes(calibration(384))
    made = melo.records("collection", "create", "calibrated", "--model", model_folder, "--calibration", file)
    assert made["calibration_sha256"] == sha256_hex(file.read_bytes())
    assert made["calibration_sha256"] in "".join(melo("collection", "show", "calibrated").stdout.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "papper"], "'papper'"),
        (["--method", '{"ranks": 2}'], "'ranks'"),
        (["--method", '{"rank": 0.5}'], "rank must be a whole number"),
        (["--preset", "paper", "--encoder", "all-minilm-l6-v2"], "would not be used"),
        (["--calibration", "no-such-file"], "no-such-file: No such file"),
        (["--calibration", "WRONG"], "keys of 32 dimensions, but this collection's have 384"),
        (["--calibration", "BROKEN"], "are not a calibration"),
    ],
)
def test_settings_and_calibrations_that_do_not_fit_are_refused_and_nothing_is_stored(
    melo: Melo, model_folder: str, tmp_path: Path, words: list[str], said: str
) -> None:
    files = {"WRONG": tmp_path / "wrong", "BROKEN": tmp_path / "broken"}
    files["WRONG"].write_bytes(calibration(32))
    files["BROKEN"].write_bytes(b"mean and covariance")
    given = [files.get(word, word) for word in words]
    assert said in " ".join(melo.refusal("collection", "create", "lost", "--model", model_folder, *given).split())
    assert "lost" not in [each["name"] for each in melo.records("collection", "list")]


def test_an_unknown_model_is_refused(melo: Melo) -> None:
    assert "no-such-model" in melo.refusal("collection", "create", "lost", "--model", "no-such-model")
    assert "lost" not in [each["name"] for each in melo.records("collection", "list")]
