"""Two models on one GPU, asked through vLLM's engines: no HTTP, no router. benchmarks/gpu_tiering.py is its command.

models: the architectures, and what they take of memory; memory: who gets how much of the GPU; device: the GPU;
lengths: what is asked; engines: the only import of vLLM, AsyncLLM and AsyncEngineArgs alone; trials: one load;
stages: the plan, and the file that keeps what was measured; interruption: an end before its end; report: from that to
rows and targets. models, memory, lengths and report are pure.
"""
