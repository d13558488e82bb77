"""Which part of a step's samples a process takes."""

from __future__ import annotations

import dataclasses

from hanlin.common.errors import HanlinError


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of a step's samples a member takes: part `rank` of `size`, as even as can be, in order."""

    rank: int = 0
    size: int = 1

    def of(self, count: int) -> range:
        """The member's places among `count`.

        Raises:
            HanlinError: there are fewer samples than members.
        """
        if count < self.size:
            raise HanlinError(
                f"一步只有 {count} 个样本（行、偏好对或提示），分不给 {self.size} 个进程。请加大每步的批量，或减少进程。",
                f"A step has {count} samples (rows, pairs or prompts), too few for {self.size} processes. Take a larger batch, or fewer processes.",
            )
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)


WHOLE = Share()
