"""A stage of one's own: next-token training on what the user says instead of the assistant, for a few
steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hanlin.common.messages import Text
from hanlin.dataset import TokenDataset, build_conversation_dataset
from hanlin.stages.stage import Stage, StageConfig, register_stage
from hanlin.stages.supervised import SupervisedConfig, finetune


@dataclasses.dataclass(frozen=True)
class MirrorConfig(SupervisedConfig, StageConfig):
    """Conversations with the two sides exchanged."""


@register_stage
class MirrorStage(Stage):
    """Learns to ask."""

    kind = "mirror"
    Config = MirrorConfig
    schema = "messages"
    title = Text.rendered(en="Mirror", zh="镜像")
    does = Text.rendered(en="The model learns to ask.", zh="学会提问。")

    def prepare(self) -> None:
        """Exchange the sides and encode."""
        other = {"user": "assistant", "assistant": "user", "system": "system"}

        def records():
            for record in self.config.data.train(self.inputs.scope):
                turns = [{"role": other[m["role"]], "content": m["content"]} for m in record["messages"]]
                yield {"messages": [{"role": "user", "content": "请提问。"}, *turns]}

        def build(path: Path, key: str) -> TokenDataset:
            return build_conversation_dataset(
                records(), self.tokenizer(), path, max_length=self.config.seq_len, key=key
            )

        self.encoded(self.data_key("mirror"), build)

    def train(self, job):
        """As SFT."""
        return finetune(self.inputs.parent, self.data, self.config, job)
