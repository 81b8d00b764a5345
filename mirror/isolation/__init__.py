"""Reading what may be hostile in processes of their own, which have limits of memory and time and may open nothing.

`IsolatedProcesses` runs functions, named by their import path, on bytes; `worker` is the program on the other side.
"""

from mirror.isolation.processes import IsolatedProcesses, IsolationError

__all__ = ["IsolatedProcesses", "IsolationError"]
