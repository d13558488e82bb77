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
                "A step has {count} samples (rows, pairs or prompts), too few for {size} processes. Take a "
                "larger batch, or fewer processes.",
                count=count,
                size=self.size,
            )
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)


WHOLE = Share()
