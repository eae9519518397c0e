"""Print transcode.yaml as JSON for Prefect, with the image that is given."""

import json
import sys
from pathlib import Path

import yaml

if __name__ == "__main__":
    template = yaml.safe_load(Path(__file__).with_name("transcode.yaml").read_text())
    template["variables"]["properties"]["image"]["default"] = sys.argv[1]
    json.dump(template, sys.stdout)
