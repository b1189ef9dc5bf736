"""The embedded default: two tiny Llama checkpoints and a tiny Qwen2 that rates requests, really trained, with their
tasks. Real engines and answers that can be graded, for a machine without a network or a GPU."""
