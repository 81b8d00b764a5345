"""How fast the mirror is, with nginx beside it: `python -m tests.benchmarks [--quick] [--markdown] [NAME …]`.

With `--beside DIR` another checkout stands in for nginx (`beside.py`).

Everything runs on loopback, on free ports and in a temporary directory, in bounded time, and ends with the script. One
mirror process stands against one nginx worker (Debian's) that serves the very bytes which the mirror answers, as
static files. The two are asked in turn, A B A B …, and what counts is the median of the ratios of neighbours, because
the speed of a machine drifts.

What makes it harder for the mirror, on purpose: it writes its access log, nginx writes none. Load comes from wrk where
it is installed, otherwise from a small client of our own, which is slower than both servers and flatters
whichever is slower; the head of the report says which it was.

pytest does not collect this package: how fast a machine is decides no test.
"""
