"""Which part of a step's samples a process takes."""

from __future__ import annotations

import dataclasses

from hanlin.common.errors import HanlinError


@dataclasses.dataclass(frozen=True)
class DataShard:
    """Part `rank` of `world_size` of a step's samples, as even as can be, in order."""

    rank: int = 0
    world_size: int = 1

    def slice(self, count: int) -> range:
        """This process' indices among `count` samples.

        Raises:
            HanlinError: there are fewer samples than processes.
        """
        if count < self.world_size:
            raise HanlinError(
                "A step has {count} samples (rows, pairs or prompts), too few for {world_size} processes. "
                "Take a larger batch, or fewer processes.",
                count=count,
                world_size=self.world_size,
            )
        return range(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)


FULL = DataShard()
