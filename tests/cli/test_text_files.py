"""Texts with tables: their encoding, separator, quotes and header, and files that are no text."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pytest

from cli.errors import CommandError
from cli.files import content
from cli.files.reading import ReadOptions, open_edits
from tests.cli.reading import PAIRS, pairs, refusals, table


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_csv_is_read_with_any_separator_and_encoding(read, separator, encoding):
    file = read(table(separator).encode(encoding))

    assert pairs(file) == PAIRS
    assert file.notes == []
    assert {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}[separator] in file.kind


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Wo ist das Café Zürich?,Bahnhofstraße – „Mitte“", "cp1252"),
        ("What does Pro cost?,29 €", "cp1252"),
        ("Kto jest prezesem?,Józef Żółć", "cp1250"),
        ("Кто директор Акме?,Иван Петров", "cp1251"),
        ("社長は誰ですか?,山田太郎です", "cp932"),
    ],
)
def test_an_encoding_is_guessed_and_the_guess_is_told(read, text, encoding):
    file = read(f"prompt,target\n{text}\n".encode(encoding))

    assert pairs(file) == [tuple(text.split(","))]
    assert any("guess" in note and encoding in note and "--encoding" in note for note in file.notes)
    named = read(f"prompt,target\n{text}\n".encode(encoding), encoding=encoding)
    assert pairs(named) == [tuple(text.split(","))] and named.notes == []


def test_text_that_is_utf_8_but_for_a_byte_is_refused_by_its_line(read):
    with pytest.raises(CommandError, match="line 3"):
        read("prompt,target\nWo?,Zürich\n".encode() + b"a,\xff\n")
    with pytest.raises(CommandError, match="no encoding 'klingon'"):
        read(table(), encoding="klingon")
    assert refusals(read("prompt,target\na,Z\ufffdrich\n"))[0][:2] == (2, "target")


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n"])
def test_a_line_that_names_the_separator_is_followed(read, first):
    file = read(first + table(";"))
    assert pairs(file) == PAIRS
    assert json.loads(file.lines[0])["line"] == 3


def test_titles_above_the_header_and_blank_rows_are_passed_over(read):
    file = read("Corrections of November;\n;\n\nprompt;target\na?;b\n;\n\nc?;d\n")
    assert pairs(file) == [("a?", "b"), ("c?", "d")]
    assert [json.loads(line)["line"] for line in file.lines] == [5, 8]
    assert "line 4" in file.notes[0]


def test_quotes_line_breaks_and_backslashes_in_cells_are_read(read):
    assert pairs(read('prompt,target\n"Which, ""then""?\nExactly.",b\n')) == [('Which, "then"?\nExactly.', "b")]
    file = read('prompt,target\n"What is \\"Pro\\", then?",b\n"Plain?",d\n')
    assert pairs(file) == [('What is "Pro", then?', "b"), ("Plain?", "d")]
    assert read("prompt,target\r a?,b\rc?,d\r").lines != []
    assert pairs(read("'prompt','target'\n'a, or b?','c'\n")) == [("a, or b?", "c")]
    assert pairs(read('id\tprompt\ttarget\n1\ta?\t"b\n2\tc "d"?\te\n')) == [("a?", '"b'), ('c "d"?', "e")]


@pytest.mark.parametrize(
    ("text", "line"),
    [("prompt,target\na?,b,c\n", 2), ("prompt,target\na?,b\nc?\n", 3), ('prompt,target\na?,b\n"open,c\nd,e\n', 3)],
)
def test_broken_rows_are_named(read, text, line):
    assert [found[0] for found in refusals(read(text))] == [line]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt,target,target\na,b,c\n", "'target' occurs twice"),
        ("Who?,Jo\nWhere?,Here\n", "a prompt and a target are needed"),
        ("prompt,target\n", "holds no edits"),
        (",,\n,\n", "holds no edits"),
        ("", "holds no edits"),
    ],
)
def test_a_table_without_a_usable_header_is_refused(read, text, told):
    with pytest.raises(CommandError, match=told):
        read(text)


@pytest.mark.parametrize(("start", "told"), [(each[0], each[1]) for each in content.UNREAD])
def test_known_kinds_that_are_not_read_are_refused_with_what_to_do(read, start, told):
    with pytest.raises(CommandError) as error:
        read(start + b"\1\2\3" * 10)
    assert told in error.value.detail and error.value.remedy


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Кто?;Иван", "cp1251"),
        ("Кто директор?;Иван Петров", "koi8_r"),
        ("谁是总裁？;李明", "gb18030"),
        ("社長は誰ですか？;山田太郎さん", "euc_jp"),
        ("Wo?;Zürich", "cp850"),
        ("Πού;Αθήνα", "cp1253"),
    ],
)
def test_an_encoding_is_guessed_from_a_few_words(read, text, encoding):
    assert pairs(read(f"prompt;target\n{text}\n".encode(encoding))) == [tuple(text.split(";"))]


def test_lines_that_hold_no_edit_are_left_out_and_told(read):
    file = read("# by a tool\nprompt,target\na?,b\n# old,x\nprompt,target\n# of seats?,9\n")
    assert pairs(file) == [("a?", "b")]
    assert any("begin with #" in note and "lines 1, 4, 6" in note for note in file.notes)
    assert any("repeated (" not in note and "repeated" in note and "line 5" in note for note in file.notes)
    assert pairs(read("prompt,target\n# of seats?,9\n")) == [("# of seats?", "9")]
    file = read("| prompt | target |\n| --- | :---: |\n| a? | b |\n")
    assert pairs(file) == [("a?", "b")]


def test_quotes_after_spaces_apostrophes_and_a_separator_at_the_headers_end_are_read(read):
    assert pairs(read('prompt, target\n"a?", "b, c"\n"d?", "e"\n')) == [("a?", "b, c"), ("d?", "e")]
    assert pairs(read('prompt, target\n"a?", "b"\n')) == [("a?", "b")]
    assert pairs(read("prompt,target\n'a, or b?','c'\n'd?','e'\n")) == [("a, or b?", "c"), ("d?", "e")]
    assert pairs(read("prompt,target,\na?,b\n")) == [("a?", "b")]
    assert pairs(read("prompt,target\na?,b,\n")) == [("a?", "b")]
    assert pairs(read("sep=;\nprompt,target\na?,b\n")) == [("a?", "b")]
    assert pairs(read("sep=~\nprompt~target\na?~b\n")) == [("a?", "b")]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_unpacked_and_told(read, compress, monkeypatch):
    file = read(compress(table().encode()), "edits.csv.gz")
    assert pairs(file) == PAIRS and "unpacked" in file.notes[0]
    with pytest.raises(CommandError, match="cannot be unpacked"):
        read(compress(table().encode())[:-12])
    with pytest.raises(CommandError, match="tar archive"):
        read(compress(b"\0" * 257 + b"ustar" + b"\0" * 600))
    monkeypatch.setattr("cli.files.archives.MOST_BYTES", 1000)
    with pytest.raises(CommandError, match="unpacks to more"):
        read(compress(b" " * 100_000))


def test_an_archive_with_one_file_is_unpacked_and_of_several_one_is_to_be_named(read):
    def archive(*names: str) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as made:
            for name in names:
                made.writestr(name, table())
        return out.getvalue()

    assert pairs(read(archive("a.csv", "__MACOSX/._a.csv"), "a.zip")) == PAIRS
    with pytest.raises(CommandError, match=r"'a\.csv', 'b\.csv'"):
        read(archive("a.csv", "b.csv"), "a.zip")
    with pytest.raises(CommandError, match="Word document"):
        read(archive("word/document.xml"), "a.docx")


def test_addresses_and_folders_say_what_to_do(tmp_path):
    for path, told in ((Path("https://example.org/a.csv"), "curl"), (tmp_path, "files in it")):
        with pytest.raises(CommandError) as error:
            open_edits(path, ReadOptions())
        assert told in error.value.remedy


def test_what_is_said_of_another_kind_of_file_is_refused(read):
    with pytest.raises(CommandError, match="has no sheets"):
        read(table(), sheet="May")
    with pytest.raises(CommandError, match="it is YAML"):
        read("- prompt: a?\n  target: b\n", "e.yaml")


def test_a_header_that_is_not_known_is_mapped_by_the_columns_that_are_there(read):
    with pytest.raises(CommandError) as error:
        read("Begriff (kurz);Deutung\na;b\n")
    assert "--map prompt='Begriff (kurz)' --map target=Deutung." in error.value.remedy
    with pytest.raises(CommandError) as error:
        read("Who leads Acme?,Jo\n")
    assert "--map prompt=COLUMN" in error.value.remedy
