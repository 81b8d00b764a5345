"""Small files by the thousand, brought in whole by processes of their own: fetched, verified, looked into and stored.

One interpreter cannot do for thousands of small files what a plain client does that only fetches them: the requests
alone fill a core. So workers, one for each core, do everything about such a file but write it down, which stays with
the process that owns the catalog. A transfer is made for readers who follow a growing file, and costs a disk sync and
a commit of its own; here nobody reads yet, and a batch of files shares both.

What a worker cannot bring for any reason it leaves undone, without a word: the usual way tries again and says why.
The surprise: what a worker works with are live objects (upstreams, formats, the store), which reach it as a pickle,
through a socket of our own; nothing that comes from outside is ever read that way.
"""

from mirror.airgap.sync.workers.messages import HANDS, Job, JobResult, WorkerConfig
from mirror.airgap.sync.workers.pool import Worker, WorkerPool, working

__all__ = ["HANDS", "Job", "JobResult", "Worker", "WorkerConfig", "WorkerPool", "working"]
