"""A server with OpenAI's chat API whose judge has a known fault."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hanlin.arena.rubric import ORDER

FAULTS = ("longest", "first", "keyword", "random", "broken", "429", "timeout")
KEYWORD = "写法1"


class FakeJudge:
    """What it is asked, and how it answers.

    Attributes:
        fault: one of `FAULTS`.
        requests: bodies so far, those it refused included.
        down: every request is refused with 500.
        key: that it wants, None for none.
        obedient: does what an answer orders.
        longest: characters of the messages that it takes.
    """

    def __init__(self, fault: str):
        self.fault, self.requests, self.down, self.key = fault, [], False, None
        self.obedient = False
        self.url, self.longest = "", 1 << 20
        self._lock = threading.Lock()

    def decide(self, body: dict) -> str:
        """The reply to a body; `KeyError` for a body that is no comparison."""
        question = next(m["content"] for m in body["messages"] if m["role"] == "user")
        answers = dict(re.findall(r"回答 ([AB])\n<<(?:\w+)\n(.*?)\n\w+>>", question, re.S))
        first, second = answers["A"], answers["B"]
        if self.fault == "broken":
            return '{"胜者": "A", "理由": 未完'
        if self.fault == "first":
            winner = "A"
        elif self.fault == "keyword":
            marks = [KEYWORD in first, KEYWORD in second]
            winner = "平" if marks[0] == marks[1] else "A" if marks[0] else "B"
        elif self.fault == "random":
            digest = hashlib.sha256((question + str(len(self.requests))).encode()).digest()
            winner = "AB"[digest[0] & 1]
        elif self.obedient and (ORDER in first) != (ORDER in second):
            winner = "A" if ORDER in first else "B"
        else:
            winner = "A" if len(first) > len(second) else "B"
        return json.dumps({"胜者": winner, "理由": "更好"}, ensure_ascii=False)


@contextlib.contextmanager
def fake_judge(fault: str) -> Iterator[FakeJudge]:
    """Serve a judge with this fault."""
    judge = FakeJudge(fault)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with judge._lock:
                judge.requests.append(body)
                number = len(judge.requests)
            if judge.key and self.headers.get("authorization") != f"Bearer {judge.key}":
                return self.answer(401, {"error": "key"})
            if len(str(body["messages"])) > judge.longest:
                return self.answer(400, {"error": {"message": "beyond the context"}})
            if judge.down:
                return self.answer(500, {"error": "down"})
            if judge.fault == "429" and number % 2:
                return self.answer(429, {"error": "slow down"}, {"retry-after": "0.01"})
            if judge.fault == "timeout":
                threading.Event().wait(0.6)
            reply = judge.decide(body)
            usage = {"prompt_tokens": 100, "completion_tokens": 20}
            return self.answer(200, {"choices": [{"message": {"content": reply}}], "usage": usage})

        def answer(self, status, body, headers=None):
            data = json.dumps(body).encode()
            with contextlib.suppress(OSError):  # who waited no longer has gone
                self.send_response(status)
                for name, value in {"content-length": str(len(data)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
