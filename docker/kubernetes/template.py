"""Print transcode.yaml as JSON for Prefect."""

import json
import sys
from pathlib import Path

import yaml

if __name__ == "__main__":
    json.dump(yaml.safe_load(Path(__file__).with_name("transcode.yaml").read_text()), sys.stdout)
