"""The executor: one base model, many requests with different adapters, one forward for all of them.

state (sequence) / memory (slots, kv_rows) / policy (scheduler) / device (runner) / loop (engine); around the loop a
thread (worker) and the gRPC servicer.
"""
