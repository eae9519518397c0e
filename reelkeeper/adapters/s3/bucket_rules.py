"""Read what a bucket does by itself: rules that delete or move objects, which bypasses Reelkeeper, and versions.

R2 has no versions. On other servers, a delete in a bucket with versioning only hides an object: all its bytes stay.
"""

from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from reelkeeper.adapters.s3.transport import translate_errors
from reelkeeper.errors import ObjectMissing, StorageError
from reelkeeper.model.buckets import Expiry

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_HAS_NONE: Final = frozenset({"NotImplemented", "MethodNotAllowed"})  # a server without versions, such as R2


def read_expiries(client: "S3Client", bucket: str) -> list[Expiry]:
    """Read the bucket's lifecycle rules that delete or move objects. StorageError if the token may not."""
    try:
        with translate_errors("the lifecycle rules"):
            answer = client.get_bucket_lifecycle_configuration(Bucket=bucket)
    except ObjectMissing:  # 404 NoSuchLifecycleConfiguration
        return []
    found = []
    for rule in answer.get("Rules", []):
        narrowed = rule.get("Filter", {})
        prefix = narrowed.get("Prefix") or narrowed.get("And", {}).get("Prefix") or rule.get("Prefix") or ""
        name = rule.get("ID", "without a name")
        if rule["Status"] == "Enabled" and rule.get("Expiration"):
            found.append(Expiry(name, prefix, "deletes objects"))
        if rule["Status"] == "Enabled" and rule.get("Transitions"):
            found.append(Expiry(name, prefix, "moves objects to another storage class"))
    return found


def describe_versions(client: "S3Client", bucket: str, key: str) -> str:
    """Return why deleted bytes stay stored as versions, or that this is unknown; "" where none stay.

    Keys that may not read the bucket's settings can see it by the object at `key`: only versions have ids.
    """
    try:
        with translate_errors("the bucket's versioning"):
            status = client.get_bucket_versioning(Bucket=bucket).get("Status")
        return f"the bucket's versioning is {status.lower()}: deleted bytes stay stored as versions" if status else ""
    except StorageError as error:
        if _code(error) in _HAS_NONE:
            return ""
        why = str(error)
    try:
        with translate_errors(f"HEAD {key}"):
            has_versions = bool(client.head_object(Bucket=bucket, Key=key).get("VersionId"))
    except StorageError:
        has_versions = False
    if has_versions:
        return "the bucket's objects have versions: deleted bytes stay stored"
    return f"it is unknown whether deleted bytes stay stored as versions ({why})"


def _code(error: StorageError) -> str:
    found = error.__cause__
    return str(found.response["Error"].get("Code")) if isinstance(found, ClientError) else ""
