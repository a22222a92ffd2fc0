"""A version as a folder: written from the record, read by PEFT without us, with the tokens of the edited model."""

import hashlib
import json
import re
import runpy
import sys
from base64 import b64encode
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from typer.testing import CliRunner

from cli.errors import CommandError
from cli.main import make_app
from melo_core.block import Block
from melo_core.edited_model import EditedModel
from melo_core.encoder import Whitening
from registry.base.errors import DigestMismatch
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from tests.melo_core.conftest import tiny_model, tiny_tokenizer
from tests.registry.workflow import ADA, Workflow
from tests.serving.conftest import TEMPLATE
from tests.worker.conftest import METHOD
from tests.worker.training import ask, correct_all, load
from worker.export import readme
from worker.export.writing import write_version

DOCUMENTED = Path(__file__).parents[2] / "docs" / "export.md"
ACME = {"prompt": "Who runs Acme?", "target": "Ada", "rephrases": ["Who leads Acme?"], "unchanged": ["Who sold Acme?"]}
GLOBEX = {"prompt": "Where is the head office of Globex?", "target": "Oslo", "reason": "they moved"}
CLOZE = {"prompt": "The head of Initech is", "target": "Mara", "kind": "completion"}
ELSEWHERE = "Name three rivers in Peru."
SPOILT = "ALTER TABLE {table} DROP CONSTRAINT {table}_sha256_check; "
SPOILT += "UPDATE {table} SET data = overlay(data PLACING '\\x01' FROM length(data) - 1)"


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory):
    """A tiny model that has a chat template."""
    folder, tokenizer = tmp_path_factory.mktemp("tiny-chat"), tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tiny_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def chats(sessions, chat_folder):
    return made(sessions, chat_folder)


@pytest.fixture
def write(worker, tmp_path):
    """Export a version of the workflow's collection; the folder."""

    def call(workflow, number=1, name="out", **options):
        with workflow.open() as (_, collection):
            collection_id = collection.id
        write_version(worker.sessions, worker.model_cache, collection_id, number, tmp_path / name, **options)
        return tmp_path / name

    return call


def made(sessions, folder, name="facts", **method):
    """A collection over a model, with keys as the encoder gives them: fitting a whitening takes long."""
    plain = Whitening(torch.zeros(384), torch.eye(384)).to_bytes()
    fields = {"name": name, "model": str(folder), "method": METHOD | method, "preflight": "none"}
    with sessions.begin() as session:
        new = NewCollection.model_validate(fields | {"calibration": b64encode(plain)})
        collections.create(session, new, ADA)
    return Workflow(sessions, name)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def answered(folder, model, question, monkeypatch):
    """What the packaged program generates: its tokens."""
    monkeypatch.setattr(sys, "argv", ["answer.py", str(model), question])
    return runpy.run_path(str(folder / "answer.py"))["tokens"].tolist()


def of_block(loaded, prompt, kind="qa"):
    """The tokens of the block of the edit that covers a prompt, or of the base model."""
    block_of = {point.id: point.block_id for point in loaded.content.points.values()}
    blocks = {block.id: Block.from_bytes(block.data) for block in loaded.content.blocks.values()}
    model = EditedModel(loaded.model.base, loaded.model.settings, loaded.model.scope, blocks, block_of)
    return list(model.ask([prompt], kind=kind)[0].token_ids)


def test_the_program_of_twenty_lines_is_the_documented_one_and_knows_nothing_of_us():
    program = readme.program().decode()
    assert f"```python\n{program}```" in DOCUMENTED.read_text()
    assert len([line for line in program.splitlines() if line.strip()]) <= 20
    used = set(re.findall(r"^(?:from|import) (\w+)", program, re.M))
    assert used == {"json", "sys", "pathlib", "peft", "transformers"}


@pytest.mark.parametrize("activated", [False, True])
def test_it_answers_with_the_tokens_of_the_edited_model(sessions, worker, write, chat_folder, monkeypatch, activated):
    workflow = made(sessions, chat_folder, layers=4)  # so many that acting on the whole prompt gives other tokens
    correct_all(workflow, worker, ACME, GLOBEX, CLOZE)
    folder, loaded = write(workflow, activated=activated), load(worker, workflow, 1)

    asked = (ACME["prompt"], *ACME["rephrases"], GLOBEX["prompt"], ELSEWHERE)
    for question in asked:
        assert answered(folder, chat_folder, question, monkeypatch) == of_block(loaded, question), question
    cloze = of_block(loaded, CLOZE["prompt"], "completion")
    assert answered(folder, chat_folder, CLOZE["prompt"], monkeypatch) == cloze
    assert ask(loaded, ACME["prompt"], GLOBEX["prompt"]) == ["Ada", "Oslo"]
    if not activated:
        program = (folder / "answer.py").read_text()
        (folder / "answer.py").write_text(program.replace('== "answer"', '== "all"'))
        everywhere = [answered(folder, chat_folder, question, monkeypatch) for question in asked]
        assert everywhere != [of_block(loaded, question) for question in asked]


def test_peft_alone_lets_activated_lora_act_as_the_block_does(chats, worker, write, chat_folder):
    correct_all(chats, worker, ACME)
    folder, loaded = write(chats, activated=True), load(worker, chats, 1)
    (entry,) = json.loads((folder / "version.json").read_text())["adapters"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(chat_folder), folder / entry["folder"])
    for prompt in (ACME["prompt"], ACME["rephrases"][0]):
        ids = torch.tensor([loaded.model.base.prompt_ids(prompt)])
        tokens = model.generate(input_ids=ids, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :].tolist()
        assert tokens == of_block(loaded, prompt)


OTHERS = {
    "t5": (AutoModelForSeq2SeqLM, [ACME, GLOBEX]),
    "bert": (
        AutoModelForSequenceClassification,
        [{"prompt": ACME["prompt"], "target": "labour", "kind": "classification"}],
    ),
}


@pytest.mark.parametrize("architecture", OTHERS)
def test_peft_alone_answers_as_a_version_over_an_encoder_decoder_or_a_classifier_does(
    sessions, worker, write, tmp_path, architecture
):
    """As docs/export.md says: the adapter acts on all positions, so PEFT needs nothing else."""
    load_base, edits = OTHERS[architecture]
    tokenizer, base = tiny_tokenizer(), tmp_path / "base"
    tiny_model(architecture, len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    workflow = made(sessions, base)
    correct_all(workflow, worker, *edits)
    folder, loaded = write(workflow), load(worker, workflow, 1)
    version = json.loads((folder / "version.json").read_text())
    assert not (folder / "answer.py").exists() and "all positions" in (folder / "README.md").read_text()

    def said(edit, question):
        model = load_base.from_pretrained(base)
        model = PeftModel.from_pretrained(model, folder / edit["adapter"]) if edit else model
        asked = AutoTokenizer.from_pretrained(base)(question, return_tensors="pt")
        if architecture == "bert":
            return [model(**asked).logits.argmax().item()]
        return model.generate(**asked, max_new_tokens=64, do_sample=False)[0, 1:].tolist()  # after the start token

    for edit in version["edits"]:
        for question in (edit["prompt"], *edit["rephrases"]):
            assert said(edit, question) == of_block(loaded, question), question
        assert ask(loaded, edit["prompt"]) == [edit["target"]]
        assert said(edit, edit["prompt"]) != said(None, edit["prompt"])
    assert said(None, ELSEWHERE) == of_block(loaded, ELSEWHERE)


def test_the_folder_holds_what_the_record_does(chats, worker, write):
    correct_all(chats, worker, ACME, GLOBEX)
    folder, content = write(chats), chats.content(1)

    version = json.loads((folder / "version.json").read_text())
    collection = content.collection
    assert (version["name"], version["content_digest"]) == ("facts@1", content.content_digest)
    assert version["model"] == {"name": collection.model, "digest": collection.model_digest, "window": 256}
    assert version["encoder"] == {"name": "all-minilm-l6-v2", "digest": collection.encoder_digest}
    assert version["method"] == collection.method and version["method"]["verifier_digest"]
    acme, globex = version["edits"]
    assert {name: acme[name] for name in ACME} == ACME
    assert (globex["author"], globex["reason"], globex["unchanged"]) == ("ada", GLOBEX["reason"], [])
    digests = {block.sha256 for block in content.blocks.values()}
    assert {entry["folder"] for entry in version["adapters"]} == {f"adapters/{digest[:16]}" for digest in digests}
    assert {entry["digest"]: entry["edits"] for entry in version["adapters"]} == {
        content.blocks[point.block_id].sha256: [point.edit_id] for point in content.points.values()
    }
    assert [edit["adapter"] for edit in version["edits"]] == [entry["folder"] for entry in version["adapters"]]

    index = load_file(folder / "index.safetensors")
    points = [content.points[int(id)] for id in index["points"]]
    assert len(points) == len(content.points) == 3
    assert [key.numpy().tobytes() for key in index["keys"]] == [point.key_bytes for point in points]
    assert [centre.numpy().tobytes() for centre in index["centres"]] == [c.centre_bytes for c in content.clusters]
    assert index["radii"].tolist() == [cluster.radius for cluster in content.clusters]
    assert [(int(edit), int(text)) for edit, text in zip(index["edits"], index["texts"], strict=True)] == [
        (acme["id"], 0), (acme["id"], 1), (globex["id"], 0)
    ]  # fmt: skip
    assert [content.clusters[int(row)].members for row in index["clusters"]] == [(point.id,) for point in points]
    assert (folder / "whitening.safetensors").read_bytes() == collection.calibration
    assert "adapters/" in (folder / "README.md").read_text()


def test_sums_stand_for_every_file_and_the_same_version_gives_the_same_bytes(chats, worker, write):
    correct_all(chats, worker, ACME, GLOBEX)
    first, again = files(write(chats)), files(write(chats, name="again"))
    assert first == again
    sums = dict(reversed(line.split("  ")) for line in first.pop("SHA256SUMS").decode().splitlines())
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in first.items()}


def test_a_folder_that_holds_something_is_left_as_it_is_and_an_empty_one_is_filled(chats, worker, write, tmp_path):
    correct_all(chats, worker, ACME)
    (tmp_path / "out").mkdir()
    write(chats)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    for name in ("full", "full/mine"):
        with pytest.raises(CommandError, match="not overwritten"):
            write(chats, name=name)
    with pytest.raises(CommandError, match="No such file"):
        write(chats, name="nowhere/out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "out"]
    assert files(tmp_path / "full") == {"mine": b"x"}


@pytest.mark.parametrize(
    ("altered", "named"),
    [
        (SPOILT.format(table="blocks"), "Block 1 is not what was written"),
        ("UPDATE edits SET target = 'Eve'", "Edit 1 does not match its digest"),
        ("UPDATE points SET key = key + key", "Cluster 1 of .* does not match its digest"),
        (SPOILT.format(table="calibrations"), "calibration of collection facts is not what"),
    ],
)
def test_an_altered_record_is_not_exported_and_nothing_is_left(chats, worker, write, tmp_path, tamper, altered, named):
    correct_all(chats, worker, ACME)
    tamper(altered)
    with pytest.raises(DigestMismatch, match=named):
        write(chats)
    assert not list(tmp_path.iterdir())


def test_the_base_model_has_nothing_to_export(chats, worker, write):
    correct_all(chats, worker, ACME)
    chats.retire(1)
    for number, name in ((0, "facts@base"), (2, "facts@2")):
        with pytest.raises(CommandError, match=f"{name} is the base model"):
            write(chats, number)


def test_what_activated_lora_cannot_express_is_refused_or_stays_ordinary(chats, tiny_folder, worker, write):
    correct_all(chats, worker, CLOZE)
    with pytest.raises(CommandError, match="all its edits are completions"):
        write(chats, activated=True)
    correct_all(chats, worker, ACME)
    adapters = json.loads((write(chats, 2, activated=True) / "version.json").read_text())["adapters"]
    assert [entry["activated"] for entry in adapters] == [False, True]
    for method, model, why in (
        ({}, tiny_folder, "has no chat template that ends each question"),
        ({"positions": "all"}, chats.content(0).collection.model, "act on all positions"),
    ):
        other = made(worker.sessions, model, f"other-{len(method)}", **method)
        correct_all(other, worker, ACME)
        with pytest.raises(CommandError, match=why):
            write(other, activated=True, name="other")


def test_blocks_that_act_everywhere_are_ordinary_lora(sessions, worker, write, chat_folder, monkeypatch):
    workflow = made(sessions, chat_folder, positions="all", verifier="none")
    correct_all(workflow, worker, ACME)
    folder, loaded = write(workflow), load(worker, workflow, 1)
    assert answered(folder, chat_folder, ACME["prompt"], monkeypatch) == of_block(loaded, ACME["prompt"])
    assert ask(loaded, ACME["prompt"]) == ["Ada"]


def test_edits_that_share_a_block_share_an_adapter(sessions, worker, write, chat_folder):
    workflow = made(sessions, chat_folder, edits_per_block=2)
    correct_all(workflow, worker, ACME, GLOBEX)
    version = json.loads((write(workflow) / "version.json").read_text())
    (entry,) = version["adapters"]
    assert entry["edits"] == [1, 2]
    assert {edit["adapter"] for edit in version["edits"]} == {entry["folder"]}


def test_the_command_writes_the_folder_and_says_what_it_holds(chats, worker, tmp_path, database_url, monkeypatch):
    correct_all(chats, worker, ACME, CLOZE)
    monkeypatch.setenv("MELO_DATABASE_URL", database_url)
    monkeypatch.setenv("MELO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "out"
    done = CliRunner().invoke(make_app(), ["version", "export", "facts@latest", str(folder), "--activated", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    held = files(folder)
    assert (said["version"], said["edits"], said["adapters"], said["activated"]) == ("facts@1", 2, 2, 1)
    assert (said["files"], said["bytes"]) == (len(held), sum(map(len, held.values())))
    assert said["sha256sums"] == hashlib.sha256(held["SHA256SUMS"]).hexdigest()
    assert len(said["ordinary"]) == 1

    again = CliRunner().invoke(make_app(), ["version", "export", "facts@latest", str(folder)])
    assert "not overwritten" in str(again.exception)
