"""Reading what may be hostile in processes of their own, which have limits of memory and time and may open nothing.

`processes.IsolatedProcesses` runs functions, named by their import path, on bytes; `worker` is the program on the other
side. Nothing is imported here, so that a new process is soon there.
"""
