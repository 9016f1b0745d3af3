"""The executor: one base model, many requests with different adapters, one forward for all of them.

state (sequence) / memory (slots, block_pool, kv_blocks) / policy (scheduler) / device (runner) / loop (engine); around
the loop a thread (worker) and the gRPC servicer.
"""
