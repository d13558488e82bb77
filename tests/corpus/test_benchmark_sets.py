"""Every benchmark can be fetched by its name, from a server that answers as the real ones do, and what was
fetched is what `hanlin eval` reads."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from hanlin.cli.main import app
from hanlin.common.errors import HanlinError
from hanlin.corpus.download.catalogue import DATASETS, catalogue_text, find
from hanlin.corpus.download.fetch import PROVENANCE
from hanlin.corpus.download.hub import GitHub
from hanlin.evaluation.benchmarks.base import BENCHMARKS, read_items
from hanlin.evaluation.benchmarks.folder import Folder
from tests.benchmark_files import FILES, USABLE, write

NAMES = sorted(name for name in BENCHMARKS if BENCHMARKS.get(name).__module__.startswith("hanlin."))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DECOY = b'{"question": "not a question of the benchmark"}\n'


def packed(name: str, kind: str) -> bytes:
    """A benchmark's files in one archive."""
    raw = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(raw, "w") as archive:
            for path, content in FILES[name].items():
                archive.writestr(path.removeprefix("data/"), content)
    else:
        with tarfile.open(fileobj=raw, mode="w:gz" if kind == "tar.gz" else "w") as archive:
            for path, content in FILES[name].items():
                info = tarfile.TarInfo(path)
                info.size = len(content.encode())
                archive.addfile(info, io.BytesIO(content.encode()))
    return raw.getvalue()


def below(folder: str, *names: str) -> dict[str, bytes]:
    return {folder + path: content.encode() for name in names for path, content in FILES[name].items()}


FEWCLUE = find("fewclue").measures
# The files as they lie in the authors' repositories, and some of what lies beside them.
GITHUB = {
    "haonan-li/CMMLU": below("", "cmmlu"),
    "ruixiangcui/AGIEval": below("", "agieval") | {"data/v1/lsat-ar.jsonl": DECOY},
    "OpenLMLab/GAOKAO-Bench": below("", "gaokao")
    | {"Data/Objective_Questions/gemini-pro_2010-2022_History_MCQs.json": DECOY},
    "nlpdata/c3": below("data/", "c3") | {"annotation/c3-d-dev.txt": DECOY},
    "CLUEbenchmark/FewCLUE": below("", *FEWCLUE)
    | {f"datasets/csldcp/{split}.json": DECOY for split in ("test_public", "train_few_all")},
    "sjtu-compling/ZhoBLiMP": {
        "data/ZhoBLiMP.tar.gz": packed("zhoblimp", "tar.gz"),
        "data/human_validation_result.csv": DECOY,
    },
    "cambridgeltl/xcopa": below("", "xcopa") | {"data/et/test.et.jsonl": DECOY},
    "XiaoMi/cmath": below("datasets/", "cmath") | {"datasets/distractor.jsonl": DECOY},
    "google-research/url-nlp": below("mgsm/", "mgsm") | {"mgsm/mgsm_bn.tsv": DECOY},
    "thu-coai/SafetyBench": below("", "safetybench") | {"submission_example.json": DECOY},
}
HUB = {
    "ceval/ceval-exam": {"ceval_data.tar": packed("ceval", "tar")},
    "haonan-li/cmmlu": {"cmmlu_v1_0_1.zip": packed("cmmlu", "zip"), "cmmlu.py": DECOY},
    "juletxara/xstory_cloze": below("", "xstorycloze"),
    "Muennighoff/xwinograd": below("", "xwinograd") | {"test/jp.jsonl": DECOY},
    "facebook/belebele": {"data/zho_Hans.jsonl": FILES["belebele"]["Belebele/zho_Hans.jsonl"].encode()}
    | {"data/zho_Hant.jsonl": DECOY},
    "Qwen/P-MMEval": {
        path.removeprefix("P-MMEval/"): text.encode() for path, text in FILES["mifeval_zh"].items()
    }
    | {"mifeval/test/en.jsonl": DECOY, "mgsm/test/zh.jsonl": DECOY},
    "meta-math/GSM8K_zh": below("", "gsm8k_zh"),
}


def answer(url: str, base: str) -> bytes | None:
    """What GitHub's API, its server of files and Hugging Face say, as far as it matters here."""
    parts = urlsplit(url)
    path, query = unquote(parts.path), parse_qs(parts.query)
    owner = "/".join(path.split("/")[2:4])
    if path.startswith("/repos/") and owner in GITHUB:
        rest = "/".join(path.split("/")[4:])
        if rest == "":
            return json.dumps({"license": {"spdx_id": "MIT"}, "default_branch": "main"}).encode()
        if rest == "commits/HEAD":
            return json.dumps({"sha": COMMIT, "commit": {}}).encode()
        if rest == f"git/trees/{COMMIT}" and query == {"recursive": ["1"]}:
            tree = [{"path": "data", "type": "tree", "sha": COMMIT}]
            for name, data in GITHUB[owner].items():
                blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                tree.append({"path": name, "type": "blob", "size": len(data), "sha": blob})
            return json.dumps({"sha": COMMIT, "tree": tree, "truncated": False}).encode()
    if path.startswith("/raw/") and owner in GITHUB:
        commit, _, name = path.removeprefix(f"/raw/{owner}/").partition("/")
        return GITHUB[owner].get(name) if commit == COMMIT else None
    for hub, files in HUB.items():
        if path == f"/api/datasets/{hub}/revision/main":
            return json.dumps({"sha": COMMIT, "tags": []}).encode()
        if path == f"/api/datasets/{hub}/tree/{COMMIT}":
            entries = []
            for name, data in files.items():
                blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                entries.append({"type": "file", "path": name, "size": len(data), "oid": blob})
            return json.dumps(entries).encode()
        if path.startswith(f"/datasets/{hub}/resolve/{COMMIT}/"):
            return files.get(path.removeprefix(f"/datasets/{hub}/resolve/{COMMIT}/"))
    return None


@pytest.fixture
def server(monkeypatch):
    """The requests that came, with their headers; all hubs' addresses lead to it."""
    requests: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            requests.append((self.path, dict(self.headers)))
            data = answer(self.path, url)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{running.server_port}"
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("GITHUB_API_URL", url)
    monkeypatch.setenv("GITHUB_RAW_URL", f"{url}/raw")
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    yield requests
    running.shutdown()
    running.server_close()


def usable(name: str, folder) -> list:
    benchmark = BENCHMARKS.get(name)()
    return read_items(benchmark, Folder(folder), benchmark.split, lambda message, **fields: None)


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_what_the_benchmark_says(name):
    benchmark, data = BENCHMARKS.get(name), find(name)
    assert name in data.measures and data.is_for("evaluation")
    assert data.licence == benchmark.licence
    assert benchmark.home == data.home or benchmark.home.startswith(f"{data.home}/tree/")
    assert data.name in catalogue_text("evaluation")


def test_no_benchmark_is_read_from_two_sets():
    measured = [name for data in DATASETS for name in data.measures]
    assert sorted(measured) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_fetched_by_its_name_is_what_eval_reads(name, server, tmp_path, capsys):
    out = tmp_path / "fetched"
    app(["data", "fetch", name, "--out", str(out), "--yes"])
    shown = capsys.readouterr()
    assert f"--tasks {' '.join(find(name).measures)} --data {out}" in shown.out
    assert find(name).licence in shown.err and COMMIT[:12] in shown.err
    assert (out / PROVENANCE).is_file()
    assert not any(file.read_bytes() == DECOY for file in out.rglob("*") if file.is_file())
    found = usable(name, out)
    assert found == usable(name, write(name, tmp_path / "plain")) and len(found) == USABLE[name][0]
    # the token is for GitHub's interface, not for its server of files
    for path, headers in server:
        assert ("Authorization" in headers) == path.startswith("/repos/"), path


def test_cmmlu_is_the_same_from_both_places(server, tmp_path):
    for source in ("hf", "github"):
        app(["data", "fetch", "cmmlu", "--from", source, "--out", str(tmp_path / source), "--yes"])
    assert [path for path, _ in server if path.startswith("/raw/")]
    assert usable("cmmlu", tmp_path / "hf") == usable("cmmlu", tmp_path / "github")


def test_a_record_or_a_part_of_a_download_is_no_file_of_a_benchmark(tmp_path):
    write("c3", tmp_path)
    before = usable("c3", tmp_path)
    for name in (".c3-d-dev.json", ".c3-m-dev.json"):
        (tmp_path / "c3" / name).write_text("{")
    folder = Folder(tmp_path)
    assert not any(name.rpartition("/")[2].startswith(".") for name in folder.find("*"))
    assert usable("c3", tmp_path) == before


@pytest.mark.parametrize("odd", [{}, [], {"tree": 1}, {"tree": [], "truncated": True}])
def test_a_listing_that_is_none_or_not_whole_is_refused(odd, monkeypatch):
    hub = GitHub("who/toy", "http://127.0.0.1:9")
    monkeypatch.setattr(hub.web, "json", lambda url, what: (odd, ""))
    with pytest.raises(HanlinError, match="who/toy"):
        list(hub.files(COMMIT))


def test_a_set_that_github_does_not_have_says_where_it_is():
    with pytest.raises(HanlinError, match="--from github"):
        app(["data", "fetch", "c3", "--from", "hf", "--yes"])
    with pytest.raises(HanlinError, match="--from hf"):
        app(["data", "fetch", "belebele", "--from", "github", "--yes"])
