"""Several processes that train one run: collectives, launch, heartbeat, devices."""
