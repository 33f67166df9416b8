"""Measure parameters and FLOPs of kdbench's image networks into kdbench/models/costs.json."""

import json
from dataclasses import asdict

from kdbench.models.configurations import vision_names
from kdbench.models.flops import COSTS, measure_cost
from kdbench.models.names import available

names = [name for name in available() if name in set(vision_names())]
costs = {name: asdict(measure_cost(name)) for name in names}
COSTS.write_text(json.dumps(costs, indent=1) + "\n")
