"""All errors that Reelkeeper raises on purpose. A message states what happened, the values, the limit and the way out.

ReelkeeperError
├── Refused                     exit 9   refused on purpose; nothing was changed
│   ├── GuardRefused                     the blast radius is too large, or key patterns do not fit the bucket
│   ├── PlanRefused                      the plan is stale, used, or was made under another policy
│   ├── PolicyRefused                    the policy contradicts itself or has no rule switched on
│   ├── TierRefused                      the tier does not exist, or cannot be removed while users have it
│   ├── KeepRefused                      the video's life cannot be extended: not offered, used up, or not live
│   ├── UserErased                       the user was or is being erased: nothing new is accepted for them
│   ├── InputRefused                     an input file has invalid lines
│   ├── VideoHeld                        the video cannot be deleted: it is held, or its bytes are missing
│   ├── KeyRefused                       the key is outside the prefix, or not well formed
│   ├── KeyReused                        an idempotency key was used again with other parameters
│   ├── AmountRefused                    the amount is invalid, or more than is held or was captured
│   ├── InsufficientCredits              the user does not have enough credits
│   ├── HoldClosed                       the held credits or reserved bytes were already settled or released
│   ├── QuotaExceeded                    the user's quota is too small for these bytes, or unknown
│   ├── ModelRefused                     the model is not offered, or cannot make this video
│   ├── AddressRefused                   the address is not public, or not https
│   ├── SignatureRefused                 the signature of a call is missing, wrong or too old
│   ├── NotPlayable                      no stored version of the video has a codec that the client plays
│   ├── IdentityMismatch                 the store does not belong to this bucket, or this Prefect server
│   └── StoreBehind                      the store is a copy or restored, and does not know what was done since
├── Frozen                      exit 3   a person or a failed check has stopped all changes
├── LeaseLost                   exit 4   another run has taken over
│   ├── LeaseUnrenewed                   the store did not answer for so long that another run may have taken over
│   └── Stopped                          this process was told to end, and starts nothing new
├── IntegrityDoubt              exit 5   the stored object differs from the catalogue's record
├── PartialFailure              exit 6   some items failed; the rest is done
├── Misconfigured               exit 2   a setting is missing or wrong
│   └── TokenRefused                     a token is expired, mistyped or lacks a permission
├── DiskFull                    exit 1   a disk has too little free space: names the disk and its free space
│   └── NoRoom                           the scratch disk has room for other videos, but not for this one
├── Unavailable                 exit 1   PostgreSQL, SQLite's file or Prefect's server does not answer: host and port
├── SchemaError                 exit 7   the store's schema does not match this version of Reelkeeper
├── NotFound                    exit 8   no such user, video, run or plan
├── StorageError                exit 1   an operation on R2 failed
│   ├── ObjectMissing                    no object has this key
│   ├── ObjectChanged                    the stored object is not the expected one
│   ├── ObjectLocked                     a bucket lock protects the object
│   ├── KeyTaken                         a key that is written only once already has an object
│   └── TruncatedListing                 a listing is incomplete, and cannot be continued
├── UsageUnknown                exit 1   usage was not reported, or Cloudflare reported only part of it
├── SinkError                   exit 1   a message could not be delivered: SinkBusy, SinkDown or SinkRefused
├── GenerationError             exit 1   a generator did not make the video
│   ├── GenerationRefused                for good: another attempt cannot succeed
│   │   └── ContentRefused               because of its content; the message is for the user
│   ├── GenerationFailed                 the attempt failed, and will certainly make no video
│   ├── ProviderBusy                     the provider did not take the job: wait; this does not count as an attempt
│   │   ├── ProviderDown                 because it could not be reached
│   │   ├── ProviderFull                 because it has enough, or gets them too fast: this holds for all jobs
│   │   └── AccountLocked                because of the account (key, balance or lock), until a person resolves it
│   ├── GenerationLost                   made and paid for, but the video is gone; another attempt would cost again
│   ├── GenerationUnknown                the provider's result is unknown: it is looked up later, and never sent again
│   └── GenerationCancelled              cancelled by its user
├── OrchestratorError           exit 1   a call to Prefect failed
├── Silence                     exit 10  a flow has not succeeded in time, or messages are not delivered
└── MediaError                  exit 1   a media file or tool failed
    ├── NotAVideo                        hostile, broken or not a video: permanent
    ├── MediaTimeout                     a tool exceeded its time limit
    └── ToolMissing                      ffmpeg, ffprobe or an encoder is not installed
"""

from collections.abc import Mapping
from typing import ClassVar, Self


class ReelkeeperError(Exception):
    """The root of the tree."""

    exit_code: ClassVar[int] = 1


class Refused(ReelkeeperError):
    """Refused on purpose; nothing was changed."""

    exit_code = 9
    operator_remedy: ClassVar[str] = ""  # what the operator can do, shown beside a message that users read


class GuardRefused(Refused):
    """The blast radius is too large, or key patterns do not fit the bucket."""

    def __init__(self, message: str, widening: Mapping[str, float] | None = None) -> None:
        super().__init__(message)
        self.widening = dict(widening or {})  # the limits that would allow it, by name; empty if none would


class PlanRefused(Refused):
    """The plan is stale, used, or was made under another policy."""


class PolicyRefused(Refused):
    """The policy contradicts itself or has no rule switched on."""


class TierRefused(Refused):
    """The tier does not exist, or cannot be removed while users have it."""

    operator_remedy = "To list the tiers (`tiers` in the policies): reelkeeper policy show"


class VideoHeld(Refused):
    """The video cannot be deleted for now: it is held, or its bytes are missing."""


class KeepRefused(Refused):
    """The video's life cannot be extended: the tier does not offer it, it is used up, or the video is not live."""


class UserErased(Refused):
    """The user was or is being erased: nothing new is made, stored or granted for them."""


class InputRefused(Refused):
    """An input file has invalid lines."""


class KeyRefused(Refused):
    """The key is outside the prefix, or not well formed."""


class KeyReused(Refused):
    """An idempotency key was used again with other parameters."""


class AmountRefused(Refused):
    """The amount is invalid, or more than is held or was captured."""


class InsufficientCredits(Refused):
    """The user does not have enough credits."""

    operator_remedy = "To add credits: reelkeeper credits grant USER DOLLARS --reason WHY"


class HoldClosed(Refused):
    """The held credits or reserved bytes were already settled or released."""


class QuotaExceeded(Refused):
    """The user's quota is too small for these bytes, or unknown."""

    operator_remedy = (
        "To allow more: reelkeeper quota set USER SIZE; to set a tier: reelkeeper videos import --users FILE"
    )


class ModelRefused(Refused):
    """The model is not offered here, or cannot make this video."""

    operator_remedy = (
        "To see what each model can make and costs (`book.models` in the policies): reelkeeper policy show"
    )


class AddressRefused(Refused):
    """The address is not public, or not https."""


class SignatureRefused(Refused):
    """The signature of a call is missing, wrong or too old."""


class NotPlayable(Refused):
    """No stored version of the video has a codec that the client plays."""


class IdentityMismatch(Refused):
    """The store does not belong to this bucket, or to this Prefect server."""


class StoreBehind(Refused):
    """The store is a copy, or was restored: nothing is deleted by it until a person has looked."""

    operator_remedy = "To see what it does not know, and go on with it: reelkeeper db adopt"


class OnTrial(Refused):
    """The store only reads this bucket, until `reelkeeper up --live` confirms it."""

    operator_remedy = "To go live, stop `reelkeeper up` and start it once with: reelkeeper up --live"

    def __init__(self, live_at: str | None = None) -> None:
        why = f"this store went live at {live_at}, and the settings name another address" if live_at else "a trial"
        super().__init__(f"{why}: the bucket is only read, and nothing was changed")


class Frozen(ReelkeeperError):
    """A person or a failed check has stopped all changes."""

    exit_code = 3


class LeaseLost(ReelkeeperError):
    """Another run has taken over this lease."""

    exit_code = 4


class LeaseUnrenewed(LeaseLost):
    """The store did not answer for so long that another run may have taken over this lease."""


class Stopped(LeaseLost):
    """The process was told to end, and starts nothing new."""


class IntegrityDoubt(ReelkeeperError):
    """The stored object differs from the catalogue's record."""

    exit_code = 5


class PartialFailure(ReelkeeperError):
    """Some items failed; the rest is done."""

    exit_code = 6


class Misconfigured(ReelkeeperError):
    """A setting is missing or wrong."""

    exit_code = 2


class TokenRefused(Misconfigured):
    """A token is expired, mistyped or lacks a permission."""


class DiskFull(ReelkeeperError):
    """A disk has too little free space. This says nothing about a video: no outcome of one is recorded."""


class NoRoom(DiskFull):
    """The scratch disk has room for work, but not for work on this video."""


class Unavailable(ReelkeeperError):
    """PostgreSQL, SQLite's file or Prefect's server does not answer."""


class SchemaError(ReelkeeperError):
    """The store's schema does not match this version of Reelkeeper."""

    exit_code = 7


class NotFound(ReelkeeperError):
    """No such user, video, run or plan."""

    exit_code = 8

    @classmethod
    def for_user(cls, kind: str, subject: str, user_id: str | None) -> Self:
        """Make the error for a "job" or "video" that is unknown or, if a user is given, not theirs."""
        return cls(f"no {kind} {subject!r}" + (f" of user {user_id!r}" if user_id is not None else ""))


class StorageError(ReelkeeperError):
    """An operation on R2 failed."""


class ObjectMissing(StorageError):
    """No object has this key."""


class ObjectChanged(StorageError):
    """The stored object is not the expected one."""


class ObjectLocked(StorageError):
    """A bucket lock protects the object."""


class KeyTaken(StorageError):
    """A key that is written only once already has an object."""


class TruncatedListing(StorageError):
    """A page of a listing said that more follows, but not where to continue."""


class UsageUnknown(ReelkeeperError):
    """Usage was not reported, or Cloudflare reported only part of it."""


class SinkError(ReelkeeperError):
    """A message could not be delivered."""


class SinkBusy(SinkError):
    """The sink asks to wait for `seconds`."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class SinkDown(SinkError):
    """The sink gave no answer, or an error that may be temporary."""


class SinkRefused(SinkError):
    """The sink rejects this message for good."""


class GenerationError(ReelkeeperError):
    """A generator did not make the video."""


class GenerationRefused(GenerationError):
    """The generator rejects this request for good: another attempt cannot succeed."""


class ContentRefused(GenerationRefused):
    """The generator rejects the content of the video. The message is for the user."""


class GenerationFailed(GenerationError):
    """The attempt failed, and will certainly make no video."""


class GenerationInterrupted(GenerationFailed):
    """The attempt was cancelled at the provider: by a person, or by us at the job's deadline or for its user."""


class ProviderBusy(GenerationError):
    """The provider certainly did not take the job; ask again after `seconds`."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class ProviderDown(ProviderBusy):
    """The provider could not be reached, so it certainly did not take the job."""


class ProviderFull(ProviderBusy):
    """The provider takes no job for `seconds`. `is_rate`: they come too fast; False: it has too many; None: unsaid."""

    def __init__(self, message: str, seconds: float, *, is_rate: bool | None = None) -> None:
        super().__init__(message, seconds)
        self.is_rate = is_rate


class AccountLocked(ProviderBusy):
    """The provider takes no jobs of this account until a person resolves it: a wrong key, no balance, a lock."""


class GenerationLost(GenerationError):
    """The video was made and paid for, but can no longer be fetched; another attempt would cost again."""


class GenerationUnknown(GenerationError):
    """The provider's result is unknown: it is looked up later, and never sent again."""


class GenerationAbsent(GenerationUnknown):
    """The provider's list of our jobs does not have it; the request may still be under way."""


class GenerationStopped(GenerationUnknown):
    """The provider still had the job at its deadline, and was told to cancel it."""


class ResultUnreadable(GenerationUnknown):
    """The video was made, but what was received is not a video: it is fetched again, and never bought again."""


class GenerationCancelled(GenerationError):
    """The job was cancelled by its user."""


class OrchestratorError(ReelkeeperError):
    """A call to Prefect failed."""


class Silence(ReelkeeperError):
    """A flow has not succeeded in time, or messages are not delivered."""

    exit_code = 10


class MediaError(ReelkeeperError):
    """A media file or a media tool failed."""


class NotAVideo(MediaError):
    """The file is hostile, broken or not a video; trying again cannot help."""


class MediaTimeout(MediaError):
    """A tool exceeded its time limit and was ended."""


class ToolMissing(MediaError):
    """ffmpeg, ffprobe or an encoder is not installed."""
