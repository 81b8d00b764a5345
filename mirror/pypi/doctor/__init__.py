"""What Python clients demand of an index: `examine` one.

index (find it, choose a project), pages (the simple pages), files (files and their metadata), upload (the legacy
upload API), whole (all of these).
"""

from mirror.pypi.doctor.whole import examine

__all__ = ["examine"]
