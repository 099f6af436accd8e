"""Prints what pip has to install for the parts of Home Assistant that the suite uses.

Home Assistant would install that at its first start, each time in another directory. Its own lists say what it is:
each part's manifest.json has its requirements and the parts that it depends on.
"""

import json
import pathlib

import homeassistant

USED = "mqtt automation http frontend binary_sensor button camera number select sensor switch".split()

home = pathlib.Path(homeassistant.__file__).parent
requirements, seen, waiting = set(), set(), list(USED)
while waiting:
    part = waiting.pop()
    if part in seen:
        continue
    seen.add(part)
    manifest = json.loads((home / "components" / part / "manifest.json").read_text())
    requirements.update(manifest.get("requirements", []))
    waiting += manifest.get("dependencies", [])

print("--constraint", home / "package_constraints.txt", *sorted(requirements))
