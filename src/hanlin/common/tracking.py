"""Figures of a run: always `metrics.jsonl`, and any tracker that knows the verbs init, log and finish."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import IO, Any

import orjson

from hanlin.common.atomic import atomic_write
from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing

TRACKERS = ("trackio", "swanlab", "wandb", "tensorboard")


class _TensorBoard:
    """TensorBoard's writer under the same three verbs."""

    def init(self, project: str, name: str, config: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(f"{project}/{name}")

    def log(self, values: dict[str, float], step: int) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def finish(self) -> None:
        self.writer.close()


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse a tracker that is unknown or not installed, before a run begins.

    Raises:
        HanlinError: naming it.
    """
    for name in names:
        if name not in TRACKERS:
            raise HanlinError(
                "Unknown tracker {name!r}. Known: {trackers}.", name=name, trackers=listing(TRACKERS)
            )
        if importlib.util.find_spec(name) is None:
            raise HanlinError("{name} is not installed. Run pip install {name}, or leave it out.", name=name)


class MetricsLog:
    """Appends one JSON object per step; a tracker that fails is dropped with one warning and never stops a
    run.

    Args:
        path: the `metrics.jsonl`; `None` keeps nothing.
        trackers: names among `TRACKERS`.

    Raises:
        HanlinError: a tracker is unknown or not installed.
    """

    def __init__(
        self,
        path: Path | None,
        trackers: tuple[str, ...] = (),
        *,
        name: str = "",
        config: dict[str, Any] | None = None,
    ):
        self._path = path
        self._file: IO[bytes] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab")  # noqa: SIM115 - closed by close()
        self._trackers = []
        check_trackers(trackers)
        for tracker in trackers:
            try:
                module = _TensorBoard() if tracker == "tensorboard" else importlib.import_module(tracker)
                module.init(project="hanlin", name=name, config=config or {})
            except ImportError:
                raise HanlinError(
                    "{tracker} is not installed. Run pip install {tracker}, or leave it out.", tracker=tracker
                ) from None
            self._trackers.append((tracker, module))

    def log(self, values: dict[str, float], step: int) -> None:
        """Record the figures of a step."""
        if self._file is not None:
            rounded = {key: float(f"{value:.6g}") for key, value in values.items()}
            self._file.write(orjson.dumps({"step": step} | rounded) + b"\n")
        for entry in list(self._trackers):
            try:
                entry[1].log(values, step=step)
            except Exception as error:  # noqa: BLE001 - whatever a tracker throws, training goes on
                warnings.warn(f"{entry[0]}: {error}; tracking by it stops", stacklevel=2)
                self._trackers.remove(entry)

    def rewind(self, step: int) -> None:
        """Forget lines after `step`: a resumed run writes them again. The file is a new one: what an older
        process may still have open is not it."""
        if self._path is None or self._file is None:
            return
        self._file.close()
        kept = []
        for line in self._path.read_bytes().splitlines():
            try:
                if orjson.loads(line)["step"] <= step:
                    kept.append(line + b"\n")
            except (orjson.JSONDecodeError, KeyError):
                continue  # the line a kill cut short
        atomic_write(self._path, b"".join(kept))
        self._file = open(self._path, "ab")  # noqa: SIM115

    def flush(self) -> None:
        """Hand the lines to the operating system."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """End the file and the trackers."""
        if self._file is not None:
            self._file.close()
        for _, module in self._trackers:
            module.finish()
