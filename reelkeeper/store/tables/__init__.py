"""The tables. Nothing outside `store/` holds a row.

Naming: a `*_at` is an aware UTC datetime, a `*_bytes` counts bytes, a `*_microusd` millionths of a dollar.
States are text with a CHECK, so that a person with a SQL shell can read them.

Statements are set-based and use the `Table` objects below; the classes in the files beside this one define what a
migration must make.
"""

from sqlmodel import SQLModel

from reelkeeper.store.tables import alerts as _alerts
from reelkeeper.store.tables import catalogue as _catalogue
from reelkeeper.store.tables import money as _money
from reelkeeper.store.tables import queue as _queue
from reelkeeper.store.tables import work as _work

DECLARED = (_catalogue, _work, _money, _alerts, _queue)
_TABLES = SQLModel.metadata.tables

users = _TABLES["users"]
former_ids = _TABLES["former_ids"]
videos = _TABLES["videos"]
blobs = _TABLES["blobs"]
doubts = _TABLES["doubts"]
blocked_bytes = _TABLES["blocked_bytes"]
daily_views = _TABLES["daily_views"]
view_days = _TABLES["view_days"]
orphans = _TABLES["orphans"]
key_owners = _TABLES["key_owners"]
scans = _TABLES["scans"]

deployment = _TABLES["deployment"]
policy_versions = _TABLES["policy_versions"]
operations = _TABLES["operations"]
plans = _TABLES["plans"]
verdicts = _TABLES["verdicts"]
crf_searches = _TABLES["crf_searches"]
leases = _TABLES["leases"]
holds = _TABLES["holds"]
epochs = _TABLES["epochs"]
audit_events = _TABLES["audit_events"]

accounts = _TABLES["accounts"]
transfers = _TABLES["transfers"]
entries = _TABLES["entries"]
credit_holds = _TABLES["credit_holds"]
storage_accounts = _TABLES["storage_accounts"]
reservations = _TABLES["reservations"]
usage_days = _TABLES["usage_days"]
charges = _TABLES["charges"]
charge_months = _TABLES["charge_months"]
charge_days = _TABLES["charge_days"]
spend_days = _TABLES["spend_days"]
job_totals = _TABLES["job_totals"]
forecasts = _TABLES["forecasts"]

alerts = _TABLES["alerts"]
snoozes = _TABLES["snoozes"]
outbox = _TABLES["outbox"]
webhook_endpoints = _TABLES["webhook_endpoints"]
heartbeats = _TABLES["heartbeats"]

notices = _TABLES["notices"]
notice_deliveries = _TABLES["notice_deliveries"]
keeps = _TABLES["keeps"]

jobs = _TABLES["jobs"]
input_images = _TABLES["input_images"]
vendor_jobs = _TABLES["vendor_jobs"]
vendor_erasures = _TABLES["vendor_erasures"]
cache_entries = _TABLES["cache_entries"]
uploads = _TABLES["uploads"]
api_tokens = _TABLES["api_tokens"]
performance_windows = _TABLES["performance_windows"]
controls = _TABLES["controls"]
