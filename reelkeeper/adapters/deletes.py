"""One DeleteObjects, read key by key: the answer to a batch is 200 even where some of its keys still stand."""

from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from reelkeeper.adapters.s3 import ATTEMPTS, cause, wait_before

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import DeleteTypeDef

BATCH_KEYS = 1000  # R2 takes no more in one DeleteObjects (error 10027)
PASSING_ERRORS = frozenset({"InternalError", "SlowDown", "ServiceUnavailable", "TooManyRequests"})


def delete_batch(client: "S3Client", bucket: str, keys: list[str]) -> dict[str, str]:
    """Delete at most BATCH_KEYS keys, those with passing errors again; return `key -> "Code: message"` of the failed.

    Checks nothing: `Bucket.delete` has.
    """
    failed: dict[str, str] = {}
    for attempt in range(1, ATTEMPTS + 1):
        request: DeleteTypeDef = {"Objects": [{"Key": key} for key in keys]}  # not Quiet: silence is no success
        try:
            answer = client.delete_objects(Bucket=bucket, Delete=request)
        except (ClientError, BotoCoreError) as error:
            return failed | dict.fromkeys(keys, cause(error))
        errors = {entry["Key"]: entry for entry in answer.get("Errors", [])}
        deleted = {entry["Key"] for entry in answer.get("Deleted", [])}
        again = []
        for key in keys:
            if key in errors:
                failed[key] = f"{errors[key].get('Code')}: {errors[key].get('Message')}"
                if errors[key].get("Code") in PASSING_ERRORS:
                    again.append(key)
            elif key in deleted:
                failed.pop(key, None)
            else:
                failed[key] = "NotReported: the bucket said neither that it deleted the key nor why not"
        if not again or attempt == ATTEMPTS:
            break
        keys = again
        wait_before(attempt + 1)
    return failed
