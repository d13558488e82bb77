"""A download from a hub that drops connections, lies and redirects: every byte is checked, and every refusal
says why."""

from __future__ import annotations

import collections
import hashlib
import json
import random
import re
import shutil
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from hanlin.cli.main import app
from hanlin.common.errors import HanlinError
from hanlin.corpus.download import hub as hubs
from hanlin.corpus.download import web
from hanlin.corpus.download.catalogue import DATASETS, DataSet, find
from hanlin.corpus.download.fetch import (
    PROVENANCE,
    choose,
    describe,
    fetch,
    fetch_local,
    plan_anywhere,
    plan_fetch,
    size_text,
)
from hanlin.corpus.download.hub import HuggingFace, ModelScope, open_hub, safe_path
from hanlin.corpus.download.web import RemoteFile, part_of
from hanlin.corpus.readers.files import expand

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SET = DataSet("toy", "pretrain", ("text",), "who/toy", "who/toy", "CC BY-SA 4.0", "yes")
FILES = {
    "data/a 一.jsonl.gz": random.Random(1).randbytes(3_000_000),
    "data/b.jsonl": b'{"text": "x"}\n' * 1000,
    "README.md": b"# card",
    ".gitattributes": b"*",
}


class FakeHub:
    """A hub on the loopback interface; `behaviour[path]` is a list of what to do with the next requests for
    a file."""

    def __init__(self):
        self.files = dict(FILES)
        self.lfs = {"data/a 一.jsonl.gz"}
        self.listed_sizes: dict[str, int] = {}
        self.listed_sha: dict[str, str] = {}
        self.behaviour: dict[str, list] = collections.defaultdict(list)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.page = 2
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *args):
                pass

            def do_GET(self):
                fake.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *args: None  # the client hangs up on lies
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def send(self, handler, data: bytes, status: int = 200, **headers: str) -> None:
        handler.send_response(status)
        for name, value in {
            "Content-Length": str(len(data)),
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    def answer(self, handler) -> None:
        parts = urlsplit(handler.path)
        path, query = unquote(parts.path), {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.requests.append((handler.path, dict(handler.headers)))
        waiting = self.behaviour[path] or self.behaviour[path.rpartition("/")[2]]
        act = waiting.pop(0) if waiting else None
        if callable(act):
            act(handler)
        elif isinstance(act, int):
            self.send(handler, b"no", act, Retry_After="0" if act == 429 else "")
        elif path == "/api/datasets/who/toy/revision/main":
            self.send(
                handler,
                json.dumps({"sha": COMMIT, "gated": False, "tags": ["license:cc-by-sa-4.0", "x"]}).encode(),
            )
        elif path == f"/api/datasets/who/toy/tree/{COMMIT}":
            assert query["recursive"] == "true"
            start, names = int(query.get("cursor", 0)), list(self.files)
            entries = [
                {"type": "directory", "path": "data", "oid": "0", "size": 0},
                *(self.entry(name) for name in names[start : start + self.page]),
            ]
            following = (
                f"<https://elsewhere.invalid{parts.path}"
                f'?recursive=true&cursor={start + self.page}>; rel="next"'
            )
            self.send(
                handler,
                json.dumps(entries).encode(),
                Link=following if start + self.page < len(names) else "",
            )
        elif path == "/api/v1/datasets/who/toy/repo/tree":
            size, page = int(query["PageSize"]), int(query["PageNumber"])
            entries = [
                {"Path": name, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
                for name, data in self.files.items()
            ]
            self.send(
                handler,
                json.dumps(
                    {"Code": 200, "Data": {"Files": entries[(page - 1) * size : page * size]}}
                ).encode(),
            )
        elif path == "/api/v1/datasets/who/toy/repo":
            self.body(handler, query["FilePath"], act)
        elif path.startswith(f"/datasets/who/toy/resolve/{COMMIT}/") or path.startswith("/cdn/"):
            self.body(handler, path.split(f"{COMMIT}/")[-1].removeprefix("/cdn/"), act)
        else:
            self.send(handler, b"not here", 404)

    def entry(self, name: str) -> dict:
        data = self.files[name]
        found = {
            "type": "file",
            "path": name,
            "size": self.listed_sizes.get(name, len(data)),
            "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
        }
        if name in self.lfs:
            found["lfs"] = {
                "oid": self.listed_sha.get(name, hashlib.sha256(data).hexdigest()),
                "size": found["size"],
                "pointerSize": 130,
            }
        return found

    def body(self, handler, name: str, act) -> None:
        data = self.files.get(name)
        if data is None:
            self.send(handler, b"", 404)
            return
        start = (
            int(match[1])
            if (match := re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "")))
            and act != "no ranges"
            else 0
        )
        if start >= len(data) and start:
            self.send(handler, b"", 416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if act != "no length":
            handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        rest = data[start:]
        if isinstance(act, tuple):  # ("drop", bytes)
            handler.wfile.write(rest[: act[1]])
            return  # the connection closes early
        handler.wfile.write(rest)

    def ranges(self, name: str) -> list[str]:
        return [
            headers.get("Range", "")
            for path, headers in self.requests
            if unquote(path).endswith(name) and "/resolve/" in path
        ]


@pytest.fixture
def fake(monkeypatch):
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "MODELSCOPE_API_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    hub = FakeHub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture
def take(fake, tmp_path):
    """`take()`: fetch the toy set with a hub that does not really wait; `take.waits` are the seconds it
    would have."""
    waits: list[float] = []

    def run(**options):
        hub = HuggingFace(
            "who/toy", options.pop("endpoint", fake.url), options.pop("token", ""), waits.append
        )
        return fetch(plan_fetch(SET, hub, tmp_path / "out", **options))

    run.waits = waits
    return run


def whole(tmp_path) -> bool:
    return all(
        (tmp_path / "out" / name).read_bytes() == FILES[name] for name in FILES if name.startswith("data/")
    )


def leftovers(tmp_path) -> list[str]:
    return [path.name for path in tmp_path.rglob("*.part")]


A = "data/a 一.jsonl.gz"


def test_data_files_come_whole_with_their_origin_and_nothing_is_fetched_twice(fake, take, tmp_path):
    record = take()
    assert whole(tmp_path) and not leftovers(tmp_path)
    # neither the card nor .hanlin.json is text to train on
    assert {path.name for path in expand(tmp_path / "out")} == {
        "a 一.jsonl.gz",
        "b.jsonl",
    }
    assert record == json.loads((tmp_path / "out" / PROVENANCE).read_bytes())
    assert (
        record["revision"] == COMMIT
        and record["licence_tag"] == "cc-by-sa-4.0"
        and record["commercial"] == "yes"
    )
    assert record["files"][A] == {"bytes": 3_000_000, "sha256": hashlib.sha256(FILES[A]).hexdigest()}
    fake.requests.clear()
    assert take() | {"fetched": 0} == record | {"fetched": 0}
    assert not any("/resolve/" in path for path, _ in fake.requests)
    (tmp_path / "out" / A).write_bytes(b"\0" * 3_000_000)  # damaged since: fetched again
    take()
    assert whole(tmp_path)


def test_dropped_connections_are_resumed_where_they_broke(fake, take, tmp_path):
    fake.behaviour["a 一.jsonl.gz"] = [("drop", 1_000_000), 503, ("drop", 500_000), 429, ("drop", 10)]
    take()
    assert whole(tmp_path) and not leftovers(tmp_path)
    assert fake.ranges("a 一.jsonl.gz") == [
        "",
        "bytes=1000000-",
        "bytes=1000000-",
        "bytes=1500000-",
        "bytes=1500000-",
        "bytes=1500010-",
    ]
    assert take.waits == [1, 1, 1, 0, 2]  # the 429 asked for 0


def test_a_later_run_goes_on_from_the_part_of_an_earlier_one(fake, take, tmp_path):
    fake.behaviour["a 一.jsonl.gz"] = [("drop", 1_000_000), 404]
    with pytest.raises(HanlinError, match="404"):
        take()
    assert len(leftovers(tmp_path)) == 1 and not (tmp_path / "out" / A).exists()
    plan = plan_fetch(SET, HuggingFace("who/toy", fake.url), tmp_path / "out")
    assert plan.received == 1_000_000 and plan.total == 2_000_000 + len(FILES["data/b.jsonl"])
    take()
    assert whole(tmp_path) and fake.ranges("a 一.jsonl.gz")[-1] == "bytes=1000000-"


def test_a_server_that_keeps_dropping_is_given_up_with_words(fake, take, tmp_path):
    fake.behaviour["a 一.jsonl.gz"] = [("drop", 10)] * 20
    with pytest.raises(HanlinError, match="HTTPS_PROXY"):
        take()
    assert take.waits == [1, 2, 4, 8, 16]


def test_a_server_without_ranges_starts_over(fake, take, tmp_path):
    fake.behaviour["a 一.jsonl.gz"] = [("drop", 1_000_000), "no ranges"]
    take()
    assert whole(tmp_path)


def test_a_wrong_checksum_is_refused_and_a_bad_part_from_last_time_replaced(fake, take, tmp_path):
    file = RemoteFile(A, len(FILES[A]), hashlib.sha256(FILES[A]).hexdigest())
    part = part_of(tmp_path / "out" / A, file)
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    take()
    assert whole(tmp_path) and fake.ranges("a 一.jsonl.gz") == ["bytes=1000-", ""]
    for name, listing in ((A, "sha256"), ("data/b.jsonl", "blob")):
        fake.files[name] = b"!" + FILES[name][1:]
        fake.listed_sha[A] = hashlib.sha256(FILES[A]).hexdigest()
        fake.lfs = {A}
        (tmp_path / "out" / name).unlink()
        if listing == "blob":
            entry = fake.entry
            fake.entry = lambda path, entry=entry: (
                entry(path) | ({"oid": "0" * 40} if path == "data/b.jsonl" else {})
            )  # type: ignore[method-assign]
        with pytest.raises(HanlinError, match="checksum|校验和"):
            take(patterns=[name])
        assert not (tmp_path / "out" / name).exists() and not leftovers(tmp_path)


@pytest.mark.parametrize("act", [None, "no length"])
@pytest.mark.parametrize("listed", [1_000_000, 2_999_999])
def test_a_body_longer_than_listed_is_refused_unread(fake, take, tmp_path, act, listed):
    fake.listed_sizes[A] = listed
    fake.behaviour["a 一.jsonl.gz"] = [act]
    with pytest.raises(HanlinError, match="a 一.jsonl.gz"):
        take()
    assert not (tmp_path / "out" / A).exists()
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob(".*.part")) <= listed


def test_a_body_shorter_than_listed_is_refused(fake, take, tmp_path):
    fake.listed_sizes[A] = 4_000_000
    with pytest.raises(HanlinError, match="4,000,000"):
        take()
    fake.behaviour["a 一.jsonl.gz"] = ["no length"] * 20
    with pytest.raises(HanlinError):
        take()
    assert not (tmp_path / "out" / A).exists()


def redirect(target: str, status: int = 302):
    def act(handler) -> None:
        handler.send_response(status)
        handler.send_header("Location", target)
        handler.end_headers()

    return act


def test_a_token_goes_to_the_hub_alone_also_over_redirects(fake, take, tmp_path):
    port = fake.server.server_port
    fake.behaviour["a 一.jsonl.gz"] = [
        redirect(f"http://localhost:{port}/cdn/data/a%20%E4%B8%80.jsonl.gz", 307)
    ]
    fake.behaviour["b.jsonl"] = [redirect(f"{fake.url}/cdn/data/b.jsonl")]
    take(token="secret")
    assert whole(tmp_path)
    for path, headers in fake.requests:
        elsewhere = path.startswith("/cdn/data/a")
        assert headers.get("Authorization") == (None if elsewhere else "Bearer secret"), path


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:text/plain,x"])
def test_redirects_to_other_schemes_are_refused(fake, take, tmp_path, target):
    fake.behaviour["a 一.jsonl.gz"] = [redirect(target)]
    with pytest.raises(HanlinError, match="refused|拒绝"):
        take()
    assert take.waits == [] and not (tmp_path / "out" / A).exists()


def test_https_never_falls_to_http():
    request = urllib.request.Request("https://hub.invalid/x", headers={})
    with pytest.raises(urllib.error.HTTPError):
        web._Redirects().redirect_request(request, None, 302, "", {}, "http://hub.invalid/x")
    assert web._Redirects().redirect_request(request, None, 302, "", {}, "https://cdn.invalid/x") is not None


def test_an_endless_chain_of_redirects_ends(fake, take):
    fake.behaviour["a 一.jsonl.gz"] = [
        redirect(f"{fake.url}/datasets/who/toy/resolve/{COMMIT}/data/a%20%E4%B8%80.jsonl.gz")
    ] * 50
    with pytest.raises(HanlinError):
        take()


@pytest.mark.parametrize(
    ("status", "words"), [(401, "HF_TOKEN"), (403, "/datasets/who/toy"), (404, "--from"), (503, "503")]
)
def test_refusals_say_what_to_do(fake, take, status, words):
    fake.behaviour["a 一.jsonl.gz"] = [status] * 20
    with pytest.raises(HanlinError, match=words) as caught:
        take()
    assert words in caught.value.zh and words in caught.value.en
    fake.behaviour["/api/datasets/who/toy/revision/main"] = [status] * 20
    with pytest.raises(HanlinError, match=words):
        take()


def test_no_server_no_name_no_json_no_address(fake, take):
    with pytest.raises(HanlinError, match="http://|https://"):
        take(endpoint="huggingface.co")
    with pytest.raises(HanlinError):
        take(endpoint="file:///etc")
    with pytest.raises(HanlinError, match="127.0.0.1:9"):
        take(endpoint="http://127.0.0.1:9")
    with pytest.raises(HanlinError, match="hf-mirror"):
        take(endpoint="http://no-such-host.invalid")
    fake.behaviour["main"] = [lambda handler: fake.send(handler, b"<html>log in</html>")]
    with pytest.raises(HanlinError, match="JSON"):
        take()
    for odd in ([], {"sha": "../../x"}, {}):
        fake.behaviour["main"] = [lambda handler, odd=odd: fake.send(handler, json.dumps(odd).encode())]
        with pytest.raises(HanlinError, match="who/toy"):
            take()


def test_a_listing_cut_short_is_asked_for_again(fake, take, tmp_path):
    fake.behaviour["main"] = [lambda handler: fake.send(handler, b'{"sha": ', Content_Length="100")]
    take()
    assert whole(tmp_path) and take.waits == [1]


BAD = [
    "../x.jsonl",
    "/etc/x.jsonl",
    "a/../../x.jsonl",
    "a\\..\\x.jsonl",
    "C:x.jsonl",
    "a//x.jsonl",
    "",
    "a/.. /x.jsonl",
    "x\n.jsonl",
    "./x.jsonl",
]


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_leaves_the_directory_refuses_the_whole_set(fake, take, tmp_path, name):
    assert not safe_path(name)
    fake.files[name] = b"evil"
    with pytest.raises(HanlinError, match="refused|拒绝"):
        take()
    assert not (tmp_path / "out").exists() and not (tmp_path / "x.jsonl").exists()


def test_a_checksum_of_the_hub_cannot_name_a_file(fake, take, tmp_path):
    fake.listed_sha[A] = "../../../../tmp/x"
    take()
    assert whole(tmp_path)


def test_too_little_room_is_said_before_anything_is_written(fake, take, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1_000_000))
    with pytest.raises(HanlinError, match="--files"):
        take()
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_is_an_error_in_words_and_the_part_stays(fake, take, tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(web, "open", lambda *args: Full(open(*args)), raising=False)  # noqa: SIM115
    with pytest.raises(HanlinError, match="No space left"):
        take()
    assert take.waits == []  # no use in trying again


def test_patterns_choose_and_what_matches_nothing_is_said(fake, take, tmp_path):
    take(patterns=["*b.json?"])
    assert [path.name for path in expand(tmp_path / "out")] == ["b.jsonl"]
    take()
    assert len(json.loads((tmp_path / "out" / PROVENANCE).read_bytes())["files"]) == 2
    with pytest.raises(HanlinError, match="b.jsonl"):
        take(patterns=["*.parquet"])
    listed = [
        RemoteFile(path, 1)
        for path in (
            "x.parquet",
            "dataset_infos.json",
            "script.py",
            "pic.png",
            "sub/LICENSE.txt",
            ".x/y.jsonl",
            "a.tar.gz",
        )
    ]
    assert [file.path for file in choose(listed, ())] == ["x.parquet", "a.tar.gz"]
    assert [file.path for file in choose(listed, ["*.py"])] == ["script.py"]


def test_modelscope_pages_and_files(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(ModelScope, "_PAGE", 1)
    hub = ModelScope("who/toy", fake.url, "secret")
    assert [file.path for file in hub.files("master")] == list(FILES)
    record = fetch(plan_fetch(SET, hub, tmp_path / "out"))
    assert whole(tmp_path) and record["revision"] == "master"
    assert all(headers["Cookie"] == "m_session_id=secret" for _, headers in fake.requests)
    monkeypatch.setattr(ModelScope, "_PAGE", 4)
    assert [file.path for file in ModelScope("who/toy", fake.url).files("master")] == list(FILES)


def test_a_proxy_is_used(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", fake.url)
    fetch(plan_fetch(SET, HuggingFace("who/toy", "http://hub.invalid"), tmp_path / "out"))
    assert whole(tmp_path)
    assert all(path.startswith("http://hub.invalid/") for path, _ in fake.requests)


def test_hubs_and_tokens_of_the_environment(monkeypatch):
    for name in ("HF_ENDPOINT", "HF_TOKEN", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "t")
    assert open_hub("hf", "a/b", "").web.host == "huggingface.co"
    mirror = open_hub("hf-mirror", "a/b", "")
    assert mirror.web.host == "hf-mirror.com" and not mirror.web._credentials  # never to a stranger unasked
    monkeypatch.setenv("HF_ENDPOINT", "https://hf-mirror.com/")
    assert all(open_hub(source, "a/b", "").web._credentials for source in ("hf", "hf-mirror"))
    assert open_hub("modelscope", "", "c/d").page == "https://www.modelscope.cn/datasets/c/d"
    for source, words in (("modelscope", "hf"), ("elsewhere", "hf-mirror")):
        with pytest.raises(HanlinError, match=words):
            open_hub(source, "a/b", "")


def test_files_that_are_here_are_taken_and_checked(tmp_path):
    source = tmp_path / "usb"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "x.jsonl").write_text('{"text": "x"}\n')
    (source / "README.md").write_text("card")
    record = fetch_local(SET, source, tmp_path / "one")
    assert [path.name for path in expand(tmp_path / "one")] == ["x.jsonl"] and record[
        "licence"
    ] == SET.licence
    fetch_local(SET, tmp_path / "one", tmp_path / "two")  # a directory that was fetched, with its checksums
    assert (tmp_path / "two" / "sub" / "x.jsonl").read_text() == '{"text": "x"}\n'
    (tmp_path / "one" / "sub" / "x.jsonl").unlink()
    (tmp_path / "one" / "sub" / "x.jsonl").write_text('{"text": "y"}\n')
    with pytest.raises(HanlinError, match="SHA-256"):
        fetch_local(SET, tmp_path / "one", tmp_path / "three")
    fetch_local(SET, source / "sub" / "x.jsonl", tmp_path / "four")
    assert (tmp_path / "four" / "x.jsonl").is_file()
    for wrong in (tmp_path / "no", tmp_path / "usb" / "none"):
        with pytest.raises(HanlinError, match="--path"):
            fetch_local(SET, wrong, tmp_path / "five")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HanlinError, match="--files"):
        fetch_local(SET, tmp_path / "empty", tmp_path / "five")


def test_the_command_shows_the_terms_and_wants_them_accepted(fake, tmp_path, monkeypatch, capsys):
    name = "tinystories-chinese"
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    monkeypatch.setattr(
        "hanlin.corpus.download.catalogue.DATASETS",
        tuple(SET if data.name == name else data for data in DATASETS),
    )
    arguments = ["data", "fetch", "toy", "--out", str(tmp_path / "out")]
    with pytest.raises(HanlinError, match="--yes"):
        app(arguments)
    shown = capsys.readouterr().err
    assert SET.licence in shown and "cc-by-sa-4.0" in shown and "3.0 MB" in shown and A in shown
    assert not (tmp_path / "out").exists()
    app([*arguments, "--yes", "--json"])
    assert json.loads(capsys.readouterr().out)["name"] == "toy" and whole(tmp_path)
    app(
        [
            "data",
            "fetch",
            "toy",
            "--from",
            "file",
            "--path",
            str(tmp_path / "out"),
            "--out",
            str(tmp_path / "copy"),
            "--yes",
        ]
    )
    assert (tmp_path / "copy" / A).read_bytes() == FILES[A]
    with pytest.raises(HanlinError, match="--path"):
        app(["data", "fetch", "toy", "--from", "file", "--yes"])


def test_the_description_names_commercial_use_and_unchecked_files(fake, tmp_path):
    plan = plan_fetch(SET, HuggingFace("who/toy", fake.url), tmp_path / "out")
    assert SET.licence in describe(plan) and "consent" not in describe(plan)
    assert "consent" in describe(replace(plan, repository=replace(plan.repository, gated=True)))
    unchecked = describe(type(plan)(**{**vars(plan), "missing": (RemoteFile("x", 5),)}))
    assert "checksum" in unchecked or "校验和" in unchecked


def test_sizes_for_people():
    assert [size_text(n) for n in (0, 999, 1000, 1_500_000, 123_456_789, 2.5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "123 MB",
        "2.5 TB",
    ]


def test_sets_within_larger_repositories_have_patterns():
    assert find("c4-zh").files and find("wikipedia-zh").files


# ------------------------------------------------------------------ which hub

GONE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("language", "order"),
    [("en", ["hf", "hf-mirror", "modelscope"]), ("zh", ["modelscope", "hf-mirror", "hf"])],
)
@pytest.mark.parametrize("alive", ["hf", "hf-mirror", "modelscope"])
def test_the_first_hub_that_can_be_reached_is_taken(fake, tmp_path, monkeypatch, language, order, alive):
    monkeypatch.setenv("HANLIN_LANG", language)
    tried, said = [], []

    def opened(name, huggingface, modelscope):
        tried.append(name)
        make = ModelScope if name == "modelscope" else HuggingFace
        return make(
            "who/toy",
            fake.url if name == alive else GONE,
            wait=lambda seconds: pytest.fail("no use waiting where there is another"),
        )

    plan = plan_anywhere(SET, tmp_path / "out", say=said.append, open_=opened)
    assert (
        tried == order[: order.index(alive) + 1]
        and len(said) == len(tried) - 1
        and plan.hub.web.attempts == 3
    )
    assert fake.url in describe(plan)
    fetch(plan)
    assert whole(tmp_path)


def test_where_none_can_be_reached_all_are_named(fake, tmp_path):
    with pytest.raises(HanlinError) as caught:
        plan_anywhere(
            SET,
            tmp_path / "out",
            open_=lambda name, hf, ms: HuggingFace(f"who/{name}", GONE, wait=lambda seconds: None),
        )
    assert all(
        f"- {name}: 127.0.0.1:9 cannot" in caught.value.en for name in ("hf", "hf-mirror", "modelscope")
    )


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_no_reason_to_ask_another_hub(fake, tmp_path, status):
    fake.behaviour["main"] = [status] * 3
    tried = []
    with pytest.raises(HanlinError, match=str(status)):
        plan_anywhere(
            SET,
            tmp_path / "out",
            open_=lambda name, hf, ms: tried.append(name) or HuggingFace("who/toy", fake.url),
        )
    assert len(tried) == 1


def test_an_address_of_ones_own_comes_first(fake, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "zh")
    assert hubs.sources("a/b", "") == ["hf-mirror", "hf"] and hubs.sources("", "a/b") == ["modelscope"]
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    assert hubs.sources("a/b", "a/b")[0] == "hf"
    monkeypatch.setenv("HF_ENDPOINT", "https://hf-mirror.com/")
    assert hubs.sources("a/b", "a/b") == ["hf", "modelscope"]


def test_a_listing_without_end_ends(fake, take, monkeypatch):
    monkeypatch.setattr(hubs, "_MOST_PAGES", 20)
    tree = f"/api/datasets/who/toy/tree/{COMMIT}"
    turn = iter(range(10**9))

    def page(handler):
        entry = {"type": "file", "path": f"{next(turn)}.jsonl", "size": 1, "oid": "0" * 40}
        fake.send(
            handler,
            json.dumps([entry]).encode(),
            Link=f'<{fake.url}{tree}?recursive=true&cursor={next(turn)}>; rel="next"',
        )

    fake.behaviour[tree] = [page] * 100
    with pytest.raises(HanlinError, match="without end|没有尽头"):
        take()
    assert len(fake.requests) < 30
    fake.behaviour["main"] = [lambda handler: fake.send(handler, b"[" * 5000 + b"]" * 5000)]
    with pytest.raises(HanlinError, match="JSON"):
        take()


@pytest.mark.parametrize(
    "name",
    [
        "data/" + "x" * 250 + ".jsonl",
        "data/\ud800.jsonl",
        "data/\x9b2J.jsonl",
        "data/\u202elnosj.jsonl",
        "data/" + "字" * 80,
    ],
)
def test_names_that_no_disk_can_hold_or_no_terminal_should_show_are_refused(fake, take, tmp_path, name):
    entry = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40}]
    fake.behaviour[f"/api/datasets/who/toy/tree/{COMMIT}"] = [
        lambda handler: fake.send(handler, json.dumps(entry).encode())
    ]
    with pytest.raises(HanlinError) as caught:
        take()
    assert not (tmp_path / "out").exists() and caught.value.en.isprintable()


def test_what_a_hub_says_cannot_move_the_cursor(fake, tmp_path):
    plan = plan_fetch(SET, HuggingFace("who/toy", fake.url), tmp_path / "out")
    shown = describe(
        replace(
            plan,
            repository=replace(plan.repository, licence="x\x1b[2J\x1b[H\ncommercial  use: yes\u202e\x9b"),
        )
    )
    assert all(line.isprintable() for line in shown.splitlines()) and len(shown.splitlines()) == len(
        describe(plan).splitlines()
    )
