"""Every error that Reelkeeper raises on purpose. A message carries the values, the limit and the way out.

ReelkeeperError
├── Refused                     exit 9   nothing was changed, and on purpose
│   ├── GuardRefused                     the blast radius is too large, or patterns of keys do not fit the bucket
│   ├── PlanRefused                      the plan is stale, used, or made under another policy
│   ├── PolicyRefused                    the policy contradicts itself or has no rule switched on
│   ├── TierRefused                      a tier that there is not, or that is to go while users have it
│   ├── UserErased                       a user who is being erased, and gets nothing new
│   ├── InputRefused                     a file to import has bad lines
│   ├── VideoHeld                        a video that is to be deleted is held, or its bytes are missing
│   ├── KeyRefused                       a key outside the prefix, or one that is not well formed
│   ├── KeyReused                        an idempotency key came again with other parameters
│   ├── AmountRefused                    an amount that is none, or more than is held or was captured
│   ├── InsufficientCredits              the user has fewer credits than that
│   ├── HoldClosed                       held credits, or reserved bytes, that were settled or given back already
│   ├── QuotaExceeded                    the user's quota has no room for so many bytes, or is unknown
│   ├── ModelRefused                     a model that is not sold, or cannot make what was asked for
│   ├── AddressRefused                   an address that is not public, or not https
│   ├── SignatureRefused                 a call that is not signed as it should be, or too old
│   └── IdentityMismatch                 this store does not belong to this bucket
├── Frozen                      exit 3   somebody, or a failed check, stopped all changes
├── LeaseLost                   exit 4   another run has taken over
├── IntegrityDoubt              exit 5   what is stored is not what the catalogue says
├── PartialFailure              exit 6   some items failed; the rest is done
├── Misconfigured               exit 2   a setting is missing or wrong
│   └── TokenRefused                     a token is expired, mistyped or lacks a permission
├── DiskFull                    exit 1   a disk has no room for the work: which one, and how much is free
├── Unavailable                 exit 1   PostgreSQL, SQLite's file or Prefect's server does not answer: host and port
├── SchemaError                 exit 7   the store's schema is not the one this version knows
├── NotFound                    exit 8   no such user, video, run or plan
├── StorageError                exit 1   R2 did not do what was asked
│   ├── ObjectMissing
│   ├── ObjectChanged
│   ├── ObjectLocked
│   ├── KeyTaken
│   └── TruncatedListing
├── UsageUnknown                exit 1   nobody has said what was used, or Cloudflare not all of it
├── SinkError                   exit 1   a message could not be handed over
│   ├── SinkBusy                         the sink says for how long to wait
│   ├── SinkDown                         no answer, or an error that may pass
│   └── SinkRefused                      the sink will not take this message, however often it is tried
├── GenerationError             exit 1   a generator made no video
│   ├── GenerationRefused                it never will, however often it is asked
│   │   └── ContentRefused               for what the video would show: its message is for the user
│   ├── GenerationFailed                 not this time; it is known that nothing more will come of it
│   ├── ProviderBusy                     the provider did not take it, says for how long to wait, and it is no attempt
│   │   ├── ProviderDown                 as it was not reached
│   │   └── AccountLocked                nor any other of this account: a key, a balance or a lock, for a person to mend
│   ├── GenerationLost                   it was made, and its video is gone: it is not made and paid once more
│   ├── GenerationUnknown                nobody knows what its provider makes of it: to be looked up, never sent again
│   └── GenerationCancelled              its user does not want it any more
├── OrchestratorError           exit 1   Prefect did not do what was asked
├── Silence                     exit 10  a flow has not succeeded in time, or messages do not get out
└── MediaError                  exit 1   a media file or tool failed
    ├── NotAVideo                        hostile, broken or not a video: permanent
    ├── MediaTimeout
    └── ToolMissing
"""

from collections.abc import Mapping
from typing import ClassVar


class ReelkeeperError(Exception):
    """The root of the tree."""

    exit_code: ClassVar[int] = 1


class Refused(ReelkeeperError):
    """Nothing was changed, and on purpose. `operator_remedy`: beside a message that users read, the operator's part."""

    exit_code = 9
    operator_remedy: ClassVar[str] = ""


class GuardRefused(Refused):
    """The blast radius is too large, or patterns of keys do not fit the bucket.

    `widening` holds the limits that would allow it, by name; empty where none would.
    """

    def __init__(self, message: str, widening: Mapping[str, float] | None = None) -> None:
        super().__init__(message)
        self.widening = dict(widening or {})


class PlanRefused(Refused):
    """The plan is stale, used, or was made under another policy."""


class PolicyRefused(Refused):
    """The policy contradicts itself or has no rule switched on."""


class TierRefused(Refused):
    """A tier that there is not, or that is to go while users have it."""

    operator_remedy = "Which tiers there are is `tiers` of the policies: reelkeeper policy show"


class VideoHeld(Refused):
    """A video that is to be deleted is held, or its bytes are missing: it stays for now."""


class KeepRefused(Refused):
    """A video whose life is not prolonged on request: not offered, used up, or it is not live."""


class UserErased(Refused):
    """A user who is being erased, or was: nothing new is made, stored or granted for them."""


class InputRefused(Refused):
    """A file to import has bad lines."""


class KeyRefused(Refused):
    """A key outside the prefix, or one that is not well formed."""


class KeyReused(Refused):
    """An idempotency key came again with other parameters."""


class AmountRefused(Refused):
    """An amount that is none, or more than is held or was captured."""


class InsufficientCredits(Refused):
    """The user has fewer credits than that."""

    operator_remedy = "To add credits: reelkeeper credits grant USER DOLLARS --reason WHY"


class HoldClosed(Refused):
    """Held credits, or reserved bytes, that were settled or given back already."""


class QuotaExceeded(Refused):
    """The user's quota has no room for so many bytes, or is unknown."""

    operator_remedy = (
        "To allow more: reelkeeper quota set USER SIZE; to set a tier: reelkeeper videos import --users FILE"
    )


class ModelRefused(Refused):
    """A model that is not sold here, or cannot make what was asked for."""

    operator_remedy = "What each model makes and costs is `book.models` of the policies: reelkeeper policy show"


class AddressRefused(Refused):
    """An address that is not public, or not https."""


class SignatureRefused(Refused):
    """A call that is not signed as it should be, or too old."""


class NotPlayable(Refused):
    """No bytes of the video are in a codec that the client plays."""


class IdentityMismatch(Refused):
    """The store does not belong to this bucket."""


class Frozen(ReelkeeperError):
    """Somebody, or a failed check, stopped all changes."""

    exit_code = 3


class LeaseLost(ReelkeeperError):
    """Another run has taken over this lease."""

    exit_code = 4


class IntegrityDoubt(ReelkeeperError):
    """What is stored is not what the catalogue says."""

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
    """A disk has no room for the work. It says nothing about a video: no outcome of one is recorded."""


class Unavailable(ReelkeeperError):
    """PostgreSQL, SQLite's file or Prefect's server does not answer."""


class SchemaError(ReelkeeperError):
    """The store's schema is not the one that this version knows."""

    exit_code = 7


class NotFound(ReelkeeperError):
    """No such user, video, run or plan."""

    exit_code = 8


class StorageError(ReelkeeperError):
    """R2 did not do what was asked."""


class ObjectMissing(StorageError):
    """No object at this key."""


class ObjectChanged(StorageError):
    """The object is not the one that was asked for."""


class ObjectLocked(StorageError):
    """A bucket lock keeps the object as it is."""


class KeyTaken(StorageError):
    """An object already stands at a key that is written once."""


class TruncatedListing(StorageError):
    """A page of a listing said that more follows and did not say where."""


class UsageUnknown(ReelkeeperError):
    """Nobody has said what was used, or Cloudflare not all of it."""


class SinkError(ReelkeeperError):
    """A message could not be handed over."""


class SinkBusy(SinkError):
    """The sink asks to wait for `seconds`."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class SinkDown(SinkError):
    """The sink gave no answer, or an error that may pass."""


class SinkRefused(SinkError):
    """The sink will not take this message, however often it is tried."""


class GenerationError(ReelkeeperError):
    """A generator made no video."""


class GenerationRefused(GenerationError):
    """It never will, however often it is asked."""


class ContentRefused(GenerationRefused):
    """It never will, for what the video would show. The message is for the user to read."""


class GenerationFailed(GenerationError):
    """Not this time; it is known that nothing more will come of this attempt."""


class ProviderBusy(GenerationError):
    """The provider certainly did not take it, and is to be asked again after `seconds`."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class ProviderDown(ProviderBusy):
    """The provider was not reached, so that it has certainly not taken it."""


class AccountLocked(ProviderBusy):
    """The provider takes nothing of this account until a person mends it: a wrong key, no balance, a lock."""


class GenerationLost(GenerationError):
    """It was made, and paid, and its video cannot be had any more: to make it again would be paid again."""


class GenerationUnknown(GenerationError):
    """Nobody knows what the provider makes of it: it is looked up later, and never sent again."""


class GenerationCancelled(GenerationError):
    """Its user does not want it any more."""


class OrchestratorError(ReelkeeperError):
    """Prefect did not do what was asked."""


class Silence(ReelkeeperError):
    """A flow has not succeeded in time, or messages do not get out."""

    exit_code = 10


class MediaError(ReelkeeperError):
    """A media file or a media tool failed."""


class NotAVideo(MediaError):
    """The file is hostile, broken or not a video; trying again cannot help."""


class MediaTimeout(MediaError):
    """The tool took longer than its limit and was ended."""


class ToolMissing(MediaError):
    """ffmpeg, ffprobe or an encoder is not there."""
