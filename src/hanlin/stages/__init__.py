"""The stages of a model's life, each a batch source and an objective on the one loop: pretrain, sft, distill,
preference, reward, grpo."""
