"""Files within archives are read as if they lay beside each other; an archive that lies or explodes is
refused."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import tracemalloc
import zipfile

import pytest
import zstandard

from hanlin.common.errors import HanlinError
from hanlin.corpus.readers.archives import members
from hanlin.corpus.readers.files import ReadLimits, blocks, expand, stem
from hanlin.corpus.readers.quarantine import Quarantine
from hanlin.corpus.readers.read import read_conversations, read_documents, read_texts

LIMITS = ReadLimits()
FILES = {
    "甲/a.jsonl": b'{"text": "a1"}\n{broken\n{"text": "a2"}\n',
    "b.txt.gz": gzip.compress("第二个文件的正文。".encode()),
    "c.txt": "這是一個關於圖書館的故事，裡面有許多書。".encode("big5hkscs") * 20,
    "part-00000": b'{"text": "no extension"}\n',
    "crlf.jsonl": b'\xef\xbb\xbf{"text": "windows"}\r\n',
}
OTHERS = {
    "pic.png": b"\x89PNG" + bytes(100),
    "noise": random.Random(0).randbytes(3000),
    "__MACOSX/._a.jsonl": b"\0\1",
    ".hidden.txt": b"x",
    "inner.zip": b"PK\3\4",
    "old.tar.gz": b"\x1f\x8b",
    "t.parquet": b"PAR1",
    "meta.json": b'{"dataset_infos": {"size": 3}}',
    "empty.txt": b"",
}


def make_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(zipfile.ZipInfo("folder/"), b"")


def make_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def make_tar_zst(path, files):
    plain = path.with_name("plain")
    make_tar(plain, files)
    path.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    plain.unlink()


MAKE = {
    "x.zip": make_zip,
    "stored.ZIP": lambda path, files: make_zip(path, files, zipfile.ZIP_STORED),
    "x.tar": make_tar,
    "x.tar.gz": lambda path, files: make_tar(path, files, "w:gz"),
    "x.tgz": lambda path, files: make_tar(path, files, "w:gz"),
    "x.tar.xz": lambda path, files: make_tar(path, files, "w:xz"),
    "x.tar.bz2": lambda path, files: make_tar(path, files, "w:bz2"),
    "x.tar.zst": make_tar_zst,
}


@pytest.mark.parametrize("kind", MAKE)
def test_files_within_are_read_like_files_beside_each_other(tmp_path, kind):
    MAKE[kind](tmp_path / kind, FILES | OTHERS)
    quarantine = Quarantine()
    found = [item["text"] for item in read_documents(tmp_path / kind, quarantine=quarantine)]
    folder = tmp_path / "folder"
    for name, data in FILES.items():
        place = folder / f"{list(FILES).index(name)}" / name
        place.parent.mkdir(parents=True)
        place.write_bytes(data)
    beside = [
        path
        for number in range(len(FILES))
        for path in sorted((folder / str(number)).rglob("*"))
        if path.is_file()
    ]
    assert found == [
        item["text"] for path in beside for item in read_documents(path, quarantine=Quarantine())
    ]
    assert [text for batch in read_texts(tmp_path / kind, quarantine=Quarantine()) for text in batch] == [
        text.encode() for text in found
    ]
    skipped = {entry.file.partition("!")[2]: entry for entry in quarantine.entries}
    assert set(skipped) == (set(OTHERS) | {"甲/a.jsonl"}) - {"__MACOSX/._a.jsonl", ".hidden.txt"}
    assert skipped["甲/a.jsonl"].line == 2 and skipped["甲/a.jsonl"].file == f"{tmp_path / kind}!甲/a.jsonl"
    assert f"{kind}!甲/a.jsonl:2" in quarantine.summary()


def test_the_source_is_the_archives_name_and_directories_hold_archives(tmp_path):
    make_zip(tmp_path / "小说.zip", FILES)
    make_tar(tmp_path / "books.tar.gz", FILES, "w:gz")
    (tmp_path / "plain.jsonl").write_text('{"text": "plain"}\n')
    assert [path.name for path in expand(tmp_path)] == ["books.tar.gz", "plain.jsonl", "小说.zip"]
    assert {item["source"] for item in read_documents(tmp_path, quarantine=Quarantine())} == {
        "books",
        "plain",
        "小说",
    }
    assert [stem(tmp_path / name) for name in MAKE] == ["x", "stored", *["x"] * 6]


def test_conversations_within_an_archive(tmp_path):
    record = {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]}
    make_zip(tmp_path / "x.zip", {"a.json": json.dumps([record, record]), "b.jsonl": json.dumps(record)})
    assert len(list(read_conversations(tmp_path / "x.zip"))) == 3


def test_names_of_chinese_windows(tmp_path):
    """GB18030 names without the UTF-8 flag, as Explorer writes them: `zipfile` would take them for CP437."""
    make_zip(tmp_path / "x.zip", {"XXXXXX.jsonl": b'{"text": "ok"}\n{no\n'})
    data = (tmp_path / "x.zip").read_bytes()
    raw = "古文集".encode("gb18030")
    (tmp_path / "x.zip").write_bytes(data.replace(b"XXXXXX", raw))
    quarantine = Quarantine()
    assert len(list(read_documents(tmp_path / "x.zip", quarantine=quarantine))) == 1
    assert quarantine.entries[0].file == f"{tmp_path / 'x.zip'}!古文集.jsonl"


def test_an_encrypted_zip_is_refused_with_words(tmp_path):
    make_zip(tmp_path / "x.zip", {"a.jsonl": b'{"text": "x"}\n'})
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    data[data.index(b"PK\3\4") + 6] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(HanlinError, match="encrypted|密码"):
        list(read_documents(tmp_path / "x.zip"))


def test_an_unknown_compression_method_costs_that_member(tmp_path):
    make_zip(tmp_path / "x.zip", {"big.jsonl": b'{"text": "x"}\n', "ok.jsonl": b'{"text": "y"}\n'})
    data = bytearray((tmp_path / "x.zip").read_bytes())
    struct.pack_into("<H", data, data.index(b"PK\1\2") + 10, 9)  # deflate64
    (tmp_path / "x.zip").write_bytes(data)
    quarantine = Quarantine()
    assert [item["text"] for item in read_documents(tmp_path / "x.zip", quarantine=quarantine)] == ["y"]
    assert "9" in quarantine.entries[0].reason


@pytest.mark.parametrize("kind", MAKE)
def test_truncated_and_damaged_archives_name_the_file(tmp_path, kind):
    files = {f"{i}.txt": random.Random(i).randbytes(30_000).hex().encode() for i in range(10)}
    MAKE[kind](tmp_path / kind, files)
    whole = (tmp_path / kind).read_bytes()
    (tmp_path / kind).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(HanlinError, match=kind):
        list(read_documents(tmp_path / kind))
    (tmp_path / kind).write_bytes(b"no archive at all, whatever the name says" * 30)
    with pytest.raises(HanlinError, match=kind):
        list(read_documents(tmp_path / kind))
    (tmp_path / kind).write_bytes(b"")
    with pytest.raises(HanlinError, match=kind):
        list(read_documents(tmp_path / kind))
    if "zip" in kind.lower():  # the checksum of a member
        damaged = bytearray(whole)
        damaged[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
        (tmp_path / kind).write_bytes(damaged)
        with pytest.raises(HanlinError, match=kind):
            list(read_documents(tmp_path / kind))


@pytest.mark.parametrize("kind", ["x.zip", "x.tar.gz", "x.tar.zst", "x.tar.xz"])
def test_a_bomb_is_stopped_in_bounded_memory(tmp_path, kind):
    MAKE[kind](tmp_path / kind, {"bomb.txt": b"x" * (80 << 20)})
    tracemalloc.start()
    with pytest.raises(HanlinError, match="bomb|炸弹"):
        for member in members(tmp_path / kind, LIMITS, lambda name, why: None):
            for _ in blocks(member, LIMITS):
                pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 << 20, peak


def test_many_small_bombs_and_a_bomb_within_a_member_count_together(tmp_path):
    make_zip(tmp_path / "many.zip", {f"{i}.txt": b"x" * (9 << 20) for i in range(8)})
    make_zip(tmp_path / "inner.zip", {"a.txt.gz": gzip.compress(bytes(70 << 20))}, zipfile.ZIP_STORED)
    for name in ("many.zip", "inner.zip"):
        with pytest.raises(HanlinError, match="bomb|炸弹"):
            list(read_documents(tmp_path / name))


def test_overlapping_members_cannot_multiply(tmp_path):
    """Fifty table entries for one local file: each says little, together they are a bomb."""
    make_zip(tmp_path / "x.zip", {"a.txt": b"x" * (9 << 20)})
    data = (tmp_path / "x.zip").read_bytes()
    start, end = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 50, 50, (end - start) * 50)
    (tmp_path / "x.zip").write_bytes(data[:start] + data[start:end] * 50 + tail)
    with pytest.raises(HanlinError, match="x.zip"):
        list(read_documents(tmp_path / "x.zip"))


def test_sparse_files_and_links_are_passed_over(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("evil.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        sparse = tarfile.TarInfo("sparse.txt")
        sparse.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "sparse.txt",
            "GNU.sparse.realsize": str(1 << 40),
        }
        body = b"0\n".ljust(512, b"\0")
        sparse.size = len(body)
        archive.addfile(sparse, io.BytesIO(body))
        good = tarfile.TarInfo("good.jsonl")
        good.size = 15
        archive.addfile(good, io.BytesIO(b'{"text": "ok"}\n'))
    quarantine = Quarantine()
    assert [item["text"] for item in read_documents(path, quarantine=quarantine)] == ["ok"]
    assert [entry.file.partition("!")[2] for entry in quarantine.entries] == ["evil.txt", "sparse.txt"]


def test_headers_beyond_reason_are_refused_before_they_are_in_memory(tmp_path):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 300 << 20
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(100):
            file.write(random.Random(1).randbytes(1 << 16) * 16)
    tracemalloc.start()
    with pytest.raises(HanlinError, match="x.tar.gz"):
        list(read_documents(tmp_path / "x.tar.gz"))
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()


def test_too_many_members_and_too_large_a_table(tmp_path, monkeypatch):
    files = {f"{i}.jsonl": b'{"text": "x"}\n' for i in range(20)}
    make_zip(tmp_path / "x.zip", files)
    make_tar(tmp_path / "x.tar", files)
    for name in ("x.zip", "x.tar"):
        assert len(list(read_documents(tmp_path / name, limits=ReadLimits(members=21)))) == 20
        with pytest.raises(HanlinError, match="19"):
            list(read_documents(tmp_path / name, limits=ReadLimits(members=19)))
    monkeypatch.setattr("hanlin.corpus.readers.archives._DIRECTORY", 100)
    with pytest.raises(HanlinError, match="x.zip"):
        list(read_documents(tmp_path / "x.zip"))


def test_an_archive_without_text_says_what_it_holds(tmp_path):
    make_zip(tmp_path / "x.zip", {"a.png": b"\x89PNG"})
    with pytest.raises(HanlinError, match="a.png"):
        list(read_documents(tmp_path / "x.zip"))
    make_zip(tmp_path / "letter.zip", {"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"})
    with pytest.raises(HanlinError, match="Office|office"):
        list(read_documents(tmp_path / "letter.zip"))


def test_a_line_without_end_in_an_archive_costs_itself(tmp_path):
    limits = ReadLimits(record_bytes=1 << 20)
    lines = (
        b'{"text": "a"}\n{"text": "'
        + random.Random(0).randbytes(2 << 20).hex().encode()
        + b'"}\n{"text": "b"}\n'
    )
    for name in ("x.zip", "x.tar.gz"):
        MAKE[name](tmp_path / name, {"long.jsonl": lines})
        quarantine = Quarantine()
        assert [
            item["text"] for item in read_documents(tmp_path / name, quarantine=quarantine, limits=limits)
        ] == ["a", "b"]
        assert [(entry.line, entry.offset) for entry in quarantine.entries] == [(2, 14)]


def test_whatever_happens_to_an_archive_is_an_error_in_words(tmp_path):
    whole = {}
    for kind in MAKE:
        MAKE[kind](tmp_path / kind, FILES | OTHERS)
        whole[kind] = (tmp_path / kind).read_bytes()
    version = bytearray(whole["x.zip"])
    version[version.index(b"PK\1\2") + 6] = 255  # "version needed": zipfile answers with NotImplementedError
    (tmp_path / "x.zip").write_bytes(version)
    with pytest.raises(HanlinError, match="x.zip"):
        list(read_documents(tmp_path / "x.zip"))
    draw = random.Random(seed := 7)
    for turn in range(1500):
        kind = draw.choice(list(MAKE))
        data = bytearray(whole[kind])
        for _ in range(draw.choice([1, 2, 10])):
            at = draw.randrange(len(data))
            if draw.random() < 0.6:
                data[at] = draw.randrange(256)
            else:
                del data[at : at + draw.randrange(1, 200)]
        (tmp_path / kind).write_bytes(data)
        try:
            list(
                read_documents(
                    tmp_path / kind, quarantine=Quarantine(), limits=ReadLimits(record_bytes=1 << 20)
                )
            )
        except HanlinError:
            pass
        except Exception as error:
            raise AssertionError(f"seed {seed}, turn {turn}, {kind}") from error
