"""What Ruby clients demand of an index: `examine` one.

index (find it, choose a gem), pages (the compact index), files (gems, and the legacy index), upload (pushing), whole
(all of these).
"""

from mirror.rubygems.doctor.whole import examine

__all__ = ["examine"]
