"""Files of our own: uploaded by clients or added from disk, merged by the repository before what upstreams have.

source (how they are read), writing (how they come and go), records (the truth about them, beside their bytes). Nothing
here knows an ecosystem but by its `Format`, or a request; what clients send is read in each ecosystem's `upload.py`.
"""

from mirror.uploads.records import Records, record_uploads
from mirror.uploads.source import Uploads, source_name
from mirror.uploads.writing import AlreadyThere, Change, Rebuilt, Writer

__all__ = ["AlreadyThere", "Change", "Rebuilt", "Records", "Uploads", "Writer", "record_uploads", "source_name"]
