"""Processes that fetch small files by the thousand: each file is downloaded, verified, inspected and stored there.

One interpreter cannot fetch thousands of small files as quickly as a plain client that does nothing else: the requests
alone fill a core. So workers, one for each core, do everything for such a file except recording it, which stays with
the process that owns the catalog. A transfer is made for readers that follow a growing file, and costs a disk sync and
a commit of its own; here no reader waits yet, and a batch of files shares both.

A worker skips silently what it cannot fetch for any reason: the ordinary client of the mirror tries again and reports
the error. `client` (HTTP for small files), `messages` (the protocol), `worker` (the process), `pool` (starting and
employing the processes).
"""

from mirror.airgap.sync.workers.messages import BATCHES_AT_ONCE, Job, JobResult, WorkerConfig, WorkerUpstream
from mirror.airgap.sync.workers.pool import Worker, WorkerPool, working

__all__ = ["BATCHES_AT_ONCE", "Job", "JobResult", "Worker", "WorkerConfig", "WorkerPool", "WorkerUpstream", "working"]
