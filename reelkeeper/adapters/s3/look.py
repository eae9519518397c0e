"""Read what a listing of videos leaves out: our own objects, unfinished uploads, and the folders of the bucket."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from reelkeeper.adapters.s3.listing import read_page, read_pages
from reelkeeper.adapters.s3.transport import translate_errors
from reelkeeper.errors import ObjectMissing
from reelkeeper.model import StoredObject
from reelkeeper.model.scan import Folders, Part

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MAX_SIZED: Final = 200  # unfinished uploads whose parts are summed: a request for each, which R2 bills like a listing
_MAX_PAGES: Final = 5  # of names, 1,000 each
_MAX_COUNTED: Final = 20  # folders


class Look(NamedTuple):
    """A reader of a bucket that sends only listings."""

    client: "S3Client"
    bucket: str
    prefix: str

    def pages(self) -> Iterator[list[StoredObject]]:
        """List all objects under the prefix, our own files too. TruncatedListing, StorageError as `read_pages`."""
        return read_pages(self.client, self.bucket, self.prefix)

    def unfinished(self) -> Part:
        """Count the multipart uploads under the prefix that were not ended, and the bytes of their parts.

        Beyond the first 200, bytes are estimated by the mean of those. Raises StorageError if the server does not say.
        """
        uploads = sized = size_bytes = 0
        for key, upload_id in self.uploads(self.prefix):
            if sized < _MAX_SIZED:
                try:
                    size_bytes += self.parts_bytes(key, upload_id)
                except ObjectMissing:  # ended meanwhile
                    continue
                sized += 1
            uploads += 1
        return Part("unfinished uploads", uploads, size_bytes * uploads // max(1, sized))

    def uploads(self, under: str) -> Iterator[tuple[str, str]]:
        """List key and id of the multipart uploads under a prefix that were not ended; StorageError as `unfinished`."""
        with translate_errors("LIST unfinished uploads"):
            for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=under):
                for upload in page.get("Uploads", ()):
                    if upload["Key"].startswith(under):
                        yield upload["Key"], upload["UploadId"]

    def parts_bytes(self, key: str, upload_id: str) -> int:
        """Sum the bytes of an upload's parts. Raises ObjectMissing if it has ended, StorageError as `unfinished`."""
        with translate_errors(f"READ parts of {key}"):
            pages = self.client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=key, UploadId=upload_id)
            return sum(part["Size"] for page in pages for part in page.get("Parts", ()))

    def folders(self) -> Folders:
        """Describe the folders of the whole bucket, 20 by a page of each: of its 1,000 objects there may be more.

        Our own files are left out. At most 25 requests; it takes version 1 of the listing, since `read_pages_fast`
        leaves out folders.
        """
        names, outside, is_complete = list[str](), Part(""), True
        with translate_errors("LIST folders"):
            pages = self.client.get_paginator("list_objects").paginate(Bucket=self.bucket, Delimiter="/")
            for page in islice(pages, _MAX_PAGES):
                names += [found["Prefix"] for found in page.get("CommonPrefixes", ())]
                for stored in page.get("Contents", ()):
                    if not stored["Key"].startswith("."):
                        outside = outside.plus(Part("", 1, stored["Size"]))
                is_complete = not page["IsTruncated"]
        names = [name for name in names if not name.startswith(".")]
        counted = []
        for name in names[:_MAX_COUNTED]:
            objects, _token = read_page(self.client, self.bucket, name)
            counted.append(Part(name, len(objects), sum(stored.size_bytes for stored in objects)))
        counted.sort(key=lambda part: (-part.objects, -part.size_bytes))
        return Folders(counted, names[_MAX_COUNTED:], outside, is_complete)
