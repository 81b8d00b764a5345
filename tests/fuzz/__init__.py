"""Fuzzers: inputs that no client or upstream should send, against everything that reads bytes from outside.

`python -m tests.fuzz NAME N SEED` runs one of them with any number of inputs; pytest runs 500 of each. A fuzzer starts
from genuine inputs and from the corpus, which keeps what once found a fault, and mutates them. What may happen to an
input is decided by the fuzzer's check: an error of the mirror's own, or an answer that is right; nothing else, and
nothing that takes long.
"""
