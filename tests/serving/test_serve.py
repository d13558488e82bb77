"""`serve` as a process: it says where it is, answers, and leaves without a trace when interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import openai
import pytest

from hanlin.model import save_weights
from tests.inference.tiny import tiny_model, tiny_tokenizer


def test_a_run_is_served_and_stops_cleanly(tmp_path):
    folder = tmp_path / "zh" / "model"
    folder.mkdir(parents=True)
    save_weights(tiny_model(3), folder)
    tiny_tokenizer().save(folder)
    program = f"from hanlin.serving import serve; serve({str(tmp_path / 'zh')!r}, port=0, api_key='k')"
    environment = {**os.environ, "HANLIN_LANG": "en", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stderr is not None
        address = re.search(r"API (http://127\.0\.0\.1:\d+/v1)", process.stderr.readline())
        assert address is not None
        with openai.OpenAI(base_url=address[1], api_key="k", max_retries=5, timeout=10) as client:
            assert client.models.list().data[0].id == "zh"
            assert client.chat.completions.create(
                model="zh", messages=[{"role": "user", "content": "你好"}], max_tokens=4
            ).choices
            for _ in range(2):
                client.completions.create(
                    model="zh",
                    prompt="你",
                    max_tokens=1,
                    extra_body={"guided_json": {"secret": 1}, "a\x1b[2Jb": 2},
                )
        with (
            openai.OpenAI(base_url=address[1], api_key="other", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=15)
        assert process.returncode == 0 and "Traceback" not in errors, errors
        assert errors.count("guided_json") == 1 and "secret" not in errors and "\x1b" not in errors
    finally:
        process.kill()
